"""What a bench claims of loads that scatter, beside its controls, of many candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faketestbed import FakeEngine, FakeTestbed, Script
from tinyengines import Tiny, make_engine

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.results.result import CandidateResult


class Loaded(FakeTestbed):
    """Every load of an engine has a speed of its own: what the script says, one after another."""

    def load(self, *args: Any) -> FakeEngine:
        engine = super().load(*args)
        seconds = super().spend(f"load {engine._name}", None)
        engine.time_forward = lambda: seconds  # type: ignore[method-assign]
        return engine


def _load_by_load(root: Path, **by_load: list[float]) -> dict[str, CandidateResult]:
    forward_s = {f"load {name}": times for name, times in by_load.items()}
    options = BenchOptions(loads=6, rounds=2, half_width=0.01)
    result = bench_engines([root], options, testbed=Loaded(Script(forward_s=forward_s)))
    return {row.label: row for row in result.rows}


def test_a_claim_must_exceed_the_controls(tmp_path: Path) -> None:
    for name, mode in (("f", "full"), ("m", "merged"), ("s", "separate")):
        make_engine(tmp_path / name, Tiny(name=name, mode=mode, rank=4 if mode != "full" else None))
    steady = {"f": [1.0], "m": [1.0], "s": [1.02]}
    rows = _load_by_load(tmp_path, **steady)
    assert [rows[name].ratio.verdict for name in ("merged r4", "separate r4")] == ["same", "slower"]  # type: ignore[union-attr]
    # merged runs full's own graph: what it shows without a reason is no finding elsewhere
    rows = _load_by_load(tmp_path, **(steady | {"m": [1.03]}))
    merged, separate = rows["merged r4"], rows["separate r4"]
    assert merged.ratio is not None
    assert separate.ratio is not None
    assert (merged.ratio.verdict, separate.ratio.verdict) == ("slower", "same")
    assert "control" in [advice.code for advice in merged.advice]


def test_loads_that_scatter_are_no_claim_however_many_rounds(tmp_path: Path) -> None:
    make_engine(tmp_path / "f", Tiny(name="f"))
    make_engine(tmp_path / "s", Tiny(name="s", mode="separate", rank=4))
    scatter = [1.02, 0.99, 1.03, 1.0, 0.98, 1.01]
    row = _load_by_load(tmp_path, f=[1.0], s=scatter)["separate r4"]
    assert row.ratio is not None
    assert (row.ratio.loads, row.ratio.rounds, row.ratio.verdict) == (6, 12, "same")
    assert [advice.code for advice in row.advice] == ["unresolved"]


def test_claims_are_corrected_for_their_number(tmp_path: Path) -> None:
    make_engine(tmp_path / "f", Tiny(name="f"))
    for rank in range(1, 10):
        make_engine(tmp_path / f"s{rank}", Tiny(name=f"s{rank}", mode="separate", rank=rank))
    shifted = [1.006, 0.9995, 1.008, 1.002, 1.007, 1.003]
    alone = _load_by_load(tmp_path / "f", f=[1.0])
    assert list(alone) == ["full", "full A/A"]
    equal = {f"s{rank}": [1.0] for rank in range(1, 10)}
    rows = _load_by_load(tmp_path, **{"f": [1.0]} | equal | {"s3": shifted})
    assert rows["separate r3"].ratio is not None
    assert rows["separate r3"].ratio.high is not None
    assert rows["separate r3"].ratio.p is not None
    own = 1 - rows["separate r3"].ratio.high
    assert own > 0  # the interval excludes 1, and yet:
    assert rows["separate r3"].ratio.verdict == "same"
    assert 0.05 < rows["separate r3"].ratio.p < 0.5
