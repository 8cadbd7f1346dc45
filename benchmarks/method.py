"""What ways of measuring claim on simulated machines, and of combining cards: ours, and others.

    python benchmarks/method.py [--benches 1000] [--fleets 600] [--only ways|fleets]

Each way benches the same eight engines against `full` on the same seeded machines (`Weather` in
tests/support/simulated.py: correlated noise, outliers, drift, throttling, a speed of its own for
every load of an engine), once with all of them equal and once with one of them 1 % slower, and is
given about the same number of forwards.

Fleets are cards of one model: an engine's true speed differs from card to card. Each card is
benched as `wanrt bench` does it, and each way says where the mean over all cards of the model is.

Writes `benchmarks/results/method.{json,md}`; a part that `--only` leaves out stays as it was.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

from simulated import SimulatedEngine, SimulatedTestbed, Weather  # noqa: E402
from tinyengines import Tiny, make_engine  # noqa: E402

from wanrt.bench.options import BenchOptions  # noqa: E402
from wanrt.bench.run import bench_folders  # noqa: E402
from wanrt.manifest.folder import EngineFolder, open_folder  # noqa: E402
from wanrt.results.cards import combine_cards  # noqa: E402
from wanrt.results.result import BenchResult  # noqa: E402
from wanrt.results.stats import average, correct_holm  # noqa: E402
from wanrt.results.values import Ratio  # noqa: E402

RESULTS = Path(__file__).parent / "results"
SLOWER = 1.01
CHANGED = 3
OURS = BenchOptions(half_width=0.003, time_budget_s=math.inf)
FORWARDS = 180  # of each engine: 30 loads of 3 rounds there and back, as ours comes to
CARDS = (3, 4, 8)
CARD_EFFECT = 0.003
LOAD_EFFECT = CARD_EFFECT / math.sqrt(2)  # of each of the two engines of a ratio
ON_EACH_CARD = BenchOptions(loads=4, rounds=12)
Claims = set[int]
Interval = tuple[float, float]
Way = Callable[[SimulatedTestbed, list[EngineFolder]], Claims]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways of measuring.")
    parser.add_argument("--benches", type=int, default=1000, help="simulated, of each kind")
    parser.add_argument("--fleets", type=int, default=600, help="simulated")
    parser.add_argument("--only", choices=("ways", "fleets"), help="measure this part alone")
    args = parser.parse_args()
    path = RESULTS / "method.json"
    results = json.loads(path.read_text()) if args.only else {}
    with tempfile.TemporaryDirectory() as folder:
        engines = make_engines(Path(folder))
        if args.only != "fleets":
            rows = {name: judge(way, engines, args.benches) for name, way in WAYS.items()}
            results |= {"benches": args.benches, "weather": asdict(Weather()), "ways": rows}
        if args.only != "ways":
            results["fleets"] = judge_fleets(engines[:2], args.fleets)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    text = table(results) + fleet_table(results["fleets"])
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


def judge_fleets(engines: list[EngineFolder], count: int) -> dict[str, object]:
    """Return how often each way's 95 % interval holds the truth, by the number of cards."""
    held: dict[str, dict[int, list[bool]]] = {}
    widths: dict[int, list[float]] = {cards: [] for cards in CARDS}
    truth = -math.log(SLOWER)
    for seed in range(count):
        effects = np.random.default_rng(seed).normal(0, CARD_EFFECT, CARDS[-1] + 1)
        fleet = [
            bench_card(engines, seed * 100 + card, effect) for card, effect in enumerate(effects)
        ]
        following = log_ratio(fleet[-1])
        for cards in CARDS:
            found = {name: way(fleet[:cards]) for name, way in FLEET_WAYS.items()}
            for name, (low, high) in found.items():
                at = following if name == AHEAD else truth
                held.setdefault(name, {}).setdefault(cards, []).append(low <= at <= high)
            low, high = found[COMBINE]
            widths[cards].append((high - low) / 2)
    return {
        "fleets": count,
        "card_effect": CARD_EFFECT,
        "loads": ON_EACH_CARD.loads,
        "covered": {name: {n: fmean(by[n]) for n in CARDS} for name, by in held.items()},
        "half_width": {cards: fmean(found) for cards, found in widths.items()},
    }


def bench_card(engines: list[EngineFolder], seed: int, effect: float) -> BenchResult:
    """Bench `full` and another engine on a card where that one's speed differs by so much."""
    true_s = {engines[1].manifest.name: SLOWER * math.exp(-effect)}
    testbed = SimulatedTestbed(seed, true_s, Weather(load_effect=LOAD_EFFECT))
    result = bench_folders(engines, ON_EACH_CARD, testbed=testbed)
    machine = replace(result.machine, gpu="simulated", gpu_uuid=f"GPU-{seed:08d}")
    return replace(result, machine=machine)


