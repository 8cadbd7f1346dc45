"""One ONNX graph of an engine in a session: its inputs and outputs bound, run, timed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wanrt.backends.onnxruntime.session import (
    as_written,
    backend_errors,
    enqueue_options,
    open_session,
    profiling,
    to_ortvalue,
    wrap_array,
)
from wanrt.engine.feeds import check_input
from wanrt.engine.stack import Stack
from wanrt.engine.tensors import resolve_shape, show_shape
from wanrt.errors import EngineError
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.schema import Graph
from wanrt.storage.dtypes import NUMPY, ONNX, Array

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["BoundGraph", "SessionSettings"]


@dataclass(frozen=True)
class SessionSettings:
    """How an engine's sessions are opened; `wanrt.backends.load.load_engine` has the words.

    Args:
        device: cpu or cuda.
        threads: of a session's pool; None: one per usable core.
        mapped: leave weights in the files' pages.
        emulated: open the form of a graph that rounds to bf16 itself.
        static: every forward has the same shapes.
        keep_context: keep a split engine's context graph loaded after use.
        profile: what a profile's file name begins with.
    """

    device: str
    threads: int | None
    mapped: bool
    emulated: bool
    static: bool
    keep_context: bool = True
    profile: Path | None = None


class BoundGraph:
    """A graph in memory. What is bound stays referenced: its memory is read and written in place.

    On a CPU `_timing` and `_reading` are one; elsewhere the first leaves outputs on the device and
    the second fetches them.
    """

    def __init__(self, folder: Path, graph: Graph, settings: SessionSettings) -> None:
        self.data = {spec.name: spec for spec in graph.inputs if spec.role == "data"}
        self.context = {spec.name: spec for spec in graph.inputs if spec.role == "context"}
        self.adapter = {
            spec.name: spec
            for spec in graph.inputs
            if spec.name not in self.data and spec.name not in self.context
        }
        self.enqueue_s: float | None = None
        self._folder, self._graph, self._device = folder, graph, settings.device
        self._buffers = {name: _zeros(spec) for name, spec in self.adapter.items()}
        self._outputs: dict[str, Array | None] = {}
        self._held: dict[str, ort.OrtValue] = {}
        with backend_errors(folder):
            form = graph.emulated if settings.emulated else graph
            assert form is not None  # checked by wanrt.backends.load.check_engine
            options = as_written() if settings.emulated else None
            if settings.profile is not None:
                options = profiling(settings.profile, options)
            self._session = open_session(
                folder / form.file,
                settings.device,
                settings.threads,
                settings.mapped,
                settings.static,
                options,
            )
            self._timing = self._session.io_binding()
            same = settings.device == "cpu"
            self._reading = self._timing if same else self._session.io_binding()
            self._enqueueing = enqueue_options(settings.device)
            for name, buffer in self._buffers.items():
                self._bind_input(name, wrap_array(buffer))

    def check(
        self,
        inputs: Mapping[str, object],
        symbols: dict[str, int],
        workload: Mapping[str, tuple[int, ...]],
    ) -> dict[str, ort.OrtValue]:
        """Check this graph's data inputs and return them as ONNX Runtime's values.

        Raises:
            EngineError: one has another dtype or shape.
        """
        values = {}
        for name, spec in self.data.items():
            values[name] = to_ortvalue(name, inputs[name])
            shape = tuple(values[name].shape())
            check_input(spec, _dtype(values[name]), shape, symbols, workload)
        return values

    def bind(self, values: Mapping[str, ort.OrtValue], symbols: Mapping[str, int]) -> None:
        """Bind inputs, and outputs of the shapes that `symbols` give."""
        with backend_errors(self._folder):
            for name, value in values.items():
                if self._held.get(name) is not value:
                    self._bind_input(name, value)
            self._bind_outputs(symbols)

    def write_adapter(self, stack: Stack) -> None:
        """Write a stack's A, B and strengths into this graph's inputs."""
        for name, spec in self.adapter.items():
            stack.write(spec, self._buffers[name])
        if self._device != "cpu":  # binding is what copies to the device
            with backend_errors(self._folder):
                for name, buffer in self._buffers.items():
                    self._bind_input(name, wrap_array(buffer))

    def write_strengths(self, stack: Stack) -> None:
        """Write a stack's strengths alone."""
        for name, spec in self.adapter.items():
            if spec.role == "strengths":
                stack.write(spec, self._buffers[name])
                if self._device != "cpu":
                    with backend_errors(self._folder):
                        self._bind_input(name, wrap_array(self._buffers[name]))

    def run(self) -> dict[str, Array]:
        """Run what is bound and return copies of the outputs."""
        with backend_errors(self._folder):
            self._reading.synchronize_inputs()
            self._session.run_with_iobinding(self._reading)
            self._reading.synchronize_outputs()
            values = self._reading.get_outputs()
            held = self._outputs.values()
            return {
                name: (value.numpy() if array is None else array).copy()
                for name, array, value in zip(self._outputs, held, values, strict=True)
            }

    def time(self) -> float:
        """Run what is bound and return its seconds."""
        run, binding = self._session.run_with_iobinding, self._timing
        with backend_errors(self._folder):
            binding.synchronize_inputs()
            start = time.perf_counter()
            run(binding, self._enqueueing)
            enqueued = time.perf_counter()
            binding.synchronize_outputs()
            seconds = time.perf_counter() - start
        self.enqueue_s = None if self._enqueueing is None else enqueued - start
        return seconds

    def end_profile(self) -> Path:
        """Stop profiling and return the file that it wrote."""
        with backend_errors(self._folder):
            return Path(self._session.end_profiling())

    def _bind_input(self, name: str, value: ort.OrtValue) -> None:
        """Bind and hold a value: it owns its array, which older ONNX Runtimes' bindings let go."""
        self._timing.bind_ortvalue_input(name, value)
        if self._reading is not self._timing:
            self._reading.bind_ortvalue_input(name, value)
        self._held[name] = value

    def _bind_outputs(self, symbols: Mapping[str, int]) -> None:
        """Bind outputs to memory made once per shape; those of unknown shape are ORT's to make."""
        for spec in self._graph.outputs:
            shape = resolve_shape(spec, symbols)
            held = self._outputs.get(spec.name)
            if held is not None and held.shape == shape:
                continue
            array = None if shape is None else np.empty(shape, NUMPY[spec.dtype])
            self._outputs[spec.name] = array
            if self._timing is not self._reading:
                self._timing.bind_output(spec.name, self._device)
            if array is None:
                self._reading.bind_output(spec.name)
            else:
                self._held[spec.name] = wrap_array(array)
                self._reading.bind_ortvalue_output(spec.name, self._held[spec.name])


def _dtype(value: ort.OrtValue) -> str:
    """Return the manifest's word, or ONNX Runtime's for what no engine takes."""
    words = {number: word for word, number in ONNX.items()}
    told: str = value.data_type().removeprefix("tensor(").removesuffix(")")
    return words.get(value.element_type(), told)


def _zeros(spec: TensorSpec) -> Array:
    shape = resolve_shape(spec, {})
    if shape is None or len(shape) != (1 if spec.role == "strengths" else 2):
        raise EngineError(f"adapter input {spec.name} has shape {show_shape(spec.shape)}")
    return np.zeros(shape, NUMPY[spec.dtype])
