"""Benches on a scripted clock, and what of their results tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faketestbed import FakeTestbed, Script

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.results.result import BenchResult, CandidateResult

TIMES = {
    "tiny-full": [0.100],
    "tiny-merged-r4": [0.100],
    "tiny-separate-r4": [0.125],
    "tiny-swappable r2": [0.160],
    "tiny-swappable r4": [0.200],
}


def scripted_bench(root: Path, script: dict[str, Any] | None = None, **options: Any) -> BenchResult:
    """Bench engines by a script: three loads of four rounds, unless told otherwise."""
    testbed = FakeTestbed(Script(**({"forward_s": TIMES} | (script or {}))))
    return bench_engines(
        [root], BenchOptions(**({"loads": 3, "rounds": 4} | options)), testbed=testbed
    )


def shown(result: BenchResult) -> list[CandidateResult]:
    """Return the rows of a result's tables."""
    return [row for row in result.rows if not row.control]


def rows_of(result: BenchResult) -> dict[str, CandidateResult]:
    """Return the rows of tables by label and dtype."""
    return {f"{row.label} {row.dtype}": row for row in shown(result)}


def ratio_of(row: CandidateResult) -> float:
    assert row.ratio is not None
    return row.ratio.value
