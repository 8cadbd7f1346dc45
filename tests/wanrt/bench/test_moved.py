"""What a plan's kernels move is read once, where there is a plan that can be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plantexts import FULL, TENSORS, write_plan
from trtengines import Trt, make_trt

from wanrt.bench.candidates import Candidate
from wanrt.bench.moved import moved_by_part
from wanrt.manifest.folder import open_folder


def test_a_plan_s_bytes_by_part(tmp_path: Path) -> None:
    make_trt(tmp_path / "full", Trt(backend="tensorrt-rtx", dtype="bf16"))
    candidate = Candidate(open_folder(tmp_path / "full"))
    plan = candidate.manifest.forward.plan
    assert plan is not None
    write_plan(tmp_path / "full" / plan.file, TENSORS, FULL)
    (workload,) = candidate.manifest.workloads
    moved = moved_by_part(candidate, workload)
    assert moved is not None
    assert moved["self_attention"] == 4 * 2 * 6 * 8 * 2
    (tmp_path / "full" / plan.file).unlink()
    assert moved_by_part(candidate, workload) == moved  # rows are made again after every round
    assert moved_by_part(candidate, "another") is None
    assert moved_by_part(replace(candidate, rival="torch-eager"), workload) is None


def test_nothing_is_said_of_what_cannot_be_read(tmp_path: Path, family: Path) -> None:
    make_trt(tmp_path / "trt", Trt(backend="tensorrt"))
    for folder in (tmp_path / "trt", family / "tiny-full"):
        candidate = Candidate(open_folder(folder))
        assert moved_by_part(candidate, next(iter(candidate.manifest.workloads))) is None
