"""The text of a bench, whole, and the files that it saves."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benches import FULL, bench, group, row
from faketestbed import FakeTestbed, Script
from tinyengines import Tiny, make_engine, make_family, read_raw, write_manifest

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.errors import ResultsError
from wanrt.report.csv import to_csv
from wanrt.report.headline import sentences
from wanrt.report.markdown import to_markdown
from wanrt.report.table import render_advice, render_bench
from wanrt.results.json import to_json
from wanrt.results.result import BenchResult
from wanrt.results.values import Probe
from wanrt.storage.files import write_text
from wanrt.terminal.text import WIDTH

GIB = 2**30
VIDEO = {"832x480x81": 32760}
SCRIPT: dict[str, Any] = {
    "forward_s": {
        "tiny-full": [2.412, 2.420, 2.405],
        "tiny-merged-r4": [2.413, 2.404, 2.420],
        "tiny-separate-r4": [2.431, 2.440, 2.425],
        "tiny-swappable r2": [2.502],
        "tiny-swappable r4": [2.512],
    },
    "unsupported": {"tiny-bf16": "bf16 doesn't run on ONNX Runtime's CPU"},
    "memory_bytes": {
        "tiny-full": 41 * GIB,
        "tiny-merged-r4": 41 * GIB,
        "tiny-separate-r4": 41 * GIB + GIB // 5,
        "tiny-swappable": 42 * GIB,
    },
}

GOLDEN = """\
A separate adapter of rank 4 costs 0.8 % of the speed (0.3 to 1.4 %)
    [random weights]

Fake CPU · 2 cores · 2 threads · onnxruntime 1.2.3
forward: a scripted clock, nothing is run

tiny · 832x480x81 · 32 760 tokens per forward · random weights

  candidate         forward    tok/s  to full (95 %)             memory
  full         fp32 2.412 s  13.58 k  1 (A/A 0.990 to 1.010)   41.0 GiB R
  merged r4    fp32 2.413 s  13.58 k  no measurable difference 41.0 GiB R
  separate r4  bf16  skipped: bf16 doesn't run on ONNX Runtime's CPU [RU]
  separate r4  fp32 2.431 s  13.48 k  0.992 (0.986 to 0.997)   41.2 GiB R
  swappable r2 fp32 2.502 s  13.09 k  0.964 (0.958 to 0.969)   42.0 GiB R
  swappable r4 fp32 2.512 s  13.04 k  0.960 (0.955 to 0.965)   42.0 GiB R
  R: random weights · U: unverified

A swappable adapter costs 3.6 % (rank 2) to 4.0 % (rank 4) of the speed
    [random weights]
A merged adapter of rank 4 costs nothing measurable [random weights]
full carries the base's own weights; a fine-tune's run at the same speed
3 loads of every engine, 3 rounds of 2 forwards each; half-width of the
    intervals 0.51% to 0.54%
"""

VERBOSE = """\
A separate adapter of rank 4 costs 0.9 % of the speed (0.5 to 1.3 %)
    [random weights]

Fake CPU · 2 cores · 2 threads · onnxruntime 1.2.3
forward: a scripted clock, nothing is run

tiny · 832x480x81 · 32 760 tokens per forward · random weights

  candidate         forward    tok/s  to full (95 %)             memory
  full         fp32 2.412 s  13.58 k  1 (A/A 0.996 to 0.999)   41.0 GiB R
      n 24 · min 2.405 s · max 2.420 s · p95 2.420 s · CV 0.2% · 6.954 MFLOP/s
      error 3.0e-07, by its manifest
  merged r4    fp32 2.413 s  13.58 k  no measurable difference 41.0 GiB R
      n 24 · min 2.404 s · max 2.420 s · p95 2.420 s · CV 0.3% · 6.951 MFLOP/s
      error 3.0e-07, by its manifest
  separate r4  bf16  skipped: bf16 doesn't run on ONNX Runtime's CPU [RU]
  separate r4  fp32 2.431 s  13.48 k  0.991 (0.987 to 0.995)   41.2 GiB R
      n 24 · min 2.425 s · max 2.440 s · p95 2.440 s · CV 0.3% · 6.900 MFLOP/s
      error 3.0e-07, by its manifest
  swappable r2 fp32 2.502 s  13.09 k  0.963 (0.959 to 0.967)   42.0 GiB R
      n 24 · min 2.502 s · max 2.502 s · p95 2.502 s · CV 0.0% · 6.704 MFLOP/s
      error 3.0e-07, by its manifest
  swappable r4 fp32 2.512 s  13.04 k  0.959 (0.955 to 0.963)   42.0 GiB R
      n 24 · min 2.512 s · max 2.512 s · p95 2.512 s · CV 0.0% · 6.677 MFLOP/s
      error 3.0e-07, by its manifest
  R: random weights · U: unverified

