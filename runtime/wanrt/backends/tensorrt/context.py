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
    for capturing the next one.
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
        self._graph: int | None = None
        self._warm = False

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

    def run(self) -> None:
        """Enqueue one run, from the second one on as a graph."""
        self._settle()
        if self._graph is None and self._warm and self.captures:
            self._graph = self._capture()
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
            self._warm = True

    def make_ready(self) -> None:
        """Do now what the next run would do first: warm up, capture."""
        self._settle()
        if not self._warm:
            self._enqueue()
            self._warm = True
        if self._graph is None and self.captures:
            self._graph = self._capture()

    def forget(self) -> None:
        """Drop the graph: something that it was captured with has changed."""
        self._warm = False
        if self._graph is not None:
            graph, self._graph = self._graph, None
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
