"""Canonical adapters: the safetensors files that engines swap.

Tensors carry the names of the engine's inputs, `MODULE.lora_A` [r, in] and `MODULE.lora_B`
[out, r], in its dtype, with scale and strength folded into B. `engines/README.md` specifies them.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from wanrt.engine.tensors import show_shape
from wanrt.engine.values import is_usable
from wanrt.errors import AdapterError
from wanrt.manifest.contents import has_recorded_bytes
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import SAFETENSORS, Array, numpy_dtype
from wanrt.storage.regular import check_regular

__all__ = ["pad_matrix", "read_adapter"]

FORMAT = "wanexport-adapter"
VERSION = "1"
RANK_AXIS = {"lora_A": 0, "lora_B": 1}


def read_adapter(path: Path, folder: Path, manifest: Manifest) -> dict[str, Array]:
    """Return a canonical adapter's tensors by the engine's input names, unpadded.

    Everything is checked before anything is returned, so that a refused file changes nothing.

    Raises:
        AdapterError: not a canonical adapter, or not one that this engine can take.
    """
    try:
        return _read(path, folder, manifest)
    except OSError as error:
        problem = f"can't be read: {error.strerror or error}"
    except SafetensorError as error:
        problem = f"can't be read: {error}"
    except ValueError as error:
        problem = str(error)
    raise AdapterError(
        f"{path} {problem}", f"convert it: wanexport adapter FILE --for {folder} -o x.safetensors"
    )


def pad_matrix(matrix: Array | None, shape: tuple[int, int], dtype: str) -> Array:
    """Return zeros of a shape with a matrix, if there is one, in their top left."""
    padded = np.zeros(shape, numpy_dtype(dtype))
    if matrix is not None:
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded


_Identity = tuple[int, int, int, int]
_checked: set[_Identity] = set()
"""The files whose bytes and values this process has checked; a changed file is another one."""


def _read(path: Path, folder: Path, manifest: Manifest) -> dict[str, Array]:
    identity = _identify(path)  # before it is read: a file that changes meanwhile is another one
    specs = {spec.name: spec for spec in manifest.adapter_inputs}
    check_regular(path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError("isn't a canonical adapter")
        if metadata.get("version") != VERSION:
            raise ValueError(f"has version {metadata.get('version')}, this wanrt reads {VERSION}")
        shapes: dict[str, tuple[int, ...]] = {}
        for name in file.keys():  # noqa: SIM118 (the handle isn't a mapping)
            part = file.get_slice(name)
            shapes[name] = tuple(part.get_shape())
            _check_tensor(name, part.get_dtype(), shapes[name], specs)
        _check_pairs(shapes, specs)
        tensors = {name: file.get_tensor(name) for name in shapes}
    if identity not in _checked:
        _check_bytes(path, folder, manifest)
        for name, tensor in tensors.items():
            if not is_usable(tensor):
                raise ValueError(
                    f"holds values in {name} that aren't finite, or whose products aren't"
                )
        _checked.add(identity)
    return tensors


def _identify(path: Path) -> _Identity:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_bytes(path: Path, folder: Path, manifest: Manifest) -> None:
    """Check that an adapter which ships with the engine is the one that was shipped."""
    for shipped in manifest.adapters:
        own = folder / shipped.file
        if own.exists() and own.samefile(path) and not has_recorded_bytes(own, shipped):
            raise ValueError("has other bytes than engine.json records (sha256)")


def _check_tensor(
    name: str, dtype: str, shape: tuple[int, ...], specs: dict[str, TensorSpec]
) -> None:
    if name not in specs:
        near = difflib.get_close_matches(name, specs, n=1)
        also = f"; the nearest is {near[0]}" if near else ""
        raise ValueError(f"holds {name}, which isn't an input of the engine{also}")
    spec = specs[name]
    if dtype != SAFETENSORS[spec.dtype]:
        raise ValueError(f"holds {name} in {dtype}, the engine takes {spec.dtype}")
    axis = RANK_AXIS[spec.role]
    if len(shape) != 2 or shape[1 - axis] != spec.shape[1 - axis]:
        raise ValueError(
            f"holds {name} of shape {show_shape(shape)}, "
            f"the engine takes up to {show_shape(spec.shape)}"
        )
    limit = spec.shape[axis]
    if isinstance(limit, int) and shape[axis] > limit:
        raise ValueError(f"has rank {shape[axis]} at {name}, the engine takes up to {limit}")


def _check_pairs(shapes: dict[str, tuple[int, ...]], specs: dict[str, TensorSpec]) -> None:
    ranks: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        spec = specs[name]
        ranks.setdefault(spec.module or name, {})[spec.role] = shape[RANK_AXIS[spec.role]]
    for module, pair in ranks.items():
        if len(pair) != 2:
            raise ValueError(f"holds {next(iter(pair))} of {module} without its other half")
        if pair["lora_A"] != pair["lora_B"]:
            raise ValueError(f"has ranks {pair['lora_A']} and {pair['lora_B']} at {module}")