A swappable adapter costs 3.7 % (rank 2) to 4.1 % (rank 4) of the speed
    [random weights]
A merged adapter of rank 4 costs nothing measurable [random weights]
full carries the base's own weights; a fine-tune's run at the same speed
3 loads of every engine, 4 rounds of 2 forwards each; half-width of the
    intervals 0.40% to 0.42%
"""

TROUBLE = """\
separate r4 a-very-long-name runs at 60.00 tokens per second, no ratios: no
    `full` engine was measured beside it

Fake CPU · 2 cores · 2 threads · onnxruntime 1.2.3
forward: a scripted clock, nothing is run

tiny · 64x32x1 · 6 tokens per forward

  candidate                  forward  tok/s  to full (95 %) memory
  merged r4            fp32  failed: ONNX Runtime: Failed to allocate memory
                             for requested buffer of size 33554432000
  separate r4 a-ve…ame fp32 100.0 ms  60.00  -                   -
  separate r4 s        fp32 100.0 ms  60.00  -                   - U
  U: unverified

no `full` engine of this model and workload: no ratios
2 loads of every engine, 3 rounds of 2 forwards each

failed: engines/d/engine.json is not JSON: Expecting property name enclosed in
    double quotes: line 1 column 2 (char 1) (move the folder away and build the
    engine again)

interrupted: only what was measured until then is shown
"""

MARKDOWN = """\
A separate adapter of rank 4 costs 0.8 % of the speed (0.3 to 1.4 %) [random weights]

Fake CPU · 2 cores · 2 threads · onnxruntime 1.2.3

tiny · 832x480x81 · 32 760 tokens per forward · random weights

| candidate | dtype | forward | tok/s | to full (95 %) | memory | weights |
|---|---|--:|--:|---|--:|---|
| full | fp32 | 2.412 s | 13.58 k | 1 (A/A 0.990 to 1.010) | 41.0 GiB | random weights |
| merged r4 | fp32 | 2.413 s | 13.58 k | no measurable difference | 41.0 GiB | random weights |
| separate r4 | bf16 |  |  | skipped: bf16 doesn't run on ONNX Runtime's CPU |  | random weights, unverified |
| separate r4 | fp32 | 2.431 s | 13.48 k | 0.992 (0.986 to 0.997) | 41.2 GiB | random weights |
| swappable r2 | fp32 | 2.502 s | 13.09 k | 0.964 (0.958 to 0.969) | 42.0 GiB | random weights |
| swappable r4 | fp32 | 2.512 s | 13.04 k | 0.960 (0.955 to 0.965) | 42.0 GiB | random weights |

- A swappable adapter costs 3.6 % (rank 2) to 4.0 % (rank 4) of the speed [random weights]
- A merged adapter of rank 4 costs nothing measurable [random weights]
- full carries the base's own weights; a fine-tune's run at the same speed
- 3 loads of every engine, 3 rounds of 2 forwards each; half-width of the intervals 0.51% to 0.54%
"""  # noqa: E501


def _result(root: Path, script: dict[str, Any] | None = None, **options: Any) -> BenchResult:
    testbed = FakeTestbed(Script(**(SCRIPT | (script or {}))))
    return bench_engines(
        [root], BenchOptions(**({"loads": 3, "rounds": 3} | options)), testbed=testbed
    )


@pytest.fixture
def family(tmp_path: Path) -> Path:
    root = make_family(tmp_path / "engines", workloads=VIDEO, full_finetune=False)
    half = Tiny(
        name="tiny-bf16", dtype="bf16", mode="separate", rank=4, verified=False, workloads=VIDEO
    )
    make_engine(root / "tiny-bf16", half)
    return root


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Real weights, no full engine, a long name, a failure, a broken folder."""
    monkeypatch.chdir(tmp_path)
    root = Path("engines")
    common: dict[str, Any] = {"rank": 4, "random_weights": False}
    make_engine(root / "s", Tiny(name="s", mode="separate", verified=False, **common))
    make_engine(root / "a-very-long-name", Tiny(name="b", mode="separate", **common))
    make_engine(root / "c", Tiny(name="c", mode="merged", **common))
    make_engine(root / "d", Tiny(name="d", mode="swappable", max_rank=4))
    (root / "d" / "engine.json").write_text("{")
    return root


