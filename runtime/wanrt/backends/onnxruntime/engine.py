"""The ONNX Runtime backend: a session per graph, its I/O bound once, on a CPU or a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wanrt.backends.onnxruntime.graph import BoundGraph, SessionSettings
from wanrt.backends.onnxruntime.session import wrap_array
from wanrt.engine.context import Context, Generations, as_context, check_split, part_inputs
from wanrt.engine.engine import Engine
from wanrt.engine.exclusive import InUse, exclusive
from wanrt.engine.feeds import check_names
from wanrt.engine.stack import AdapterArgument, Stack, read_stack
from wanrt.engine.tensors import match_shape
from wanrt.errors import EngineError
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import Array

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["OrtEngine"]


class OrtEngine(Engine):
    """An engine folder in ONNX Runtime sessions: one graph, or `context` and `denoise`.

    The context's session is opened when it is first needed. Unless it is kept, it is closed after
    use, so that its weights, which no forward reads, leave the device.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, settings: SessionSettings, workload: str | None
    ) -> None:
        self._manifest = manifest
        self._folder = folder
        self._in_use = InUse()
        self._settings = settings
        self._shapes = manifest.workloads[workload].shapes if workload else {}
        self._adapter_names = {s.name for g in manifest.graphs.values() for s in g.inputs} - {
            spec.name for spec in manifest.data_inputs
        }
        self._loaded = Stack()
        self._bound = False
        self._owner = object()
        self._generations = Generations(manifest)
        self._context: BoundGraph | None = None
        self._own_context: Context | None = None
        self._forward: BoundGraph | None = BoundGraph(folder, manifest.forward, settings)

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""
        return self._manifest

    @property
    def timed(self) -> str:
        """What `time_forward` measures, in one sentence."""
        if self._settings.device == "cpu":
            return "run_with_iobinding, inputs and outputs resident, host clock"
        return "run_with_iobinding until synchronized, inputs and outputs on device, host clock"

    @property
    def enqueue_s(self) -> float | None:
        """The host's seconds of the last timed forward until a device had all of it."""
        return None if self._forward is None else self._forward.enqueue_s

    @property
    def context_s(self) -> float | None:
        """What preparing the bound context took, with loading its graph where that was due."""
        return None if self._own_context is None else self._own_context.seconds

    @exclusive
    def prepare(self, /, **inputs: object) -> Context:
        """Compute what the prompt and the image alone decide, for any number of forwards.

        Args:
            inputs: the context graph's data inputs.

        Raises:
            EngineError: the engine has one graph; an input is missing, unknown, or of another
                dtype or shape.
        """
        self._open()
        check_split(self._manifest)
        graph = self._manifest.graphs["context"]
        data = [spec.name for spec in graph.inputs if spec.role == "data"]
        check_names(inputs, data, self._adapter_names)
        start = time.perf_counter()
        context = self._open_context()
        symbols: dict[str, int] = {}
        context.bind(context.check(inputs, symbols, self._shapes), symbols)
        values = context.run()
        seconds = time.perf_counter() - start
        if not self._settings.keep_context:
            self._context = None
        return Context(
            values={name: wrap_array(value) for name, value in values.items()},
            nbytes=sum(value.nbytes for value in values.values()),
            seconds=seconds,
            generation=self._generations.current,
            owner=self._owner,
        )

    @exclusive
    def bind(self, /, *, context: object = None, **inputs: object) -> None:
        """Check the data inputs and make them resident for `time_forward`.

        Args:
            context: what `prepare` returned, for a split engine; without one the prompt's and the
                image's inputs are given, and one is prepared from them here.
            inputs: the data inputs; with a context, those of the denoise graph.

        Raises:
            EngineError: an input is missing, unknown, or of another dtype or shape; the context is
                stale or another engine's.
        """
        forward = self._open()
        held = as_context(context)
        if held is not None:
            check_split(self._manifest)
        if held is None and self._manifest.is_split:
            of_context, inputs = part_inputs(self._manifest, inputs)
            held = self.prepare(**of_context)
        check_names(inputs, forward.data, self._adapter_names)
        values: dict[str, ort.OrtValue] = {}
        symbols: dict[str, int] = {}
        if held is not None:
            self._generations.check(held, self._owner)
            values |= held.values
        values |= forward.check(inputs, symbols, self._shapes)
        for name, spec in forward.context.items():
            match_shape(spec, tuple(values[name].shape()), symbols)
        forward.bind(values, symbols)
        self._own_context = held
        self._bound = True

    @exclusive
    def forward(self, /, *, context: object = None, **inputs: object) -> dict[str, Array]:
        """Run one forward on arrays or anything with DLPack; the outputs are the caller's own.

        `context` is as for `bind`.
        """
        self.bind(context=context, **inputs)
        return self._open().run()

    @exclusive
    def swap(self, adapter: AdapterArgument) -> None:
        """Load canonical adapters in place, side by side; None goes back to the base.

        Args:
            adapter: one file, at strength 1, or (file, strength) of each.

        Raises:
            AdapterError: not canonical adapters for this engine, or their ranks are too many; what
                was loaded before stays.
            EngineError: the engine isn't swappable.
        """
        graphs = self._open_swappable()
        stack = read_stack(adapter, self._folder, self._manifest)
        for graph in graphs:
            graph.write_adapter(stack)
        self._change(stack)

    @exclusive
    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Change the strengths of the loaded adapters, in the order of the last swap; A and B stay.

        Raises:
            AdapterError: their number is another, or one isn't finite or makes values overflow.
            EngineError: the engine isn't swappable.
        """
        graphs = self._open_swappable()
        stack = self._loaded.with_strengths(strengths)
        for graph in graphs:
            graph.write_strengths(stack)
        self._change(stack)

    @exclusive
    def time_forward(self) -> float:
        """Run one forward on the bound inputs and return its seconds; `timed` says what counts."""
        forward = self._open()
        if not self._bound:
            raise EngineError("no inputs are bound", "call bind(...) or forward(...) first")
        return forward.time()

    @exclusive
    def end_profile(self) -> Path:
        """Stop profiling, which the engine was opened for, and return the file that it wrote."""
        return self._open().end_profile()

    @exclusive
    def close(self) -> None:
        """Free the engine's memory; a second call does nothing."""
        self._forward = self._context = self._own_context = None

    def _change(self, stack: Stack) -> None:
        self._generations.change(self._loaded, stack)
        self._loaded = stack

    def _open(self) -> BoundGraph:
        if self._forward is None:
            raise EngineError(f"{self._folder}: the engine is closed")
        return self._forward

    def _open_context(self) -> BoundGraph:
        if self._context is None:
            settings = self._settings
            self._context = BoundGraph(self._folder, self._manifest.graphs["context"], settings)
            self._context.write_adapter(self._loaded)
        return self._context

    def _open_swappable(self) -> list[BoundGraph]:
        forward = self._open()
        if not self._manifest.adapter_inputs:
            raise EngineError(
                f"{self._folder} is a {self._manifest.mode} engine, its adapter is fixed",
                "build one that can swap: wanexport build --mode swappable --rank 32",
            )
        return [forward] if self._context is None else [forward, self._context]