def log_ratio(result: BenchResult) -> float:
    """Return the logarithm of the ratio that a card's bench came to."""
    (row,) = (row for row in result.rows if row.mode == "separate")
    assert row.ratio is not None
    return math.log(row.ratio.value)


def combined(fleet: list[BenchResult]) -> Interval:
    """Combine as `wanrt combine` does."""
    row = combine_cards([(f"{n}", result) for n, result in enumerate(fleet)]).groups[0].rows[1]
    return ends(row.row.ratio)


def ends(ratio: Ratio | None) -> Interval:
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.high is not None
    return math.log(ratio.low), math.log(ratio.high)


def next_card(fleet: list[BenchResult]) -> Interval:
    """Return where `wanrt combine` expects the next card's bench."""
    row = combine_cards([(f"{n}", result) for n, result in enumerate(fleet)]).groups[0].rows[1]
    low, high = row.ahead or (1.0, 1.0)
    return math.log(low), math.log(high)


def load_ratios(result: BenchResult) -> list[float]:
    """Return each load's log ratio: the median over forwards beside each other."""
    by_load: list[dict[int, list[float]]] = []
    for row in (row for row in result.rows if not row.control):
        loads: dict[int, list[float]] = {}
        for forward in row.forwards:
            loads.setdefault(forward.load, []).append(math.log(forward.seconds))
        by_load.append(loads)
    full, other = by_load
    return [median(a - b for a, b in zip(full[load], other[load], strict=True)) for load in full]


def pooled_loads(fleet: list[BenchResult]) -> Interval:
    """Take all loads of all cards as one sample, with Student's interval."""
    found = average([ratio for result in fleet for ratio in load_ratios(result)])
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def first_card(fleet: list[BenchResult]) -> Interval:
    """Take what the first card's bench says for all."""
    (row,) = (row for row in fleet[0].rows if row.mode == "separate")
    return ends(row.ratio)


def random_effects(fleet: list[BenchResult]) -> Interval:
    """Weigh cards as DerSimonian and Laird do (Controlled Clinical Trials 7, 1986), normal."""
    samples = [load_ratios(result) for result in fleet]
    means = np.array([fmean(sample) for sample in samples])
    errors = np.array([np.var(sample, ddof=1) / len(sample) for sample in samples])
    weights = 1 / errors
    centre = weights @ means / weights.sum()
    scale = weights.sum() - np.square(weights).sum() / weights.sum()
    between = max(0.0, float(weights @ np.square(means - centre) - len(fleet) + 1) / scale)
    weights = 1 / (errors + between)
    mean, reach = float(weights @ means / weights.sum()), 1.96 / math.sqrt(weights.sum())
    return mean - reach, mean + reach


WAYS: dict[str, Way] = {
    "wanrt bench": ours,
    "the same benches, Hodges-Lehmann of rounds, Student of loads, Holm": hodges_lehmann,
    "one engine after the other, means, t-test": one_after_the_other,
    "one load each, interleaved rounds, Wilcoxon": interleaved,
}
COMBINE, AHEAD = "wanrt combine", "wanrt combine, the next card"
FLEET_WAYS: dict[str, Callable[[list[BenchResult]], Interval]] = {
    COMBINE: combined,
    AHEAD: next_card,
    "all loads of all cards as one sample": pooled_loads,
    "one card's bench": first_card,
    "cards weighed as in a meta-analysis (DerSimonian-Laird)": random_effects,
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


def fleet_table(fleets: dict[str, Any]) -> str:
    """Return the coverage by the number of cards; keys are strings where a file was read."""
    counts = [f"{cards}" for cards in CARDS]
    covered = {
        name: {f"{n}": share for n, share in by.items()} for name, by in fleets["covered"].items()
    }
    widths = {f"{n}": width for n, width in fleets["half_width"].items()}
    lines = [
        "",
        "# Ways of combining cards",
        "",
        f"{fleets['fleets']} simulated fleets: an engine 1 % slower than `full` on the average "
        f"card, by {fleets['card_effect']:.1%} more or less on each (standard deviation), and "
        f"{fleets['loads']} loads a card, each off by as much. How often a nominal 95 % interval "
        "holds the average over all cards of the model (of the next card: what its bench "
        "comes to):",
        "",
        f"| way | {' | '.join(f'{n} cards' for n in counts)} |",
        "|---" + "|--:" * len(counts) + "|",
    ]
    for name, by in covered.items():
        lines.append(f"| {name} | {' | '.join(f'{by[n]:.1%}' for n in counts)} |")
    shown = " | ".join(f"{widths[n]:.2%}" for n in counts)
    lines.append(f"| mean half-width of wanrt combine | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
