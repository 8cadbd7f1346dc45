"""The command itself, as its own process, interrupted or killed in the middle of a build."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from commands import wanexport, wanrt, write_config
from studies import T2V, config

ONE_LAYER = T2V.model_copy(update={"num_layers": 1})
FLAGS = ("--mode", "full", "--mode", "separate", "--rank", "4")
ENGINES = ["tiny-96x64x5-fp32-full", "tiny-96x64x5-fp32-separate-r4"]


def heed_signals() -> None:
    """Undo what a child inherits: signals that its parent ignores."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def stop_at(sign: str, out: Path, by: signal.Signals, argv: list[object]) -> tuple[int, str]:
    """Start a build and signal it once a file appears; return its exit code and stderr.

    It heeds signals as a terminal's commands do, even if these tests run under nohup.
    """
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "wanexport", *map(str, argv)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{root / 'export'}{os.pathsep}{root / 'runtime'}"},
        preexec_fn=heed_signals,
    )
    while not any(out.glob(sign)) and process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.send_signal(by)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(
    ("by", "sign", "whole"),
    [
        (signal.SIGINT, ".*-full.*.draft/model.onnx", []),
        pytest.param(signal.SIGTERM, ".*-full.*.draft/model.onnx", [], marks=pytest.mark.slow),
        (signal.SIGKILL, ".*-separate-r4.*.draft/model.onnx", ENGINES[:1]),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_only_whole_engines_are_left(
    by: signal.Signals, sign: str, whole: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "engines"
    path = write_config(tmp_path / "tiny.toml", config(ONE_LAYER))
    argv = ["build", "--config", path, "--base", "random", *FLAGS, "--out", out]
    code, said = stop_at(sign, out, by, argv)
    if by is not signal.SIGKILL:
        assert code == 130, said
        assert said.endswith("interrupted; nothing half-made is left\n")
        assert not list(out.rglob("*.draft"))
    else:
        assert code == -signal.SIGKILL, said
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == whole
    again = wanexport(*argv)
    assert again.code == 0, again.err
    assert again.out.count("up to date") == len(whole)
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == ENGINES
    assert not [*out.rglob("*.draft"), *out.rglob("*.tmp")]
    assert wanrt("verify", out).code == 0
