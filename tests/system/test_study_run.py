"""A study from its file to its page: interrupted, gone on with, with a cell that can't be built."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import write_config
from studies import config

pytestmark = pytest.mark.slow  # starts a build's process for every engine

FILE = """
name = "tiny"
config = "{model}"
verify = false

[grid]
ranks = [4]
modes = ["full", "separate", "swappable"]

[bench]
time_budget_s = 1
loads = 2
rounds = 1
steps = 4
"""


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    study = [sys.executable, "-m", "wanexport", "study", str(folder / "tiny.toml")]
    return subprocess.Popen(
        [*study, "--out", str(folder / "out"), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"TMPDIR": str(folder)},  # where a machine's studies wait for one another
    )  # fmt: skip


def said_until(driver: subprocess.Popen[str], words: str) -> str:
    assert driver.stdout is not None
    read = ""
    for line in driver.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"never said {words!r}: {read}")


def families(folder: Path) -> list[psutil.Process]:
    """Return the processes that work for a study."""
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(p.info["cmdline"] or [])
    ]


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    write_config(tmp_path / "model.toml", config())
    (tmp_path / "tiny.toml").write_text(FILE.format(model=tmp_path / "model.toml"))
    engines = tmp_path / "out/engines"

    driver = start(tmp_path)
    said_until(driver, "done on")  # the first engine is there
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    while families(tmp_path):  # nothing that it started lives on
        time.sleep(0.1)
    assert len(list(engines.glob("*.json"))) == 1

    driver = start(tmp_path)
    said = said_until(driver, "bench tiny-96x64x5-fp32-onnxruntime: saved 1")
    assert said.count("started on") == 3  # the two that were left, and the bench
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    while families(tmp_path):
        time.sleep(0.1)
    assert not list((tmp_path / "out/results").glob("tiny*.json"))
    assert list((tmp_path / "out/results").glob(".tiny*.json"))

    said, _ = start(tmp_path).communicate(timeout=600)
    assert said.count("started on") == 1
    assert "swappable r4" in said
    assert "saved" in said
    record = json.loads((tmp_path / "out/study.json").read_text())
    (group,) = record["groups"]
    assert [cell["failed"] for cell in group["cells"]] == [None] * 3
    assert len(group["results"]) == 1
    assert "<svg" in (tmp_path / "out/study.html").read_text()

    said, _ = start(tmp_path).communicate(timeout=600)
    assert "started on" not in said


def test_a_cell_that_fails_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_config(tmp_path / "model.toml", config())
    text = FILE.format(model=tmp_path / "model.toml").replace('"swappable"', '"merged"')
    (tmp_path / "tiny.toml").write_text(text)
    blocker = tmp_path / "out/engines/tiny-96x64x5-fp32-merged-r4"
    blocker.mkdir(parents=True)
    (blocker / "mine.txt").write_text("not an engine's")
    driver = start(tmp_path)
    said, _ = driver.communicate(timeout=600)
    assert driver.returncode == 1
    assert "failed: tiny-96x64x5-fp32-onnxruntime merged-r4" in said
    assert "separate r4" in said
    (group,) = json.loads((tmp_path / "out/study.json").read_text())["groups"]
    failed = {cell["label"]: cell["failed"] for cell in group["cells"]}
    assert failed["merged-r4"] is not None
    assert failed["separate-r4"] is None
    log = tmp_path / "out" / next(c["log"] for c in group["cells"] if c["log"])
    assert "can't be replaced" in log.read_text()
