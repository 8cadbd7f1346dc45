"""Figures on pages are those of benchmarks/results, and say of what kind they are.

What was worked out by a formula, read from a plan, and measured are three things: each page that
shows one names it, and a measured table holds none of the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from pages import ROOT

from wanexport.build.request import BuildRequest
from wanexport.cost import price_engines
from wanexport.model.config import load_config

RESULTS = ROOT / "benchmarks/results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXPLAIN = " ".join((ROOT / "docs/explain.md").read_text(encoding="utf-8").split())
PREDICTING = (ROOT / "docs/predicting.md").read_text(encoding="utf-8")
TARGETS = {"cross-attention": "cross-attention", "all linear layers": "all linears"}
Row = Mapping[str, Any]


def cases(**wanted: object) -> list[Row]:
    """Return the plans that were read of one layer at 480p for an RTX 5090, with all forms."""
    rows = json.loads((RESULTS / "compiled_block.json").read_text(encoding="utf-8"))
    most = max(len(row["forms"]) for row in rows)
    plain = {"size": "480p", "capability": "12.0", "layers": 1, "dtype": "bf16"} | wanted
    return [
        row
        for row in rows
        if len(row["forms"]) == most and all(row[key] == value for key, value in plain.items())
    ]


def beyond_full(row: Row) -> float:
    """Return the GB that a plan moves beyond the full engine's."""
    (full,) = cases(mode="full")
    return float(row["moved"] - full["moved"]) / 1e9


def paragraph_before(table: str) -> str:
    """Return the text that stands above a table of the README."""
    return " ".join(README[: README.index(table)].split("\n\n")[-2].split())


@pytest.mark.parametrize(("shown", "targets"), TARGETS.items())
def test_what_the_readme_says_of_plans_was_read_from_them(shown: str, targets: str) -> None:
    (full,) = cases(mode="full")
    cells = []
    for mode in ("separate", "swappable"):
        (row,) = cases(mode=mode, rank=32, targets=targets)
        slower = 100 * (row["bound_s"] / full["bound_s"] - 1)
        cells.append(f"+{beyond_full(row):.2f} GB, +{slower:.2f} %")
    assert f"| {shown} | {cells[0]} | {cells[1]} | 0 |" in README


def test_the_readme_calls_them_what_they_are() -> None:
    above = paragraph_before("| LoRA on |")
    (full,) = cases(mode="full")
    assert f"bytes moved beside {full['moved'] / 1e9:.2f} GB" in above
    assert "read from TensorRT-RTX plans" in above
    assert "Worked out, never measured." in above


def test_what_the_readme_calls_measured_is_the_gpu_s() -> None:
    steps = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))["steps"]
    ceiling, errors = steps["card"]["matmul"]["flops_per_s"], steps["layers"]["parity"]
    kernels = steps["kernels"]
    for shown, name, error in (
        ("full", "full", "full"),
        ("separate r32", "separate-r32", "separate"),
        ("diffusers' model in torch 2.11, eager", "torch-eager", "torch bf16, full"),
    ):
        rate = kernels[name]["flops"] / kernels[name]["forward_s"] / ceiling
        distance = f"{errors[error]:.1e}".replace("e-0", "e-")
        cells = f"{kernels[name]['forward_s'] * 1e3:.0f} ms | {100 * rate:.0f} % | {distance}"
        assert f"| {shown} | {cells} |" in README
    assert "measured" in README[README.index("| | forward |") :].split("\n")[0]


def test_the_page_on_plans_has_their_figures() -> None:
    separate = [cases(mode="separate", rank=r, targets="cross-attention")[0] for r in (8, 256)]
    (full,), (every,) = cases(mode="full"), cases(mode="separate", rank=32, targets="all linears")
    low, high = (f"{beyond_full(row):.2f}" for row in separate)
    beside = f"{full['moved'] / 1e9:.2f}"
    assert f"({low} GB at rank 8, {high} at 256, beside {beside})" in EXPLAIN
    assert f"({beyond_full(every):.2f} GB on all linear layers)" in EXPLAIN
    assert "It is worked out, not measured." in EXPLAIN


def test_the_page_on_formulas_has_no_figure_of_a_plan_or_a_clock() -> None:
    assert "at best" in PREDICTING
    assert not re.search(r"compiled_block|results/gpu|read from (a|the) plan", PREDICTING)
    for said in ("bound, not a forecast", "LoRA is what its branch adds to the forward"):
        assert said in " ".join(PREDICTING.replace("\n  ", " ").split())


CHOOSING = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("shown", "targets"), TARGETS.items())
def test_what_choosing_says_of_plans_was_read_from_them(shown: str, targets: str) -> None:
    (full,) = cases(mode="full")
    cells = []
    for mode in ("separate", "swappable"):
        for rank in (32, 128):
            (row,) = cases(mode=mode, rank=rank, targets=targets)
            cells.append(f"+{100 * (row['bound_s'] / full['bound_s'] - 1):.2f} %")
    assert f"| {shown} | {' | '.join(cells)} |" in CHOOSING
    assert "worked out from the plans, not measured" in " ".join(CHOOSING.split())


@pytest.mark.parametrize(
    "name",
    ["wan2.1-t2v-1.3b-480p", "wan2.1-fun-1.3b-inp-480p", "wan2.1-t2v-14b-480p",
     "wan2.1-i2v-14b-480p"],
)  # fmt: skip
def test_what_choosing_says_of_cards_is_the_estimate(name: str) -> None:
    config = load_config(name)
    assert config.dtype == "bf16"
    request = BuildRequest(config, modes=("swappable",), ranks=(32,), targets=("all",))
    (cost,) = price_engines(request)
    least = sum(cost.memory["forward"].values()) / 1e9
    cells = []
    for card in (24, 32, 80):
        left = card - least
        cells.append("no" if left < 0 else f"by {left:.1f} GB" if left < 4 else "fits")
    assert f"| {name} | {least:.2f} GB | {' | '.join(cells)} |" in CHOOSING


def test_what_choosing_calls_measured_is_in_the_results() -> None:
    stacks = (RESULTS / "stacks.md").read_text(encoding="utf-8")
    for what, unit in (("swap of two adapters", "ms"), ("change of both strengths", "us")):
        found = re.search(rf"- {what}.*: median ([0-9.]+) {unit}", stacks)
        assert found is not None
        assert f"takes {found[1]} {unit}" in " ".join(CHOOSING.split())