def _trouble(root: Path) -> BenchResult:
    reason = "ONNX Runtime: Failed to allocate memory for requested buffer of size 33554432000"
    return _result(root, {"failing": {"c": reason}, "interrupt_at": 40})


def test_the_whole_text(family: Path) -> None:
    assert render_bench(_result(family)) == GOLDEN


def test_the_whole_text_verbose(family: Path) -> None:
    assert render_bench(_result(family, rounds=4), verbose=True) == VERBOSE


def test_the_whole_text_in_trouble(trouble: Path) -> None:
    assert render_bench(_trouble(trouble)) == TROUBLE


def test_the_whole_markdown(family: Path) -> None:
    assert to_markdown(_result(family)) == MARKDOWN


@pytest.mark.parametrize("seconds", [3e-6, 4.5e-4, 0.0123, 0.9, 7.1, 93.0, 4321.0])
@pytest.mark.parametrize("size", [900, 812 << 20, 999 << 30])
def test_every_table_fits_79_columns(tmp_path: Path, seconds: float, size: int) -> None:
    root = make_family(tmp_path, verified=False)
    make_engine(root / "a-very-long-name", Tiny(name="b"))
    times = {name: [s * seconds / 2.4 for s in row] for name, row in SCRIPT["forward_s"].items()}
    times["b"] = [seconds]
    memory = dict.fromkeys(SCRIPT["memory_bytes"], size)
    processor = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz with a name that goes on and on"
    script = {"forward_s": times, "memory_bytes": memory, "machine": {"processor": processor}}
    text = render_bench(_result(root, script, rounds=12), verbose=True)
    assert max(len(line) for line in text.splitlines()) <= WIDTH


def test_a_table_of_sixty_never_elides_a_rank() -> None:
    words = ("", " style", " a-very-long-name-of-a-style", " x0.5")
    rows = [
        row(f"{mode} r{rank}{words[i % 4]}", mode, rank, (0.98765, 0.98123, 0.99234))
        for mode in ("merged", "separate", "swappable")
        for i, rank in enumerate(range(1000, 1020))
    ]
    memory = Probe(memory_bytes=1023 * GIB)
    text = render_bench(bench(group(FULL, *(replace(one, probe=memory) for one in rows))))
    for one in rows:
        assert re.search(rf"^  {one.mode} r{one.rank}[ …]", text, re.MULTILINE), one.label
    assert max(map(len, text.splitlines())) <= WIDTH


def test_an_interval_that_excludes_one_never_prints_one(tmp_path: Path) -> None:
    times = {"tiny-full": [1.0], "tiny-merged-r4": [1.0], "tiny-separate-r4": [1.0002]}
    text = render_bench(_result(make_family(tmp_path), {"forward_s": times}))
    assert "0.9998 (0.9998 to 0.9998)" in text


def test_a_single_load_prints_no_interval(family: Path) -> None:
    text = render_bench(_result(family, loads=1))
    assert "k  0.989 (one load) " in text
    assert "\n1 load of every engine, 3 rounds of 2 forwards each\n" in text
    assert "\n1 load of every engine, 2 forwards each\n" in render_bench(
        _result(family, loads=1, rounds=1)
    )


