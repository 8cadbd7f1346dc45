"""The ONNX Runtime backend: one session, its I/O bound once, on a CPU or a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from wanrt.engine.engine import Engine
from wanrt.engine.exclusive import InUse, exclusive
from wanrt.engine.feeds import check_input, check_names
from wanrt.engine.stack import AdapterArgument, Stack, read_stack
from wanrt.engine.tensors import resolve_shape, show_shape
from wanrt.errors import EngineError
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import NUMPY, ONNX, Array

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["OrtEngine"]


@dataclass(frozen=True)
class _Io:
    """A session and its bindings: `timing` leaves outputs on the device, `reading` fetches them.

    On a CPU the two are one. `enqueueing` makes a run return once a device has all of it.
    """

    session: ort.InferenceSession
    timing: ort.IOBinding
    reading: ort.IOBinding
    enqueueing: ort.RunOptions | None

    @property
    def bindings(self) -> tuple[ort.IOBinding, ...]:
        same = self.timing is self.reading
        return (self.timing,) if same else (self.timing, self.reading)


class OrtEngine(Engine):
    """An engine folder in an ONNX Runtime session."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: str,
        threads: int | None,
        mapped: bool,
        emulated: bool,
        workload: str | None,
        profile: Path | None = None,
    ) -> None:
        self._manifest = manifest
        self._folder = folder
        self._in_use = InUse()
        self._device = device
        self._shapes = manifest.workloads[workload].shapes if workload else {}
        inputs = manifest.forward.inputs
        self._data = {spec.name: spec for spec in inputs if spec.role == "data"}
        self._adapter = {spec.name: spec for spec in inputs if spec.role != "data"}
        self._buffers = {name: _zeros(spec) for name, spec in self._adapter.items()}
        self._loaded = Stack()
        self._outputs: dict[str, Array | None] = {}
        self._held: dict[str, ort.OrtValue] = {}
        self._bound = False
        self._enqueue_s: float | None = None
        static = len(manifest.workloads) == 1 or workload is not None
        with backend_errors(folder):
            form = manifest.forward.emulated if emulated else manifest.forward
            assert form is not None  # checked by wanrt.backends.load.check_engine
            options = as_written() if emulated else None
            if profile is not None:
                options = profiling(profile, options)
            session = open_session(folder / form.file, device, threads, mapped, static, options)
            timing = session.io_binding()
            reading = timing if device == "cpu" else session.io_binding()
            self._io: _Io | None = _Io(session, timing, reading, enqueue_options(device))
            self._bind_adapter(self._io)

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""
        return self._manifest

    @property
    def timed(self) -> str:
        """What `time_forward` measures, in one sentence."""
        if self._device == "cpu":
            return "run_with_iobinding, inputs and outputs resident, host clock"
        return "run_with_iobinding until synchronized, inputs and outputs on device, host clock"

    @property
    def enqueue_s(self) -> float | None:
        """The host's seconds of the last timed forward until a device had all of it."""
        return self._enqueue_s

    @exclusive
    def bind(self, /, **inputs: object) -> None:
        """Check the data inputs and make them resident for `time_forward`.

        Raises:
            EngineError: an input is missing, unknown, or of another dtype or shape.
        """
        io = self._open()
        check_names(inputs, self._data, self._adapter)
        symbols: dict[str, int] = {}
        values = {}
        for name, spec in self._data.items():
            values[name] = to_ortvalue(name, inputs[name])
            shape = tuple(values[name].shape())
            check_input(spec, _dtype(values[name]), shape, symbols, self._shapes)
        with backend_errors(self._folder):
            for name, value in values.items():
                self._bind_input(io, name, value)
            self._bind_outputs(io, symbols)
        self._bound = True

    @exclusive
    def forward(self, /, **inputs: object) -> dict[str, Array]:
        """Run one forward on arrays or anything with DLPack; the outputs are the caller's own."""
        self.bind(**inputs)
        io = self._open()
        with backend_errors(self._folder):
            io.reading.synchronize_inputs()
            io.session.run_with_iobinding(io.reading)
            io.reading.synchronize_outputs()
            values = io.reading.get_outputs()
            held = self._outputs.values()
            return {
                name: (value.numpy() if array is None else array).copy()
                for name, array, value in zip(self._outputs, held, values, strict=True)
            }

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
        io = self._open_swappable()
        stack = read_stack(adapter, self._folder, self._manifest)
        for name, spec in self._adapter.items():
            stack.write(spec, self._buffers[name])
        self._loaded = stack
        if self._device != "cpu":
            self._bind_adapter(io)  # binding is what copies to the device

    @exclusive
    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Change the strengths of the loaded adapters, in the order of the last swap; A and B stay.

        Raises:
            AdapterError: their number is another, or one isn't finite or makes values overflow.
            EngineError: the engine isn't swappable.
        """
        io = self._open_swappable()
        self._loaded = self._loaded.with_strengths(strengths)
        for name, spec in self._adapter.items():
            if spec.role == "strengths":
                self._loaded.write(spec, self._buffers[name])
                if self._device != "cpu":
                    self._bind_input(io, name, wrap_array(self._buffers[name]))

    @exclusive
    def time_forward(self) -> float:
        """Run one forward on the bound inputs and return its seconds; `timed` says what counts."""
        io = self._open()
        if not self._bound:
            raise EngineError("no inputs are bound", "call bind(...) or forward(...) first")
        run, binding = io.session.run_with_iobinding, io.timing
        with backend_errors(self._folder):
            binding.synchronize_inputs()
            start = time.perf_counter()
            run(binding, io.enqueueing)
            enqueued = time.perf_counter()
            binding.synchronize_outputs()
            seconds = time.perf_counter() - start
        self._enqueue_s = None if io.enqueueing is None else enqueued - start
        return seconds

    @exclusive
    def end_profile(self) -> Path:
        """Stop profiling, which the engine was opened for, and return the file that it wrote."""
        io = self._open()
        with backend_errors(self._folder):
            return Path(io.session.end_profiling())

    @exclusive
    def close(self) -> None:
        """Free the engine's memory; a second call does nothing."""
        self._io = None
        self._buffers.clear()
        self._outputs.clear()
        self._held.clear()

    def _open(self) -> _Io:
        if self._io is None:
            raise EngineError(f"{self._folder}: the engine is closed")
        return self._io

    def _open_swappable(self) -> _Io:
        io = self._open()
        if not self._adapter:
            raise EngineError(
                f"{self._folder} is a {self._manifest.mode} engine, its adapter is fixed",
                "build one that can swap: wanexport build --mode swappable --rank 32",
            )
        return io

    def _bind_adapter(self, io: _Io) -> None:
        for name, buffer in self._buffers.items():
            self._bind_input(io, name, wrap_array(buffer))

    def _bind_input(self, io: _Io, name: str, value: ort.OrtValue) -> None:
        """Bind and hold a value: it owns its array, which older ONNX Runtimes' bindings let go."""
        for binding in io.bindings:
            binding.bind_ortvalue_input(name, value)
        self._held[name] = value

    def _bind_outputs(self, io: _Io, symbols: dict[str, int]) -> None:
        """Bind outputs to memory made once per shape; those of unknown shape are ORT's to make."""
        for spec in self._manifest.forward.outputs:
            shape = resolve_shape(spec, symbols)
            held = self._outputs.get(spec.name)
            if held is not None and held.shape == shape:
                continue
            array = None if shape is None else np.empty(shape, NUMPY[spec.dtype])
            self._outputs[spec.name] = array
            if io.timing is not io.reading:
                io.timing.bind_output(spec.name, self._device)
            if array is None:
                io.reading.bind_output(spec.name)
            else:
                self._held[spec.name] = wrap_array(array)
                io.reading.bind_ortvalue_output(spec.name, self._held[spec.name])


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
