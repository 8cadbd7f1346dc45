"""How often engine.json is read: once by whoever opens the folder, and by no later stage."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import wanrt

from wanrt.manifest.read import MANIFEST_NAME


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Collect every engine.json that this process opens; its children's are their own."""
    found: list[Path] = []

    def watch(really: Callable[..., Any]) -> Callable[..., Any]:
        def watched(file: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, str | Path) and Path(file).name == MANIFEST_NAME:
                found.append(Path(file))
            return really(file, *args, **kwargs)

        return watched

    monkeypatch.setattr("builtins.open", watch(open))
    monkeypatch.setattr("io.open", watch(io.open))
    monkeypatch.setattr("os.open", watch(os.open))
    return found


def of(family: Path) -> list[Path]:
    return sorted(family.glob(f"*/{MANIFEST_NAME}"))


@pytest.mark.system
def test_a_bench_reads_each_engine_once(family: Path, reads: list[Path], tmp_path: Path) -> None:
    saved = tmp_path / "bench.json"
    fixed = ("--loads", 2, "--rounds", 2, "--json", saved)
    assert wanrt("bench", family, *fixed).code == 0  # with probes, loads and a control
    assert sorted(reads) == of(family)
    assert len(reads) == 4
    reads.clear()
    assert wanrt("bench", family, *fixed, "--resume").code == 0
    assert sorted(reads) == of(family)


def test_a_broken_one_is_read_once_too(
    family: Path, scripted: Callable[..., None], reads: list[Path]
) -> None:
    scripted(unsupported={"tiny-merged-r4": "too new"})
    (family / "tiny-separate-r4" / MANIFEST_NAME).write_text("{")
    reads.clear()
    assert wanrt("bench", family, "--loads", 2, "--rounds", 2).code == 1
    assert sorted(reads) == of(family)


def test_other_commands_read_each_engine_once(
    family: Path, reads: list[Path], tmp_path: Path
) -> None:
    assert wanrt("verify", family).code == 0
    assert sorted(reads) == of(family)
    (family / "tiny-full" / "model.onnx").write_bytes(b"")
    reads.clear()
    assert wanrt("verify", family).code == 1  # and tells how to rebuild it
    assert sorted(reads) == of(family)
    one = family / "tiny-merged-r4"
    for argv in (("info", one), ("run", one, "--save", tmp_path / "o.safetensors")):
        reads.clear()
        assert wanrt(*argv).code == 0
        assert reads == [one / MANIFEST_NAME]
