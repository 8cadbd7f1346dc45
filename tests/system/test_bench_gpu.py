"""`make bench-gpu` from start to end on a CPU, so that only the device is new on the day."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {"card", "layers", "kernels", "forms", "fusible", "check", "deep"}
ARGUMENTS = ("--device", "cpu", "--small", "--layers", "1", "--deep-layers", "2", "--seconds", "0")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("bench-gpu")
    done = run("-m", "benchmarks.gpu", "--work", str(work), *ARGUMENTS)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    assert done.stdout.startswith("# Rehearsal: no GPU's figures")
    return work


@pytest.mark.slow
def test_every_part_finds_something(rehearsed: Path) -> None:
    steps = json.loads((rehearsed / "results.json").read_text())["steps"]
    assert set(steps) == PARTS
    assert not [name for part in steps.values() for name in part.values() if "failed" in name]
    assert {row["mode"] for row in steps["layers"]["bench"]["rows"]} == {
        "full", "merged", "separate", "swappable"
    }  # fmt: skip
    assert steps["layers"]["parity"]["swappable"] < 1e-5
    raced = [found for found in steps["fusible"]["race"].values() if isinstance(found, dict)]
    assert [found["apart"] < 1e-5 for found in raced] == [True] * 4
    rows = [row for backend in steps["check"].values() for row in backend["rows"]]
    assert not [row for row in rows if row[2].startswith("FAILED")]


@pytest.mark.slow
def test_a_second_run_does_nothing_again(rehearsed: Path) -> None:
    before = (rehearsed / "results.json").read_bytes()
    done = run("-m", "benchmarks.gpu", "--work", str(rehearsed), *ARGUMENTS, "--part", "card")
    assert done.returncode == 0
    assert done.stderr.count("done before") == 4
    assert (rehearsed / "results.json").read_bytes() == before


@pytest.mark.slow
def test_results_of_another_card_are_not_gone_on_with(rehearsed: Path, tmp_path: Path) -> None:
    value = json.loads((rehearsed / "results.json").read_text())
    value["context"]["card"] = "another"
    (tmp_path / "results.json").write_text(json.dumps(value))
    done = run("-m", "benchmarks.gpu", "--work", str(tmp_path), *ARGUMENTS)
    assert done.returncode == 1
    assert "was measured with another card" in done.stderr


def test_a_size_is_three_numbers() -> None:
    done = run("-m", "benchmarks.gpu", "--work", "x", *ARGUMENTS, "--size", "832x480")
    assert done.returncode == 2
    assert "argument --size: invalid parse value: '832x480'" in done.stderr


def test_a_rehearsal_is_small() -> None:
    done = run("-m", "benchmarks.gpu", "--work", "x", "--device", "cpu")
    assert done.returncode == 2
    assert "a CPU only rehearses: add --small" in done.stderr


def test_wheels_go_in_pieces_and_come_back_whole(tmp_path: Path) -> None:
    wheels, pieces, joined = (tmp_path / name for name in ("wheels", "pieces", "joined"))
    wheels.mkdir()
    (wheels / "large-1-py3-none-any.whl").write_bytes(large := bytes(range(256)) * 10_000)
    (wheels / "little-1-py3-none-any.whl").write_bytes(b"little")
    script = "benchmarks/wheels.py"
    assert run(script, "split", str(wheels), str(pieces), "--megabytes", "1").returncode == 0
    assert sorted(p.name for p in pieces.iterdir()) == [
        *(f"large-1-py3-none-any.whl.00{n}-of-003" for n in (1, 2, 3)),
        "little-1-py3-none-any.whl",
    ]
    joined.mkdir()
    code = "import sys; from pathlib import Path; from benchmarks.wheels import join; "
    code += f"join(Path({str(pieces)!r}), Path({str(joined)!r}))"
    assert run("-c", code).returncode == 0
    assert (joined / "large-1-py3-none-any.whl").read_bytes() == large
    (pieces / "large-1-py3-none-any.whl.002-of-003").unlink()
    done = run(script, "install", str(pieces))
    assert done.returncode == 1
    assert "the pieces [2] are missing" in done.stderr
