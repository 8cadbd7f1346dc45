"""`wanexport env` says what a report of a bug has to, also where little is installed."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest
from commands import wanexport

SMI = """#!/bin/sh
echo "NVIDIA H200, 9.0, 143771, 580.95.05"
"""


def facts_of(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in json.loads(text)]


def test_versions_devices_and_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    done = wanexport("env", "--json")
    facts = facts_of(done.out)
    known = dict(facts)
    assert (done.code, done.err) == (0, "")
    assert known["python"] == f"{platform.python_version()}, {sys.executable}"
    assert known["gpu"] == "NVIDIA H200, compute capability 9.0, 143771 MiB, driver 580.95.05"
    assert "CPUExecutionProvider" in known["providers"]
    assert ("cache", "hashes: /caches/wanexport/sha256.json") in facts
    packages = [value for name, value in facts if name == "package"]
    for name in ("numpy", "torch", "onnx-ir", "onnxscript", "diffusers", "typer"):
        assert f"{name} {metadata.version(name)}" in packages


def test_without_a_gpu_or_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = wanexport("env").out.splitlines()
    assert "gpu        none: nvidia-smi doesn't answer" in out
    assert "providers  none: onnxruntime isn't installed" in out
    assert out[0].startswith(f"wanexport  {metadata.version('wanexport')}, ")
