"""Graphs, constants and shipped adapters are what engine.json records, or aren't loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tinyengines import Tiny, adapter_tensors, make_engine, read_raw, write_adapter, write_manifest

from wanrt import load_engine
from wanrt.errors import AdapterError, ManifestError

SWAPPABLE = Tiny(mode="swappable", max_rank=4, adapters=(2, 4), name="tiny-swappable")


def _flip(path: Path, position: int = -1) -> None:
    """Change a byte of a file and nothing of what `stat` says of it."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_graph_of_the_same_size_is_refused(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny())
    _flip(folder / "model.onnx", 40)
    with pytest.raises(ManifestError, match=r"model\.onnx: its bytes are not the recorded ones"):
        load_engine(folder)


def test_constants_are_read_and_weights_are_not(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny())
    _flip(folder / "weights" / "tiny.safetensors")
    load_engine(folder).close()  # `wanrt verify` compares the bytes of weights
    raw = read_raw(folder)
    raw["weights"][0]["origin"] = "constants"
    write_manifest(folder, raw)
    with pytest.raises(ManifestError, match=r"tiny\.safetensors: its bytes are not the recorded"):
        load_engine(folder)


def test_a_shipped_adapter_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", SWAPPABLE)
    shipped = folder / "adapters" / "r4.safetensors"
    with load_engine(folder) as engine:
        engine.swap(shipped)
        engine.swap(shipped)
        shipped.unlink()
        write_adapter(shipped, {n: 2 * t for n, t in adapter_tensors(4).items()})
        with pytest.raises(AdapterError, match="has other bytes than"):
            engine.swap(shipped)
        elsewhere = write_adapter(tmp_path / "own.safetensors", adapter_tensors(4))
        engine.swap(elsewhere)  # nothing is recorded of it
