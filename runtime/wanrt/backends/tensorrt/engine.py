"""The TensorRT backend: a plan, its weights and its I/O on a GPU, by TensorRT or TensorRT-RTX.

It follows the libraries' documentation and runs in tests against a fake of them, not on a GPU yet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from wanrt.backends.tensorrt.check import check_contents
from wanrt.backends.tensorrt.context import Execution
from wanrt.backends.tensorrt.cuda import Cuda
from wanrt.backends.tensorrt.io import TrtIo
from wanrt.backends.tensorrt.library import fail, open_plan
from wanrt.backends.tensorrt.memory import Blocks, Scratch
from wanrt.backends.tensorrt.swap import MergedAdapter, PaddedAdapter, Swapper
from wanrt.backends.tensorrt.weights import MISMATCH, REBUILD, MappedFiles, Refit, Value
from wanrt.engine.context import check_split
from wanrt.engine.engine import Engine
from wanrt.engine.exclusive import InUse, exclusive
from wanrt.engine.stack import AdapterArgument, Stack, read_stack
from wanrt.errors import EngineError
from wanrt.manifest.plan import PlanFile
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import Array

__all__ = ["TrtEngine"]


class TrtEngine(Engine):
    """An engine folder's plan on the current GPU.

    Everything is enqueued on one stream, the caller's if there is one. `forward`, `time_forward`,
    `bind` and `swap` return once it is done.
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
    ) -> None:
        """Load the engine.

        Args:
            folder: the engine's, checked by `wanrt.backends.load.check_engine`.
            manifest: what engine.json says.
            cuda: the GPU's runtime.
            workload: accept this workload's shapes only.
            stream: a CUDA stream to enqueue everything on, as an integer; by default an own one.
            weight_streaming: bytes of weights that may stay on the device; the others are streamed.
            cuda_graph: run as a CUDA graph.
            scratch: activation memory to share with engines that never run at the same time.

        Raises:
            EngineError: TensorRT refuses the plan, it isn't the manifest's, or memory is short.
        """
        plan = manifest.forward.plan
        assert plan is not None
        _check_options(folder, plan, stream, weight_streaming, cuda_graph)
        self._folder = folder
        self._in_use = InUse()
        self._manifest = manifest
        self._plan = plan
        self._cuda = cuda
        self._streamed = weight_streaming is not None
        pinned = manifest.workloads[workload].shapes if workload else {}
        inputs = manifest.forward.inputs
        self._adapter = [spec for spec in inputs if spec.role != "data"]
        self._bound = False
        self._enqueue_s: float | None = None
        self._swapper: Swapper | None = None
        self._loaded = Stack()
        with ExitStack() as stack:
            self._stream = cuda.create_stream() if stream is None else stream
            if stream is None:
                stack.callback(cuda.destroy_stream, self._stream)
            self._blocks = Blocks(cuda)
            stack.callback(self._blocks.close)
            self._start = cuda.create_event()
            stack.callback(cuda.destroy_event, self._start)
            self._end = cuda.create_event()
            stack.callback(cuda.destroy_event, self._end)
            self._scratch = (scratch or Scratch()).join(cuda)
            stack.callback(self._scratch.leave)
            self._io = TrtIo(folder, manifest, pinned, cuda, self._stream, self._blocks)
            self._execution = self._load(stack, weight_streaming, cuda_graph)
            stack.callback(cuda.synchronize, self._stream)
            self._stack: ExitStack | None = stack.pop_all()

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""
        return self._manifest

    @property
    def timed(self) -> str:
        """What `time_forward` measures, in one sentence."""
        how = "the launch of a CUDA graph" if self._open().captures else "enqueueing"
        weights = ", weights streamed" if self._streamed else ""
        return f"CUDA events around {how}, inputs and outputs on the device{weights}"

    @property
    def enqueue_s(self) -> float | None:
        """The host's seconds of the last timed forward until all of it was enqueued."""
        return self._enqueue_s

    @exclusive
    def bind(self, /, *, context: object = None, **inputs: object) -> None:
        """Check the data inputs and make them resident for `time_forward`.

        A contiguous tensor on the GPU is read in place and stays referenced; another is
        copied to the GPU once.

        Raises:
            EngineError: an input is missing, unknown, of another dtype, or of shapes that aren't a
                workload's.
        """
        execution = self._open()
        if context is not None:
            check_split(self._manifest)
        feed = self._io.check(inputs)
        self._bound = False
        self._io.place(execution, feed)
        self._bound = True

    @exclusive
    def forward(self, /, *, context: object = None, **inputs: object) -> dict[str, Array]:
        """Run one forward on arrays or anything with DLPack; the outputs are the caller's own."""
        self.bind(context=context, **inputs)
        self._check_whole()
        self._open().run()
        return self._io.read_outputs()

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
        swapper = self._open_swapper()
        stack = read_stack(adapter, self._folder, self._manifest)
        self._forget_weights()
        swapper.load(stack)
        self._loaded = stack

    @exclusive
    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Change the strengths of the loaded adapters, in the order of the last swap.

        A swappable engine's A and B, and its CUDA graphs, stay; a merged one merges again.

        Raises:
            AdapterError: their number is another, or one isn't finite or makes values overflow.
            EngineError: as `swap`.
        """
        swapper = self._open_swapper()
        stack = self._loaded.with_strengths(strengths)
        self._forget_weights()
        swapper.set_strengths(stack)
        self._loaded = stack

    @exclusive
    def time_forward(self) -> float:
        """Run one forward on the bound inputs and return its seconds; `timed` says what counts."""
        execution = self._open()
        if not self._bound:
            raise EngineError("no inputs are bound", "call bind(...) or forward(...) first")
        self._check_whole()
        execution.make_ready()
        self._cuda.record(self._start, self._stream)
        start = time.perf_counter()
        execution.run()
        self._enqueue_s = time.perf_counter() - start
        self._cuda.record(self._end, self._stream)
        return self._cuda.elapsed_s(self._start, self._end)

    @exclusive
    def close(self) -> None:
        """Free the engine's memory; a second call does nothing."""
        stack, self._stack = self._stack, None
        if stack is not None:
            self._bound = False
            self._io.close()
            stack.close()

    def _open_swapper(self) -> Swapper:
        self._open()
        if self._swapper is None:
            manifest = self._manifest
            refit = f" of refit {self._plan.refit}" if manifest.mode == "merged" else ""
            raise EngineError(
                f"{self._folder} is a {manifest.mode} engine{refit}, its adapter is fixed",
                "build one that can swap: wanexport build --mode swappable --rank 32",
            )
        return self._swapper

    def _forget_weights(self) -> None:
        if self._plan.swap is not None:
            self._open().forget()  # a graph may hold copies of small weights

    def _open(self) -> Execution:
        if self._stack is None:
            raise EngineError(f"{self._folder}: the engine is closed")
        return self._execution

    def _check_whole(self) -> None:
        if self._swapper is not None and self._swapper.needs_reload:
            raise EngineError(
                f"{self._folder}: a swap failed halfway and couldn't be undone",
                "swap again, or load the engine again",
            )

    def _load(self, stack: ExitStack, streaming: int | None, graphs: bool) -> Execution:
        """Deserialize the plan, give it its weights, and make it ready for inputs."""
        plan, name = self._plan, str(self._folder)
        engine = open_plan(self._folder / plan.file, host_code=plan.version_compatible)
        check_contents(self._folder, self._manifest, plan, engine)
        if streaming is not None:
            engine.weight_streaming_budget_v2 = streaming
            if engine.weight_streaming_budget_v2 > streaming:
                raise fail(f"{name}: TensorRT can't stream weights within {streaming:,} bytes")
        files = MappedFiles(self._folder)
        stack.callback(files.close)
        refit = None
        if plan.weights:
            refit = Refit(name, engine, self._stream)
            stack.callback(refit.close)
            names = refit.missing()
            if plan.refit != "none":  # a plan that others share may hold another's values
                names += [one for one in refit.replaceable() if one in plan.weights]
            refit.apply(names, lambda one: self._own_value(files, one))
            self._cuda.synchronize(self._stream)
        execution = Execution(
            name,
            engine,
            self._cuda,
            self._stream,
            self._scratch,
            graphs=graphs and streaming is None,
        )
        stack.callback(execution.close)
        if self._adapter:
            padded = PaddedAdapter(self._adapter, self._cuda, self._stream, self._blocks)
            padded.load(Stack())
            for key, address in padded.addresses.items():
                execution.place(key, address)
            self._swapper = padded
        elif plan.swap is not None and refit is not None:
            self._swapper = MergedAdapter(
                self._folder,
                plan.swap,
                plan.weights,
                refit,
                files,
                self._cuda,
                self._stream,
                self._scratch,
                host_code=plan.version_compatible,
            )
            stack.callback(self._swapper.close)
        return execution

    def _own_value(self, files: MappedFiles, name: str) -> Value:
        if name not in self._plan.weights:
            raise EngineError(
                f"{self._folder}: {MISMATCH}: the plan wants weights {name!r}, "
                "engine.json has none of that name",
                REBUILD,
            )
        return files.value(self._plan.weights[name])


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
