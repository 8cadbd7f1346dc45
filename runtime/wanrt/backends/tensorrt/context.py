"""A plan's execution context: its profile, addresses and memory, and the CUDA graph of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wanrt.backends.tensorrt import api as trt
from wanrt.backends.tensorrt.cuda import Cuda
from wanrt.backends.tensorrt.library import fail, sizes
from wanrt.backends.tensorrt.memory import Scratch
from wanrt.errors import EngineError

__all__ = ["Execution"]


class Execution:
    """What enqueues a plan on a stream: as it is, or from its second run on as one CUDA graph.

    A graph has the addresses, shapes and weights of when it was captured, so that any change of
    them drops it; the first run afterwards is enqueued plainly, which is TensorRT's own condition
    for capturing the next one. Contexts of a prompt are the exception: runs with another one are
    another graph, and switching between them drops none.
    """

    def __init__(
        self,
        name: str,
        engine: trt.ICudaEngine,
        cuda: Cuda,
        stream: int,
        scratch: Scratch,
        *,
        graphs: bool,
    ) -> None:
        self._name = name
        self._engine: trt.ICudaEngine | None = engine
        self._cuda = cuda
        self._stream = stream
        self._scratch = scratch
        self._graphs = graphs
        self._context: trt.IExecutionContext | None = _create(name, engine)
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = 0
        self._number = 0  # of the context that is read
        self._captured: dict[int, int] = {}
        self._warm: set[int] = set()

    @property
    def captures(self) -> bool:
        """Whether runs become CUDA graphs; TensorRT-RTX says which plans can't."""
        check = getattr(self._open(), "is_stream_capturable", None)
        return self._graphs and (check is None or bool(check(self._stream)))

    def shape(self, profile: int, inputs: Mapping[str, tuple[int, ...]]) -> None:
        """Select an optimization profile and the shapes of the inputs.

        Raises:
            EngineError: TensorRT refuses them.
        """
        context = self._open()
        changed = profile != self._profile or any(
            self._shapes.get(name) != shape for name, shape in inputs.items()
        )
        if not changed:
            return
        self.forget()
        self._shapes.clear()
        if profile != self._profile:
            if not context.set_optimization_profile_async(profile, self._stream):
                raise fail(f"{self._name}: TensorRT refuses profile {profile}")
            self._profile = profile
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise fail(f"{self._name}: TensorRT refuses the shape of {name}")
        assert self._engine is not None
        self._scratch.reserve(self._engine.get_device_memory_size_for_profile_v2(profile))
        self._memory = 0
        self._shapes.update(inputs)

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Return an output's shape; -1 is a size that only running finds out."""
        return sizes(self._open().get_tensor_shape(name))

    def place(self, name: str, address: int) -> None:
        """Set the address of an input or output, aligned to `ALIGNMENT` bytes."""
        if self._addresses.get(name) == address:
            return
        self.forget()
        if not self._open().set_tensor_address(name, address):
            raise fail(f"{self._name}: TensorRT refuses the address of {name}")
        self._addresses[name] = address

    def switch(self, number: int, addresses: Mapping[str, int]) -> None:
        """Read a context from now on; `number` tells it from all others, and is 0 without one."""
        if number == self._number:
            return
        self._number = -1  # until all of it is set
        for name, address in addresses.items():
            if not self._open().set_tensor_address(name, address):
                raise fail(f"{self._name}: TensorRT refuses the address of {name}")
        self._number = number

    def run(self) -> None:
        """Enqueue one run, from the second one on as a graph."""
        self._settle()
        number = self._number
        if number not in self._captured and number in self._warm and self.captures:
            self._captured[number] = self._capture()
        if number in self._captured:
            self._cuda.launch(self._captured[number], self._stream)
        else:
            self._enqueue()

    def make_ready(self) -> None:
        """Do now what the next run would do first: warm up, capture."""
        self._settle()
        if self._number not in self._warm:
            self._enqueue()
        if self._number not in self._captured and self.captures:
            self._captured[self._number] = self._capture()

    def forget(self) -> None:
        """Drop all graphs: something that they were captured with has changed."""
        self._warm.clear()
        for number in list(self._captured):
            self.drop(number)

    def drop(self, number: int) -> None:
        """Drop the graph of a context that is used no more."""
        self._warm.discard(number)
        graph = self._captured.pop(number, None)
        if graph is not None:
            self._cuda.synchronize(self._stream)
            self._cuda.destroy_graph(graph)

    def close(self) -> None:
        """Free the context and its graph; the shared memory block stays."""
        self.forget()
        self._context = None
        self._engine = None

    def _open(self) -> trt.IExecutionContext:
        assert self._context is not None
        return self._context

    def _settle(self) -> None:
        """Run in the shared block at its present address."""
        address = self._scratch.address
        if address != self._memory:
            self.forget()
            self._open().set_device_memory(address, self._scratch.size)
            self._memory = address

    def _enqueue(self) -> None:
        if not self._open().execute_async_v3(self._stream):
            raise fail(f"{self._name}: TensorRT can't run the plan")
        self._warm.add(self._number)

    def _capture(self) -> int:
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue()
            return self._cuda.end_capture(self._stream)
        except EngineError as error:
            self._cuda.abandon_capture(self._stream)
            hint = "run it without one: wanrt bench --no-cuda-graph, load_engine(cuda_graph=False)"
            raise EngineError(f"as a CUDA graph, {error}", hint) from error
        except BaseException:
            self._cuda.abandon_capture(self._stream)
            raise


def _create(name: str, engine: trt.ICudaEngine) -> trt.IExecutionContext:
    """Create a context whose memory is ours to give."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    kinds = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if kinds is None:
        context = engine.create_execution_context(strategy)
    else:
        # TensorRT-RTX compiles kernels here; by default while it already runs slower ones, which
        # a graph would keep and a bench would time
        config: Any = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
        context = engine.create_execution_context(config)
    if context is None:
        raise fail(f"{name}: TensorRT can't make an execution context")
    return context
