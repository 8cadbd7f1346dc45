"""One graph of an engine as its plan in memory: its weights, adapter, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wanrt.backends.tensorrt.check import check_contents
from wanrt.backends.tensorrt.context import Execution
from wanrt.backends.tensorrt.cuda import Cuda
from wanrt.backends.tensorrt.io import TrtIo
from wanrt.backends.tensorrt.library import fail, open_plan
from wanrt.backends.tensorrt.memory import Blocks, Scratch
from wanrt.backends.tensorrt.swap import MergedAdapter, PaddedAdapter, Swapper
from wanrt.backends.tensorrt.weights import MISMATCH, REBUILD, MappedFiles, Refit, Value
from wanrt.engine.stack import Stack
from wanrt.errors import EngineError
from wanrt.manifest.schema import Graph, Manifest

__all__ = ["Device", "LoadedGraph"]


@dataclass(frozen=True)
class Device:
    """Where the graphs of an engine run, one at a time.

    Args:
        cuda: the GPU's runtime.
        stream: what everything is enqueued on.
        scratch: the activations' memory.
    """

    cuda: Cuda
    stream: int
    scratch: Scratch


class LoadedGraph:
    """A plan with its weights, ready for inputs; `close` takes all of it off the device.

    Args:
        folder: the engine's.
        manifest: what engine.json says.
        graph: the manifest's graph.
        device: where it runs.
        pinned: the only shapes that data inputs may have; empty: any workload's.
        streaming: bytes of weights that may stay on the device; the others are streamed.
        cuda_graph: run as a CUDA graph from the second run on.

    Raises:
        EngineError: TensorRT refuses the plan, it isn't the manifest's, or memory is short.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        graph: Graph,
        device: Device,
        pinned: Mapping[str, tuple[int, ...]],
        *,
        streaming: int | None,
        cuda_graph: bool,
    ) -> None:
        assert graph.plan is not None
        self.plan = graph.plan
        self.swapper: Swapper | None = None
        self._folder, self._graph, self._device = folder, graph, device
        with ExitStack() as stack:
            blocks = Blocks(device.cuda)
            stack.callback(blocks.close)
            self.io = TrtIo(folder, manifest, graph, pinned, device.cuda, device.stream, blocks)
            stack.callback(self.io.close)
            self.execution = self._load(stack, manifest, blocks, streaming, cuda_graph)
            stack.callback(device.cuda.synchronize, device.stream)
            self._stack = stack.pop_all()

    def forget_weights(self) -> None:
        """Drop CUDA graphs if weights are about to change: they may hold copies of small ones."""
        if self.plan.swap is not None:
            self.execution.forget()

    def close(self) -> None:
        """Free what it takes; a second call does nothing."""
        self._stack.close()

    def _load(
        self,
        stack: ExitStack,
        manifest: Manifest,
        blocks: Blocks,
        streaming: int | None,
        cuda_graph: bool,
    ) -> Execution:
        """Deserialize the plan, give it its weights, and make it ready for inputs."""
        plan, name, device = self.plan, str(self._folder), self._device
        engine = open_plan(self._folder / plan.file, host_code=plan.version_compatible)
        check_contents(self._folder, manifest, self._graph, engine)
        if streaming is not None:
            engine.weight_streaming_budget_v2 = streaming
            if engine.weight_streaming_budget_v2 > streaming:
                raise fail(f"{name}: TensorRT can't stream weights within {streaming:,} bytes")
        files = MappedFiles(self._folder)
        stack.callback(files.close)
        refit = None
        if plan.weights:
            refit = Refit(name, engine, device.stream)
            stack.callback(refit.close)
            names = refit.missing()
            if plan.refit != "none":  # a plan that others share may hold another's values
                names += [one for one in refit.replaceable() if one in plan.weights]
            refit.apply(names, lambda one: self._own_value(files, one))
            device.cuda.synchronize(device.stream)
        execution = Execution(
            name,
            engine,
            device.cuda,
            device.stream,
            device.scratch,
            graphs=cuda_graph and streaming is None,
        )
        stack.callback(execution.close)
        adapter = [spec for spec in self._graph.inputs if spec.role not in ("data", "context")]
        if adapter:
            padded = PaddedAdapter(adapter, device.cuda, device.stream, blocks)
            padded.load(Stack())
            for key, address in padded.addresses.items():
                execution.place(key, address)
            self.swapper = padded
        elif plan.swap is not None and refit is not None:
            self.swapper = MergedAdapter(
                self._folder,
                plan.swap,
                plan.weights,
                refit,
                files,
                device.cuda,
                device.stream,
                device.scratch,
                host_code=plan.version_compatible,
            )
            stack.callback(self.swapper.close)
        return execution

    def _own_value(self, files: MappedFiles, name: str) -> Value:
        if name not in self.plan.weights:
            raise EngineError(
                f"{self._folder}: {MISMATCH}: the plan wants weights {name!r}, "
                "engine.json has none of that name",
                REBUILD,
            )
        return files.value(self.plan.weights[name])
