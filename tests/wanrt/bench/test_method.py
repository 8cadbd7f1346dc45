"""The measuring method on simulated machines: how often it claims what isn't so.

`benchmarks/method.py` does it on a thousand, and against other methods.
"""

from __future__ import annotations

import math

import pytest
from simulated import SimulatedTestbed
from tinyengines import Tiny, make_engine

from wanrt.bench.options import BenchOptions
from wanrt.bench.run import bench_folders
from wanrt.manifest.folder import EngineFolder, open_folder
from wanrt.results.result import BenchResult

EQUAL = 120
DIFFERENT = 80
UNSTEADY = 400
OPTIONS = BenchOptions(half_width=0.003, time_budget_s=math.inf)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[EngineFolder]:
    """A full engine and eight others."""
    root = tmp_path_factory.mktemp("engines")
    kinds = [Tiny(name="full")]
    kinds += [Tiny(name=f"merged-{r}", mode="merged", rank=r) for r in (2, 4)]
    kinds += [Tiny(name=f"separate-{r}", mode="separate", rank=r) for r in range(1, 7)]
    return [open_folder(make_engine(root / kind.name, kind)) for kind in kinds]


def bench(engines: list[EngineFolder], seed: int, **true_s: float) -> BenchResult:
    testbed = SimulatedTestbed(seed, {name.replace("_", "-"): s for name, s in true_s.items()})
    return bench_folders(engines, OPTIONS, testbed=testbed)


def claims(result: BenchResult) -> list[str]:
    return [
        row.label
        for row in result.rows
        if not row.control and row.ratio and row.ratio.verdict in ("faster", "slower")
    ]


def test_equal_engines_are_rarely_told_apart(engines: list[EngineFolder]) -> None:
    false = sum(bool(claims(bench(engines, seed))) for seed in range(EQUAL))
    assert false <= 0.065 * EQUAL


def test_one_percent_is_found(engines: list[EngineFolder]) -> None:
    found = sum(
        "separate r3" in claims(bench(engines, 10_000 + seed, separate_3=1.01))
        for seed in range(DIFFERENT)
    )
    assert found >= 0.95 * DIFFERENT


def test_an_unsteady_engine_is_not_told_apart_for_it(engines: list[EngineFolder]) -> None:
    unsteady = {"separate-2": 0.01}
    few = BenchOptions(loads=3, rounds=3)
    testbeds = (SimulatedTestbed(s, load_effects=unsteady) for s in range(UNSTEADY))
    false = sum(bool(claims(bench_folders(engines, few, testbed=testbed))) for testbed in testbeds)
    assert false <= 0.065 * UNSTEADY