def test_every_row_and_headline_says_random_weights(family: Path) -> None:
    lines = render_bench(_result(family)).splitlines()
    rows = [line for line in lines if re.match(r"  \w.* r4 ", line)]
    assert len(rows) == 4
    assert all("R" in row.rsplit(maxsplit=1)[-1] for row in rows)
    text = " ".join(" ".join(lines).split())
    assert text.count("[random weights]") == len(sentences(_result(family).groups[0])) == 3


def _from(family: Path, schemes: dict[str, str]) -> str:
    """Bench engines whose checkpoints were quantised, and return the table."""
    for folder in family.iterdir():
        manifest = read_raw(folder)
        manifest["sources"][0]["scheme"] = schemes.get(manifest["mode"])
        write_manifest(folder, manifest)
    return " ".join(render_bench(_result(family)).split())


def test_a_table_says_how_its_base_is_quantised(family: Path) -> None:
    text = _from(family, dict.fromkeys(("full", "merged", "separate", "swappable"), "fp8_scaled"))
    assert "tokens per forward · random weights · base: fp8_scaled " in text
    rows = json.loads(to_json(_result(family)))["results"]
    assert {row["scheme"] for row in rows} == {"fp8_scaled"}
    assert "base: fp8_scaled" in to_markdown(_result(family))
    assert {r["scheme"] for r in csv.DictReader(io.StringIO(to_csv(_result(family))))} == {
        "fp8_scaled"
    }


def test_a_table_of_several_bases_says_whose_is_which(family: Path) -> None:
    text = _from(family, {"merged": "gguf:Q8_0"})
    assert "base: gguf:Q8_0, of merged r4" in text
    assert "base: not quantised, of full" in text


def test_warnings_name_the_candidate_and_a_remedy(family: Path) -> None:
    script = {"machine": {"load_average": 1.5}}
    text = render_advice(_result(family, script, loads=1))
    assert text.startswith("warning[busy-machine]: load average 1.50 on 2 cores before the start\n")
    assert "warning[unresolved]: merged r4 fp32, separate r4 fp32, swappable r2 fp32," in text
    assert text.count("   hint: ") == text.count("warning[") == 2
    assert max(map(len, text.splitlines())) <= WIDTH


def test_warnings_name_the_workload_where_there_are_several(tmp_path: Path) -> None:
    for mode in ("full", "merged"):
        rank = 4 if mode == "merged" else None
        tiny = Tiny(mode=mode, rank=rank, name=f"tiny-{mode}", workloads={"large": 10, "small": 6})
        make_engine(tmp_path / mode, tiny)
    text = render_advice(_result(tmp_path, loads=1))
    for workload in ("large", "small"):
        assert f"warning[unresolved]: tiny {workload}: merged r4, full A/A: one load is" in text


def test_json_keeps_every_time(family: Path) -> None:
    value = json.loads(to_json(_result(family)))
    rows = {(row["label"], row["dtype"]): row for row in value["results"]}
    assert value["schema"] == 3
    assert value["context"]["machine"]["processor"] == "Fake CPU"
    assert value["context"]["options"]["rounds"] == 3
    separate = rows["separate r4", "fp32"]
    assert len(separate["forward_s"]["times"]) == 18
    assert separate["forward_s"]["rounds"] == [r for r in range(3) for _ in range(2)] * 3
    assert separate["forward_s"]["loads"] == [load for load in range(3) for _ in range(6)]
    assert separate["forward_s"]["median"] == 2.431
    assert separate["ratio"]["verdict"] == "slower"
    assert rows["separate r4", "bf16"]["forward_s"] is None
    assert "bf16" in rows["separate r4", "bf16"]["skipped"]
    assert all(row["random_weights"] for row in rows.values())


def test_csv_has_a_line_per_candidate(family: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(_result(family)))))
    by_name = {(row["candidate"], row["dtype"]): row for row in rows}
    assert len(rows) == 7
    assert float(by_name["separate r4", "fp32"]["median_s"]) == 2.431
    assert by_name["separate r4", "bf16"]["median_s"] == ""
    assert by_name["full", "fp32"]["verdict"] == "baseline"


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ResultsError, match="nowhere isn't a folder"):
        write_text(tmp_path / "nowhere" / "out.json", "x")
    with pytest.raises(ResultsError, match="it is a folder"):
        write_text(tmp_path, "x")
