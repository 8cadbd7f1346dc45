"""What engines keep of their fine-tune's effect: from engine.json into every report, or nowhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benches import FULL, MERGED, SEPARATE, bench, group
from commands import wanrt
from scripted import rows_of, scripted_bench
from tinyengines import make_family, read_raw, write_manifest

from wanrt.report.csv import to_csv
from wanrt.report.fidelity import fidelity_lines
from wanrt.report.markdown import to_markdown
from wanrt.report.table import render_bench
from wanrt.results.json import to_json

FINETUNE = "0" * 64  # the file that all tiny engines are made of
TUNED = replace(FULL, keeps=0.99998)
NARROW = replace(SEPARATE, keeps=0.9812)
WORSE = replace(MERGED, keeps=-0.0731)


def test_the_table() -> None:
    found = group(TUNED, NARROW, WORSE)
    assert fidelity_lines(found, found.candidates) == [
        "  of the fine-tune's effect    keeps",
        "  full                       100.0 %",
        "  separate r32                98.1 %",
        "  merged r32                  -7.3 %",
    ]
    plain = group(FULL, MERGED)
    assert fidelity_lines(plain, plain.candidates) == []


def test_every_report_has_it() -> None:
    result = bench(group(TUNED, NARROW, MERGED))
    assert "  separate r32                98.1 %\n" in render_bench(result)
    assert "| separate r32 | 98.1 % |" in to_markdown(result)
    assert ",0.9812," in to_csv(result)
    assert [row["keeps"] for row in json.loads(to_json(result))["results"]] == [
        0.99998, 0.9812, None,
    ]  # fmt: skip
    assert "keeps" not in render_bench(bench(group(FULL, MERGED)))


def record(folder: Path, *keeps: float, finetuned: str = FINETUNE) -> None:
    raw = read_raw(folder)
    raw["verification"]["fidelity"] = {
        "keeps": keeps, "timesteps": [900, 500, 100], "finetuned": [finetuned],
    }  # fmt: skip
    write_manifest(folder, raw)


def kept(root: Path) -> dict[str, Any]:
    return {name: row.keeps for name, row in rows_of(scripted_bench(root)).items()}


def test_a_bench_takes_what_engines_record_of_its_own_fine_tune(tmp_path: Path) -> None:
    make_family(tmp_path)
    assert set(kept(tmp_path).values()) == {None}
    record(tmp_path / "tiny-full", 1.0)
    record(tmp_path / "tiny-merged-r4", 0.75, finetuned="1" * 64)  # of an earlier one
    record(tmp_path / "tiny-separate-r4", 0.75)
    record(tmp_path / "tiny-swappable", 0.5, 0.75)
    assert kept(tmp_path) == {
        "full fp32": 1.0, "merged r4 fp32": None, "separate r4 fp32": 0.75,
        "swappable r2 fp32": 0.5, "swappable r4 fp32": 0.75,
    }  # fmt: skip


def test_info_says_of_which_fine_tune(tmp_path: Path) -> None:
    make_family(tmp_path)
    record(tmp_path / "tiny-swappable", 0.5, 0.75)
    told = " ".join(wanrt("info", tmp_path / "tiny-swappable").out.split())
    assert (
        "keeps 50.0 %, 75.0 % of the effect of the full fine-tune 000000000000, "
        "at timestep 900, 500, 100" in told
    )
