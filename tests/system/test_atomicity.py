"""Builds killed, interrupted, out of disk, or not alone: an engine is whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import wanrt
from killbuilds import ARCH

from wanexport.checkpoint.random_weights import write_checkpoint

KILLS = 30
MODES = ["full", "merged", "separate", "swappable"]
ROOT = Path(__file__).parents[2]
Answer = dict[str, Any]


class Builder:
    """A process that forks builds."""

    def __init__(self, root: Path) -> None:
        self.base = root / "base"
        write_checkpoint(self.base, ARCH, "fp32", 0, layout="original")
        self.options = {"base": str(self.base), "dtype": "bf16", "modes": MODES, "ranks": [4]}
        paths = [str(ROOT / name) for name in ("tests/support", "export", "runtime")]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(ROOT / "tests/support/killbuilds.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        assert self.ask({"out": str(root / "warm"), "options": self.options}) == "ready"
        self.whole = contents(root / "warm")

    def ask(self, message: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def build(self, out: Path, **how: object) -> Answer:
        (answer,) = self.ask([self.job(out, **how)])
        return dict(answer)

    def job(self, out: Path, **how: object) -> dict[str, object]:
        changes = how.pop("options", {})
        assert isinstance(changes, dict)
        return {"out": str(out), "options": self.options | changes, **how}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    made = Builder(tmp_path_factory.mktemp("atomicity"))
    yield made
    made.close()


def contents(out: Path) -> dict[str, str]:
    """Return the hash of every file that users of engines see, but for its times."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if name.startswith(".") or not path.is_file():
            continue
        data = path.read_bytes()
        if path.name == "engine.json":
            manifest = json.loads(data)
            for weights in manifest["weights"]:
                del weights["mtime_ns"]
            manifest["sources"] = [source["sha256"] for source in manifest["sources"]]
            data = json.dumps(manifest).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def half_made(out: Path) -> list[str]:
    return [p.name for p in out.rglob("*") if p.name.endswith((".draft", ".tmp"))]


def check_engines_are_whole(out: Path, whole: dict[str, str]) -> None:
    """Every folder that is visible is an engine, byte for byte the one a calm build makes."""
    there = contents(out) if out.exists() else {}
    assert there.items() <= whole.items()
    folders = {name.split("/")[0] for name in there}
    for folder in folders:
        expected = {name for name in whole if name.startswith(f"{folder}/")}
        assert expected == {name for name in there if name.startswith(f"{folder}/")}
    if folders:
        outcome = wanrt("verify", out)
        assert outcome.code == 0, outcome.out


def check_the_next_build_finishes(builder: Builder, out: Path) -> None:
    answer = builder.build(out)
    assert "error" not in answer, answer
    assert contents(out) == builder.whole
    assert half_made(out) == []
    pools = list((out / ".weights").glob("*.safetensors"))
    assert [pool.stat().st_nlink for pool in pools] == [1 + len(MODES)]


@pytest.fixture(scope="module")
def operations(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """Count what a calm build does to files, and how often that needs room."""
    answer = builder.build(tmp_path_factory.mktemp("calm") / "out")
    assert answer["actions"] == ["build"] * len(MODES)
    return answer["count"], answer["room"]


def points(count: int, wanted: int) -> list[int]:
    """Return operations spread over all of them, one drawn from each of as many equal parts."""
    draw = random.Random(0)
    return [draw.randrange(i * count // wanted, (i + 1) * count // wanted) + 1
            for i in range(wanted)]  # fmt: skip


@pytest.mark.parametrize("part", range(KILLS))
def test_killed_anywhere(
    part: int, builder: Builder, operations: tuple[int, int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    point = points(operations[0], KILLS)[part]
    assert builder.build(out, kill=point) == {"signal": signal.SIGKILL}
    check_engines_are_whole(out, builder.whole)
    check_the_next_build_finishes(builder, out)


@pytest.mark.parametrize("part", range(4))
def test_interrupted_anywhere(
    part: int, builder: Builder, operations: tuple[int, int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = builder.build(out, interrupt=points(operations[0], 4)[part])
    assert answer["error"] == "KeyboardInterrupt"
    check_engines_are_whole(out, builder.whole)
    check_the_next_build_finishes(builder, out)


@pytest.mark.parametrize("part", range(6))
def test_a_full_disk(
    part: int, builder: Builder, operations: tuple[int, int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = builder.build(out, fail=points(operations[1], 6)[part])
    if "error" in answer:
        assert answer["error"] in ("BuildError", "CheckpointError"), answer
        assert "No space left on device" in answer["message"]
        assert str(out) in answer["message"]
    check_engines_are_whole(out, builder.whole)
    assert half_made(out) == []
    check_the_next_build_finishes(builder, out)


@pytest.mark.parametrize("largest", [1 << 10, 100 << 10, 1 << 20])
def test_a_write_that_fails_midway(largest: int, builder: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = builder.build(out, largest=largest)
    assert answer["error"] == "BuildError"
    assert "File too large" in answer["message"]
    assert str(out) in answer["message"]
    check_engines_are_whole(out, builder.whole)
    assert half_made(out) == []
    check_the_next_build_finishes(builder, out)


@pytest.mark.parametrize("part", range(5))
def test_killed_while_it_replaces(part: int, builder: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_the_next_build_finishes(builder, out)
    count = builder.build(out, options={"force": True})["count"]
    answer = builder.build(out, options={"force": True}, kill=points(count, 5)[part])
    assert answer == {"signal": signal.SIGKILL}
    check_engines_are_whole(out, builder.whole)
    check_the_next_build_finishes(builder, out)


def test_two_builds_at_once(builder: Builder, tmp_path: Path) -> None:
    """Both finish: what one has made the other takes."""
    for attempt in range(3):
        out = tmp_path / str(attempt)
        answers = builder.ask([builder.job(out), builder.job(out)])
        assert [answer for answer in answers if "error" in answer] == []
        check_engines_are_whole(out, builder.whole)
        assert half_made(out) == []
        check_the_next_build_finishes(builder, out)


def test_a_build_beside_one_that_is_killed(
    builder: Builder, operations: tuple[int, int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for point in points(operations[0], 3):
        _, answer = builder.ask([builder.job(out, kill=point), builder.job(out)])
        assert "error" not in answer, answer
        check_engines_are_whole(out, builder.whole)
        check_the_next_build_finishes(builder, out)
        shutil.rmtree(out)
