"""What ways of measuring claim on simulated machines: ours, and others.

    python benchmarks/method.py [--benches 1000]

Each way benches the same eight engines against `full` on the same seeded machines (`Weather` in
tests/support/simulated.py: correlated noise, outliers, drift, throttling, a speed of its own for
every load of an engine), once with all of them equal and once with one of them 1 % slower, and is
given about the same number of forwards. Writes `benchmarks/results/method.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

from simulated import SimulatedEngine, SimulatedTestbed, Weather  # noqa: E402
from tinyengines import Tiny, make_engine  # noqa: E402

from wanrt.bench.options import BenchOptions  # noqa: E402
from wanrt.bench.run import bench_folders  # noqa: E402
from wanrt.manifest.folder import EngineFolder, open_folder  # noqa: E402
from wanrt.results.stats import correct_holm  # noqa: E402

RESULTS = Path(__file__).parent / "results"
SLOWER = 1.01
CHANGED = 3
OURS = BenchOptions(half_width=0.003, time_budget_s=math.inf)
FORWARDS = 180  # of each engine: 30 loads of 3 rounds there and back, as ours comes to
Claims = set[int]
Way = Callable[[SimulatedTestbed, list[EngineFolder]], Claims]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways of measuring.")
    parser.add_argument("--benches", type=int, default=1000, help="simulated, of each kind")
    count = parser.parse_args().benches
    with tempfile.TemporaryDirectory() as folder:
        engines = make_engines(Path(folder))
        rows = {name: judge(way, engines, count) for name, way in WAYS.items()}
    results = {"benches": count, "weather": asdict(Weather()), "ways": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "method.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    (RESULTS / "method.md").write_text(text)
    print(text)


def make_engines(root: Path) -> list[EngineFolder]:
    """Make `full` and eight others; what they would compute doesn't matter."""
    kinds = [Tiny(name="full")]
    kinds += [Tiny(name=f"separate-{r}", mode="separate", rank=r) for r in range(1, 9)]
    return [open_folder(make_engine(root / kind.name, kind)) for kind in kinds]


def judge(way: Way, engines: list[EngineFolder], count: int) -> dict[str, float]:
    """Return how often a way claims a difference that isn't there, and finds the one that is."""
    false = sum(bool(way(SimulatedTestbed(seed), engines)) for seed in range(count))
    true_s = {f"separate-{CHANGED}": SLOWER}
    testbeds = (SimulatedTestbed(count + seed, true_s) for seed in range(count))
    found = sum(CHANGED in way(testbed, engines) for testbed in testbeds)
    return {"false": false / count, "found": found / count}


def ours(testbed: SimulatedTestbed, engines: list[EngineFolder]) -> Claims:
    """Bench as `wanrt bench --half-width 0.3%` does."""
    result = bench_folders(engines, OURS, testbed=testbed)
    return {
        row.rank or 0
        for row in result.rows
        if not row.control and row.ratio and row.ratio.verdict in ("faster", "slower")
    }


def hodges_lehmann(testbed: SimulatedTestbed, engines: list[EngineFolder]) -> Claims:
    """Bench so too, but take a load's ratio by Hodges and Lehmann from its rounds' log ratios."""
    rows = [row for row in bench_folders(engines, OURS, testbed=testbed).rows if not row.control]
    loads = 1 + rows[0].forwards[-1].load
    logs = np.log([[forward.seconds for forward in row.forwards] for row in rows])
    rounds = logs.reshape(len(rows), loads, -1, 2).mean(axis=3)  # [engine, load, round]
    i, j = np.triu_indices(rounds.shape[2])
    ratios = rounds[:1] - rounds[1:]
    levels = np.median((ratios[..., i] + ratios[..., j]) / 2, axis=2)
    p_values = correct_holm([float(stats.ttest_1samp(own, 0.0).pvalue) for own in levels])
    return {n for n, p in enumerate(p_values, start=1) if p < 0.05}


def one_after_the_other(testbed: SimulatedTestbed, engines: list[EngineFolder]) -> Claims:
    """Load each engine once, run all its forwards, compare means by Welch's t-test."""
    samples: list[list[float]] = []
    for _ in engines:
        engine = load(testbed, len(samples))
        engine.time_forward()
        samples.append([engine.time_forward() for _ in range(FORWARDS)])
    return {
        i
        for i in range(1, len(samples))
        if stats.ttest_ind(samples[i], samples[0], equal_var=False).pvalue < 0.05
    }


def interleaved(testbed: SimulatedTestbed, engines: list[EngineFolder]) -> Claims:
    """Load all engines once, run them in random rounds, test log ratios by Wilcoxon's test."""
    loaded = [load(testbed, i) for i in range(len(engines))]
    rng = np.random.default_rng(testbed.seed)
    seconds = np.empty((FORWARDS // 2, len(loaded)))
    for row in seconds:
        for i in rng.permutation(len(loaded)):
            loaded[i].time_forward()
            row[i] = loaded[i].time_forward()
    ratios = np.log(seconds[:, 1:] / seconds[:, :1])
    return {i + 1 for i, own in enumerate(ratios.T) if stats.wilcoxon(own).pvalue < 0.05}


def load(testbed: SimulatedTestbed, index: int) -> SimulatedEngine:
    """Load the engine of a rank; 0 is `full`."""
    return testbed.load_named(f"separate-{index}" if index else "full")


WAYS: dict[str, Way] = {
    "wanrt bench": ours,
    "the same benches, Hodges-Lehmann of rounds, Student of loads, Holm": hodges_lehmann,
    "one engine after the other, means, t-test": one_after_the_other,
    "one load each, interleaved rounds, Wilcoxon": interleaved,
}


def table(results: dict[str, object]) -> str:
    rows = results["ways"]
    assert isinstance(rows, dict)
    lines = [
        "# Ways of measuring on simulated machines",
        "",
        f"`python benchmarks/method.py`: {results['benches']} benches of eight engines against "
        "`full` each; a claim is false if all are equal, and found if one is 1 % slower.",
        "",
        "| way | benches with a false claim | 1 % found |",
        "|---|--:|--:|",
    ]
    lines += [f"| {name} | {r['false']:.1%} | {r['found']:.1%} |" for name, r in rows.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
