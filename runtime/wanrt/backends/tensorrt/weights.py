"""An engine's weights: from the mapped files of its folder to TensorRT's refitter, uncopied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wanrt.backends.tensorrt import api as trt
from wanrt.backends.tensorrt.library import dtype_name, fail, open_log, trt_dtype
from wanrt.errors import EngineError
from wanrt.machine.cores import usable_cores
from wanrt.manifest.fields import Dtype
from wanrt.manifest.plan import WeightRange
from wanrt.storage.dtypes import NUMPY

__all__ = ["MISMATCH", "MappedFiles", "Refit", "Value"]

MISMATCH = "plan and manifest don't belong together"
REBUILD = "rebuild the engine with --force"


@dataclass(frozen=True)
class Value:
    """The bytes of one parameter: where they lie, on the host or the device, and what they are."""

    address: int
    size: int
    dtype: Dtype
    on_device: bool = False

    @property
    def count(self) -> int:
        """How many elements it has."""
        return self.size // NUMPY[self.dtype].itemsize


class MappedFiles:
    """The weight files of a folder, mapped when first asked for; values live as long as this."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, NDArray[np.uint8]] = {}

    def value(self, part: WeightRange) -> Value:
        """Return a range's bytes, in the file's own pages.

        Raises:
            EngineError: the file can't be read.
        """
        if part.file not in self._files:
            path = self._folder / part.file
            try:
                self._files[part.file] = np.memmap(path, np.uint8, "r")
            except (OSError, ValueError) as error:
                raise EngineError(f"{path} can't be read: {error}") from None
        return Value(self._files[part.file].ctypes.data + part.offset, part.bytes, part.dtype)

    def close(self) -> None:
        """Unmap the files."""
        self._files.clear()


class Refit:
    """Gives an engine weights by name.

    TensorRT may ask for more than was set, since it fuses parameters: whatever it misses is given
    as well.
    """

    def __init__(self, name: str, engine: trt.ICudaEngine, stream: int) -> None:
        self._name = name
        self._stream = stream
        self._refitter: trt.Refitter | None = trt.Refitter(engine, open_log())
        self._refitter.max_threads = usable_cores()

    def missing(self) -> list[str]:
        """Return what the engine can't run without."""
        return list(self._open().get_missing_weights())

    def replaceable(self) -> list[str]:
        """Return all that a refit may change."""
        return list(self._open().get_all_weights())

    def apply(
        self,
        names: Iterable[str],
        find: Callable[[str], Value],
        on_given: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        """Enqueue a refit of parameters, and of all that TensorRT wants along with them.

        Args:
            names: the parameters.
            find: returns a parameter's value, to be kept until the stream has come past the refit.
            on_given: called with the names of all that is given before any of it is changed.

        Raises:
            EngineError: a name is unknown, a value isn't what the plan takes, or the refit failed;
                then some of what was given may have been changed.
        """
        refitter = self._open()
        given: list[str] = []
        try:
            wanted = list(dict.fromkeys(names))
            while wanted:
                for name in wanted:
                    self._give(refitter, name, find, given)
                wanted = list(refitter.get_missing_weights())
            on_given(given)
            if not refitter.refit_cuda_engine_async(self._stream):
                raise fail(f"{self._name}: TensorRT can't refit the weights")
        finally:
            # what stays set would be refitted again with the next ones, from where it once lay
            for name in given:
                refitter.unset_named_weights(name)

    def close(self) -> None:
        """Free the refitter."""
        self._refitter = None

    def _open(self) -> trt.Refitter:
        assert self._refitter is not None
        return self._refitter

    def _give(
        self,
        refitter: trt.Refitter,
        name: str,
        find: Callable[[str], Value],
        given: list[str],
    ) -> None:
        if name in given:
            raise fail(f"{self._name}: TensorRT still misses {name} after it was given")
        value = find(name)
        prototype = refitter.get_weights_prototype(name)
        if prototype.size < 0:
            raise EngineError(f"{self._name}: {MISMATCH}: the plan has no weights {name}", REBUILD)
        want = f"{prototype.size} of {dtype_name(prototype.dtype)}"
        have = f"{value.count} of {value.dtype}"
        if want != have:
            raise EngineError(
                f"{self._name}: {MISMATCH}: the plan takes {want} as {name}, the file has {have}",
                REBUILD,
            )
        weights = trt.Weights(trt_dtype(value.dtype), value.address, value.count)
        place = trt.TensorLocation.DEVICE if value.on_device else trt.TensorLocation.HOST
        if not refitter.set_named_weights(name, weights, place):
            raise fail(f"{self._name}: TensorRT refuses the weights {name}")
        given.append(name)
