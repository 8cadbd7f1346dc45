"""Benches with TensorRT engines: what is compared with what, and which device is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import faketensorrt
import faketrt
import pytest
from fakecuda import FakeCuda
from faketestbed import MACHINE, FakeTestbed, Script
from tinyengines import Tiny, make_engine
from trtengines import Trt, make_trt

from wanrt import bench_engines
from wanrt.bench.discover import choose_device, open_engines
from wanrt.bench.options import BenchOptions
from wanrt.bench.testbed import ThisMachine, make_testbed
from wanrt.cli.info import render_info
from wanrt.cli.main import main
from wanrt.errors import UnsupportedError
from wanrt.manifest.read import read_manifest
from wanrt.report.table import render_bench
from wanrt.results.json import read_results
from wanrt.results.result import BenchResult, CandidateResult

TIMES = {
    "full-none": [0.100], "full-all": [0.102], "merged-all": [0.102], "merged-none": [0.100],
    "separate-none": [0.125], "full-control": [0.104], "full-ort": [0.200],
}  # fmt: skip

cuda = faketrt.cuda  # a fixture


def _make(root: Path, *names: str) -> Path:
    for name in names:
        mode, _, kind = name.partition("-")
        if kind == "ort":
            make_engine(root / name, Tiny(name=name))
        else:
            refit = "none" if kind == "control" else kind
            make_trt(root / name, Trt(mode=mode, refit=refit, plan={"control": kind == "control"}))
    return root


def _bench(root: Path, **options: Any) -> BenchResult:
    testbed = FakeTestbed(Script(forward_s=TIMES, **options.pop("script", {})))
    return bench_engines([root], BenchOptions(loads=3, rounds=4, **options), testbed=testbed)


def _rows(result: BenchResult) -> dict[str, CandidateResult]:
    return {Path(r.engine).name: r for r in result.rows if not r.label.endswith("A/A")}


def _ratio(row: CandidateResult) -> float:
    assert row.ratio is not None
    return row.ratio.value


def test_ratios_compare_equal_kinds_and_full_tells_what_a_kind_costs(tmp_path: Path) -> None:
    kinds = ("full-none", "full-all", "merged-none", "merged-all", "separate-none")
    result = _bench(_make(tmp_path, *kinds))
    rows = _rows(result)
    baselines = {name: row.baseline for name, row in rows.items()}
    none, every = rows["full-none"].label, rows["full-all"].label
    assert none != every
    assert baselines == {
        "full-none": none, "full-all": none, "merged-none": none, "merged-all": every,
        "separate-none": none,
    }  # fmt: skip
    assert _ratio(rows["merged-all"]) == pytest.approx(1.0)
    assert _ratio(rows["full-all"]) == pytest.approx(0.100 / 0.102)
    assert [row.label for row in result.rows if row.control] == [f"{every} A/A", f"{none} A/A"]
    assert not result.groups[0].notes


def test_a_kind_without_a_full_engine_has_no_ratio(tmp_path: Path) -> None:
    result = _bench(_make(tmp_path, "full-none", "merged-all"))
    assert _rows(result)["merged-all"].ratio is None
    assert result.groups[0].notes == (
        "no ratios for merged r2 fp32: no `full` engine of tensorrt, refit all",
    )


def test_backends_are_not_compared_with_each_other(tmp_path: Path) -> None:
    rows = _rows(_bench(_make(tmp_path, "full-ort", "separate-none"), workload=None))
    assert rows["separate-none"].baseline is None


def test_a_second_build_is_a_control_in_a_row_of_its_own(tmp_path: Path) -> None:
    result = _bench(_make(tmp_path, "full-none", "full-control", "full-all"))
    rows = _rows(result)
    assert rows["full-control"].control
    assert rows["full-control"].baseline == rows["full-none"].label
    (group,) = result.groups
    assert group.band is not None
    assert group.band[0] == pytest.approx(0.100 / 0.104)
    # all differs by less than another build of none does, which is no claim
    assert rows["full-all"].ratio is not None
    assert rows["full-all"].ratio.verdict == "same"
    assert sum("control" in line for line in render_bench(result, False).splitlines()) == 1
    assert len(result.rows) == 4  # the control has no A/A


def test_a_control_alone_is_no_baseline(tmp_path: Path) -> None:
    rows = _rows(_bench(_make(tmp_path, "full-control", "merged-none")))
    assert rows["merged-none"].baseline is None


def test_rivals_run_beside_one_full_engine_of_a_dtype(tmp_path: Path) -> None:
    root = _make(tmp_path, "full-none", "full-all", "merged-all")
    result = _bench(root, rivals=("torch-eager",), script={"rivals": ["torch-eager"]})
    assert [row.label for row in result.rows if row.rival] == ["torch-eager"]


def test_streamed_weights_need_no_more_room_than_their_budget(tmp_path: Path) -> None:
    result = _bench(_make(tmp_path, "full-none"), weight_streaming=500,
                    script={"available_bytes": 1100})  # fmt: skip
    assert [row.skipped for row in result.rows] == [None, None]
    assert not result.groups[0].notes
    result = _bench(tmp_path, script={"available_bytes": 1100})
    assert all(row.skipped for row in result.rows)


# on the fake library and GPU


def test_engines_are_benched_in_turn_and_freed(tmp_path: Path, cuda: FakeCuda) -> None:
    root = _make(tmp_path, "full-none", "merged-none")
    options = BenchOptions(device="cuda", probe=False, loads=2, rounds=2)
    result = bench_engines([root], options)
    rows = _rows(result)
    assert [row.failed or row.skipped for row in rows.values()] == [None, None]
    assert rows["full-none"].seconds == pytest.approx(faketensorrt.LAUNCH_S)
    assert "CUDA graph" in result.timed
    assert result.ok
    assert cuda.clean


def test_options_reach_the_engines(tmp_path: Path, cuda: FakeCuda) -> None:
    make_trt(tmp_path / "full-none", Trt(plan={"weight_streaming": True}))
    options = BenchOptions(device="cuda", probe=False, loads=2, rounds=2, weight_streaming=1000)
    assert bench_engines([tmp_path], options).timed.endswith("weights streamed")
    options = BenchOptions(device="cuda", probe=False, loads=2, rounds=2, cuda_graph=False)
    assert "enqueueing" in bench_engines([tmp_path], options).timed
    assert cuda.captures == 0


@pytest.mark.usefixtures("cuda")
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_trt(tmp_path / "full-none", Trt(plan={"weight_streaming": True}))
    saved = tmp_path / "out.safetensors"
    run = ["run", str(folder), "--save", str(saved), "--weight-streaming", "1MiB"]
    results = tmp_path / "bench.json"
    bench = ["bench", str(folder), "--no-probe", "--loads", "2", "--json", str(results),
             "--weight-streaming", "0.5MiB"]  # fmt: skip
    for argv in (run, bench, [*bench, "--resume"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert not stop.value.code, capsys.readouterr().err
    assert "y float32 [6, 16]" in capsys.readouterr().out
    assert read_results(results).options["device"] == "cuda"
    assert read_results(results).options["weight_streaming"] == 1 << 19


def test_versions_of_what_is_installed_stand_above_a_table() -> None:
    gpu = replace(MACHINE, gpu="NVIDIA L4", driver="580.1", onnxruntime="none", tensorrt="11.4.0")
    assert gpu.headline == ("NVIDIA L4", "driver 580.1", "TensorRT 11.4.0")


@pytest.mark.usefixtures("cuda")
def test_the_device_is_the_engines_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(tmp_path, "full-ort")
    assert choose_device(open_engines([tmp_path])) == "cpu"
    _make(tmp_path, "full-none")
    assert choose_device(open_engines([tmp_path])) == "cuda"

    def no_cuda() -> None:
        raise UnsupportedError("no GPU: there is none")

    monkeypatch.setattr("wanrt.backends.tensorrt.check.open_cuda", no_cuda)
    assert choose_device(open_engines([tmp_path])) == "cpu"
    result = bench_engines([tmp_path], BenchOptions(loads=2, rounds=1, probe=False))
    rows = _rows(result)
    assert rows["full-none"].skipped == "no GPU: there is none"
    assert rows["full-ort"].forwards
    assert result.ok


def test_a_lab_loads_as_the_options_say() -> None:
    options = BenchOptions(device="cuda", weight_streaming=7, cuda_graph=False)
    testbed = make_testbed(options)
    assert isinstance(testbed, ThisMachine)
    assert (testbed.device, testbed.weight_streaming, testbed.cuda_graph) == ("cuda", 7, False)


def test_info_tells_of_the_plan(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e", Trt(mode="merged", refit="targets"))
    text = " ".join(render_info(folder, read_manifest(folder)).split())
    assert "tensorrt 11.4.0.106, built on Fake GPU for compute capability 8.9" in text
    assert "the adapter's matrices can be refitted (targets), swaps adapters in place" in text
