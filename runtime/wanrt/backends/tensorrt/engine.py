"""The TensorRT backend: an engine's plans and their I/O on a GPU, by TensorRT or TensorRT-RTX.

It follows the libraries' documentation and runs in tests against a fake of them, not on a GPU yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from wanrt.backends.tensorrt.contexts import HeldContexts
from wanrt.backends.tensorrt.cuda import Cuda
from wanrt.backends.tensorrt.graph import Device, LoadedGraph
from wanrt.backends.tensorrt.memory import Blocks, Scratch
from wanrt.backends.tensorrt.swap import Swapper
from wanrt.engine.context import Context, Generations, as_context, check_split, part_inputs
from wanrt.engine.engine import Engine
from wanrt.engine.exclusive import InUse, exclusive
from wanrt.engine.stack import AdapterArgument, Stack, read_stack
from wanrt.errors import EngineError
from wanrt.manifest.plan import PlanFile
from wanrt.manifest.schema import Graph, Manifest
from wanrt.storage.dtypes import Array

__all__ = ["TrtEngine"]


class TrtEngine(Engine):
    """An engine folder's plans on the current GPU: one, or `context` and `denoise`.

    Everything is enqueued on one stream, the caller's if there is one. `forward`, `time_forward`,
    `prepare`, `bind` and `swap` return once it is done. The context's plan is loaded when it is
    first needed, and closed after use unless it is kept, so that its weights leave the device.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        cuda: Cuda,
        *,
        workload: str | None = None,
        stream: int | None = None,
        weight_streaming: int | None = None,
        cuda_graph: bool = True,
        scratch: Scratch | None = None,
        keep_context: bool = False,
    ) -> None:
        """Load the engine.

        Args:
            folder: the engine's, checked by `wanrt.backends.load.check_engine`.
            manifest: what engine.json says.
            cuda: the GPU's runtime.
            workload: accept this workload's shapes only.
            stream: a CUDA stream to enqueue everything on, as an integer; by default an own one.
            weight_streaming: bytes of weights that may stay on the device, of each plan; the others
                are streamed.
            cuda_graph: run as a CUDA graph; of a split engine one for each context in use.
            scratch: activation memory to share with engines that never run at the same time.
            keep_context: keep a split engine's context plan loaded after use.

        Raises:
            EngineError: TensorRT refuses the plan, it isn't the manifest's, or memory is short.
        """
        plan = manifest.forward.plan
        assert plan is not None
        _check_options(folder, plan, stream, weight_streaming, cuda_graph)
        self._folder = folder
        self._in_use = InUse()
        self._manifest = manifest
        self._cuda = cuda
        self._streaming = weight_streaming
        self._cuda_graph = cuda_graph
        self._keep_context = keep_context
        self._pinned = manifest.workloads[workload].shapes if workload else {}
        self._bound = False
        self._enqueue_s: float | None = None
        self._loaded = Stack()
        self._owner = object()
        self._generations = Generations(manifest)
        self._contexts = HeldContexts()
        self._own_context: Context | None = None
        self._context: LoadedGraph | None = None
        with ExitStack() as stack:
            own_stream = cuda.create_stream() if stream is None else stream
            if stream is None:
                stack.callback(cuda.destroy_stream, own_stream)
            self._start = cuda.create_event()
            stack.callback(cuda.destroy_event, self._start)
            self._end = cuda.create_event()
            stack.callback(cuda.destroy_event, self._end)
            shared = (scratch or Scratch()).join(cuda)
            stack.callback(shared.leave)
            self._device = Device(cuda, own_stream, shared)
            stack.callback(self._contexts.close)
            self._forward = self._load(manifest.forward, cuda_graph=cuda_graph)
            stack.callback(self._forward.close)
            stack.callback(self._close_context)
            self._stack: ExitStack | None = stack.pop_all()

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""
        return self._manifest

    @property
    def timed(self) -> str:
        """What `time_forward` measures, in one sentence."""
        captures = self._open().execution.captures
        how = "the launch of a CUDA graph" if captures else "enqueueing"
        weights = ", weights streamed" if self._streaming is not None else ""
        return f"CUDA events around {how}, inputs and outputs on the device{weights}"

    @property
    def enqueue_s(self) -> float | None:
        """The host's seconds of the last timed forward until all of it was enqueued."""
        return self._enqueue_s

    @property
    def context_s(self) -> float | None:
        """What preparing the bound context took, with loading its plan where that was due."""
        return None if self._own_context is None else self._own_context.seconds

    @exclusive
    def prepare(self, /, **inputs: object) -> Context:
        """Compute what the prompt and the image alone decide, for any number of forwards.

        The context's values stay on the device. Its memory is free again at the engine's next call
        after the last reference to it is gone, or when the engine is closed.

        Args:
            inputs: the context graph's data inputs.

        Raises:
            EngineError: the engine has one graph; an input is missing, unknown, or of another
                dtype or shape; memory is short.
        """
        self._open()
        check_split(self._manifest)
        self._sweep()
        start = time.perf_counter()
        graph = self._open_context()
        blocks = Blocks(self._cuda)
        try:
            graph.io.place(graph.execution, graph.io.check(inputs), blocks)
            graph.execution.run()
            self._cuda.synchronize(self._device.stream)
            values = dict(graph.io.outputs)
        except BaseException:
            blocks.close()
            raise
        finally:
            if not self._keep_context:
                self._close_context()
        context = Context(
            values=values,
            nbytes=sum(value.nbytes for value in values.values()),
            seconds=time.perf_counter() - start,
            generation=self._generations.current,
            owner=self._owner,
        )
        self._contexts.hold(context, blocks)
        return context

    @exclusive
    def bind(self, /, *, context: object = None, **inputs: object) -> None:
        """Check the data inputs and make them resident for `time_forward`.

        A contiguous tensor on the GPU is read in place and stays referenced; another is
        copied to the GPU once.

        Args:
            context: what `prepare` returned, for a split engine; without one the prompt's and the
                image's inputs are given, and one is prepared from them here.
            inputs: the data inputs; with a context, those of the denoise graph.

        Raises:
            EngineError: an input is missing, unknown, of another dtype, or of shapes that aren't a
                workload's; the context is stale or another engine's.
        """
        forward = self._open()
        held = as_context(context)
        if held is not None:
            check_split(self._manifest)
            self._generations.check(held, self._owner)
        elif self._manifest.is_split:
            of_context, inputs = part_inputs(self._manifest, inputs)
            self._bound, self._own_context = False, None  # whose memory the next one may need
            held = self.prepare(**of_context)
        feed = forward.io.check(inputs, None if held is None else held.values)
        number = 0 if held is None else self._contexts.number(held)
        self._bound, self._own_context = False, held
        self._sweep()
        forward.io.place(forward.execution, feed, number=number)
        self._bound = True

    @exclusive
    def forward(self, /, *, context: object = None, **inputs: object) -> dict[str, Array]:
        """Run one forward on arrays or anything with DLPack; the outputs are the caller's own.

        `context` is as for `bind`.
        """
        self.bind(context=context, **inputs)
        forward = self._open()
        self._check_whole()
        forward.execution.run()
        return forward.io.read_outputs()

    @exclusive
    def swap(self, adapter: AdapterArgument) -> None:
        """Load canonical adapters in place; None goes back to what the engine was built with.

        Args:
            adapter: one file, at strength 1, or (file, strength) of each.

        Raises:
            AdapterError: not canonical adapters for this engine, or their ranks are too many; what
                was loaded before stays.
            EngineError: the engine can't swap, or the GPU failed; the one before stays, unless
                putting it back failed as well: then a forward says so.
        """
        self._check_swaps()
        stack = read_stack(adapter, self._folder, self._manifest)
        self._change(stack, lambda swapper: swapper.load(stack))

    @exclusive
    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Change the strengths of the loaded adapters, in the order of the last swap.

        A swappable engine's A and B, and its CUDA graphs, stay; a merged one merges again.

        Raises:
            AdapterError: their number is another, or one isn't finite or makes values overflow.
            EngineError: as `swap`.
        """
        self._check_swaps()
        stack = self._loaded.with_strengths(strengths)
        self._change(stack, lambda swapper: swapper.set_strengths(stack))

    @exclusive
    def time_forward(self) -> float:
        """Run one forward on the bound inputs and return its seconds; `timed` says what counts."""
        execution = self._open().execution
        if not self._bound:
            raise EngineError("no inputs are bound", "call bind(...) or forward(...) first")
        self._check_whole()
        execution.make_ready()
        self._cuda.record(self._start, self._device.stream)
        start = time.perf_counter()
        execution.run()
        self._enqueue_s = time.perf_counter() - start
        self._cuda.record(self._end, self._device.stream)
        return self._cuda.elapsed_s(self._start, self._end)

    @exclusive
    def close(self) -> None:
        """Free the engine's memory; a second call does nothing."""
        stack, self._stack = self._stack, None
        if stack is not None:
            self._bound, self._own_context = False, None
            stack.close()

    def _change(self, stack: Stack, change: Callable[[Swapper], None]) -> None:
        """Put adapters into both graphs; if that fails, those before stay in both."""
        try:
            for graph in (self._context, self._forward):
                if graph is not None and graph.swapper is not None:
                    graph.forget_weights()
                    change(graph.swapper)
        except BaseException:
            self._close_context()  # it gets what is loaded when it is opened again
            raise
        self._generations.change(self._loaded, stack)
        self._loaded = stack

    def _check_swaps(self) -> None:
        self._open()
        manifest, plan = self._manifest, self._manifest.forward.plan
        if not manifest.adapter_inputs:
            refit = f" of refit {plan.refit}" if plan and manifest.mode == "merged" else ""
            raise EngineError(
                f"{self._folder} is a {manifest.mode} engine{refit}, its adapter is fixed",
                "build one that can swap: wanexport build --mode swappable --rank 32",
            )

    def _open(self) -> LoadedGraph:
        if self._stack is None:
            raise EngineError(f"{self._folder}: the engine is closed")
        return self._forward

    def _open_context(self) -> LoadedGraph:
        if self._context is None:
            graph = self._load(self._manifest.graphs["context"], cuda_graph=False)
            self._context = graph
            if self._loaded.adapters and graph.swapper is not None:
                try:
                    graph.swapper.load(self._loaded)
                except BaseException:
                    self._close_context()
                    raise
        return self._context

    def _close_context(self) -> None:
        graph, self._context = self._context, None
        if graph is not None:
            graph.close()

    def _sweep(self) -> None:
        """Free what contexts have left behind."""
        for number in self._contexts.sweep():
            self._forward.execution.drop(number)

    def _check_whole(self) -> None:
        swapper = self._forward.swapper
        if swapper is not None and swapper.needs_reload:
            raise EngineError(
                f"{self._folder}: a swap failed halfway and couldn't be undone",
                "swap again, or load the engine again",
            )

    def _load(self, graph: Graph, *, cuda_graph: bool) -> LoadedGraph:
        return LoadedGraph(
            self._folder,
            self._manifest,
            graph,
            self._device,
            self._pinned,
            streaming=self._streaming,
            cuda_graph=cuda_graph,
        )


def _check_options(
    folder: Path, plan: PlanFile, stream: int | None, streaming: int | None, graphs: bool
) -> None:
    if streaming is not None and not plan.weight_streaming:
        raise EngineError(
            f"{folder}: its plan wasn't built to stream weights",
            "build it with --allow-weight-streaming",
        )
    if streaming is not None and streaming < 0:
        raise EngineError(f"the weight-streaming budget is negative: {streaming} bytes")
    if stream == 0 and graphs and streaming is None:
        raise EngineError(
            "CUDA's default stream can't be captured as a graph",
            "give another stream, or cuda_graph=False",
        )
