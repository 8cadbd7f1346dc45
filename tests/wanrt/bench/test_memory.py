"""Which engines are loaded together: what fits, by an estimate worked out by hand here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import ratio_of, rows_of, scripted_bench
from tinyengines import Tiny, make_engine, make_family, read_raw, write_manifest

from wanrt.machine.cores import available_bytes
from wanrt.manifest.read import read_manifest
from wanrt.terminal.units import show_bytes

ROW = 80  # bytes of activations that a token takes


def need_activations(folder: Path, row: int) -> None:
    """Record so many bytes of activations for every token of a workload."""
    manifest = read_raw(folder)
    for workload in manifest["workloads"].values():
        workload["activation_bytes"] = workload["tokens"] * row
    write_manifest(folder, manifest)


def needs(folder: Path, row: int, nbytes: int, **options: Any) -> None:
    """Assert that an engine alone needs so many bytes, and no fewer do."""
    need_activations(folder, row)
    for missing in (0, 1):
        result = scripted_bench(folder, {"available_bytes": nbytes - missing}, **options)
        (only,) = result.rows
        assert bool(only.skipped) == bool(missing)


# W [16, 16], a bias, A [4, 16] and B [16, 4] are 400 values
ALONE: dict[str, tuple[Tiny, dict[str, Any], int, int]] = {
    "fp32 on a CPU": (Tiny(), {}, ROW, 2 * 1600 + 6 * (6 * ROW)),  # repacked; 6 tokens
    "fp16 on a CPU": (Tiny(dtype="fp16"), {}, ROW, 2 * 800 + 18 * (6 * ROW)),
    "fp16 on a GPU": (Tiny(dtype="fp16"), {"device": "cuda"}, ROW, 800 + 6 * (6 * ROW)),
    "the workload that is run": (
        Tiny(workloads={"small": 6, "large": 10}), {"workload": "large"}, ROW,
        2 * 1600 + 6 * (10 * ROW)),
    "no activations": (Tiny(), {}, 0, 2 * 1600),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def test_what_an_engine_needs(tmp_path: Path, case: str) -> None:
    tiny, options, row, nbytes = ALONE[case]
    separate = replace(tiny, mode="separate", rank=4)
    needs(make_engine(tmp_path / "e", separate), row, nbytes, **options)


def test_a_swappable_engine_holds_its_adapter_s_inputs(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(mode="swappable", max_rank=4, adapters=(2,)))
    # W and a bias, repacked; A and B at their full rank
    needs(folder, 0, 2 * (256 + 16) * 4 + 128 * 4)


def test_activations_of_idle_engines_count(tmp_path: Path) -> None:
    make_family(tmp_path)
    before = 2 * sum(read_manifest(folder).weight_bytes for folder in tmp_path.iterdir())
    before += 2 * read_manifest(tmp_path / "tiny-full").weight_bytes + 128 * 4  # A/A, A and B
    assert scripted_bench(tmp_path, {"available_bytes": before}).groups[0].sets == 1
    for folder in tmp_path.iterdir():
        need_activations(folder, ROW)
    activations = 5 * 6 * (6 * ROW)
    enough = {"available_bytes": before + activations}
    assert scripted_bench(tmp_path, enough).groups[0].sets == 1
    less = {"available_bytes": before + activations - 1}
    assert scripted_bench(tmp_path, less).groups[0].sets == 4


def test_engines_that_do_not_fit_together_are_measured_in_pairs(tmp_path: Path) -> None:
    make_family(tmp_path)
    pair = 2 * sum(
        read_manifest(tmp_path / f"tiny-{n}").weight_bytes for n in ("full", "separate-r4")
    )
    result = scripted_bench(tmp_path, {"available_bytes": pair})
    rows = rows_of(result)
    assert "measured in pairs" in result.groups[0].notes[0]
    # merged, separate, swappable and the control, each beside full, three times over
    assert {f.load for f in rows["full fp32"].forwards} == set(range(12))
    assert {f.load % 4 for f in rows["swappable r2 fp32"].forwards} == {2}
    assert result.groups[0].sets == 4
    assert ratio_of(rows["swappable r4 fp32"]) == pytest.approx(0.5)
    assert rows["separate r4 fp32"].ratio is not None


def test_a_pair_that_does_not_fit_is_skipped(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="b"))
    one = 2 * read_manifest(tmp_path / "b").weight_bytes
    result = scripted_bench(tmp_path, {"available_bytes": one})
    rows = rows_of(result)
    assert f"together with its baseline, {show_bytes(one)} are free" in (
        rows["separate r4 fp32"].skipped or ""
    )
    assert rows["full fp32"].forwards
    assert not any("in pairs" in note for note in result.groups[0].notes)
    assert result.ok


def test_unknown_device_memory_means_pairs(tmp_path: Path) -> None:
    result = scripted_bench(make_family(tmp_path), {"available_bytes": None}, device="cuda")
    assert "memory isn't known" in result.groups[0].notes[0]
    assert rows_of(result)["separate r4 fp32"].ratio is not None


def test_page_cache_is_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"max": "1000", "current": "900", "stat": "anon 1\ninactive_file 300\nactive_file 50\n"}
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr("wanrt.machine.cores.CGROUP", tmp_path)
    assert available_bytes() == 450


def test_an_engine_larger_than_the_memory_is_skipped(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    result = scripted_bench(tmp_path, {"available_bytes": 10})
    assert "--mapped" in (result.rows[0].skipped or "")
    assert not result.ok
    assert scripted_bench(tmp_path, {"available_bytes": 10}, mapped=True).ok
