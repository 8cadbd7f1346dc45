"""Results of benches, made by hand: several ranks, controls, rivals, probes and predictions."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from faketestbed import MACHINE

from wanrt.machine.nvml import Clocks
from wanrt.manifest.schema import Mode
from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.results.values import Forward, Probe, Ratio, Verdict

GIB = 2**30


def row(
    label: str,
    mode: Mode,
    rank: int | None = None,
    ratio: tuple[float, float, float] | None = None,
    verdict: Verdict = "slower",
    *,
    loads: int = 3,
    rounds: int = 12,
    **fields: Any,
) -> CandidateResult:
    """Return a measured candidate whose forwards scatter around what its ratio says."""
    value = ratio[0] if ratio else 1.0
    rng = random.Random(label)
    forwards = []
    for load in range(loads):
        shift = rng.gauss(0, 0.002)
        for number in range(rounds):
            for _ in range(2):
                seconds = 2.412 / value * math.exp(shift + rng.gauss(0, 0.003))
                forwards.append(Forward(load, number, seconds))
    found = CandidateResult(
        engine=f"engines/{label.replace(' ', '-')}",
        identity=f"identity of {label}",
        label=label,
        mode=mode,
        rank=rank,
        dtype="bf16",
        random_weights=True,
        verified=True,
        full_finetune=True,
        batch=1,
        tokens=32760,
        flops=1_690_000_000_000_000,
        baseline="full",
        baseline_dtype="bf16",
        forwards=tuple(forwards),
        probe=Probe(9.1, 3.2, 2.6, 2 * GIB, 41 * GIB, 31 * GIB, 0),
        predicted_s=1.83,
        ratio=Ratio(*ratio, loads, loads * rounds, 0.001, verdict) if ratio else None,
    )
    return replace(found, **fields)


def study(**fields: Any) -> GroupResult:
    """Return the group that the project exists for, measured on one GPU."""
    shared = Probe(3.1, 1.1, 2.6, 2 * GIB, 41 * GIB + GIB // 5, 31 * GIB, 30 * GIB + 9 * GIB // 10)
    merged = Probe(9.4, 3.3, 2.6, 2 * GIB, 41 * GIB, 31 * GIB, 19 * GIB)
    separate = {8: (0.991, 0.986, 0.996), 32: (0.987, 0.981, 0.992), 128: (0.979, 0.974, 0.985)}
    swappable = {8: (0.972, 0.966, 0.977), 32: (0.971, 0.965, 0.978), 128: (0.966, 0.959, 0.971)}
    rows = [
        row("full", "full", None, (1.0, 1.0, 1.0), "baseline"),
        row("full A/A", "full", None, (1.0005, 0.9969, 1.0041), "same", control=True),
        *(
            row(f"merged r{r}", "merged", r, (v, v - 0.003, v + 0.003), "same", probe=merged)
            for r, v in ((8, 1.001), (32, 0.9993), (128, 1.0004))
        ),
        *(
            row(f"separate r{r}", "separate", r, v, probe=shared, predicted_s=1.85)
            for r, v in separate.items()
        ),
        *(
            row(f"swappable r{r}", "swappable", r, v, probe=shared, predicted_s=1.86)
            for r, v in swappable.items()
        ),
        row("torch-compile", "full", None, (0.909, 0.906, 0.911), rival="torch-compile"),
        row("torch-eager", "full", None, (0.781, 0.776, 0.785), rival="torch-eager"),
        replace(
            unmeasured("separate r32 fp8", "built for SM 89, this GPU is SM 90"),
            rank=32, baseline=None,
        ),
    ]  # fmt: skip
    found = GroupResult(
        "wan2.1-i2v-14b", "832x480x81", tuple(rows), 3, 12, band=(0.9965, 1.0042), half_width=0.005
    )
    return replace(found, **fields)


def group(*rows: CandidateResult, **fields: Any) -> GroupResult:
    """Return the study's group with these candidates alone."""
    return replace(study(), candidates=rows, **fields)


def unmeasured(label: str, reason: str) -> CandidateResult:
    """Return a candidate that was skipped."""
    nothing: dict[str, Any] = {"forwards": (), "probe": Probe(), "predicted_s": None}
    return row(label, "separate", 8, **nothing, skipped=reason)


def bench(*groups: GroupResult, machine: Mapping[str, Any] | None = None, **f: Any) -> BenchResult:
    """Return a bench of these groups on a GPU that doesn't exist."""
    gpu: dict[str, Any] = {"gpu": "Fake H200", "driver": "580.1"} | dict(machine or {})
    given = {"timed": "CUDA events around the forward, inputs resident", "device": "h200"} | f
    return BenchResult(
        machine=replace(MACHINE, **gpu),
        options={"device": "cuda", "seed": 0, "warmup": 1, "time_budget_s": 600.0},
        started="2026-11-24T12:00:00+00:00",
        groups=groups,
        **given,
    )


FULL = row("full", "full", None, (1.0, 1.0, 1.0), "baseline")
SEPARATE = row("separate r32", "separate", 32, (0.987, 0.981, 0.992))
MERGED = row("merged r32", "merged", 32, (1.001, 0.998, 1.004), "same")
COMPILED = row("torch-compile", "full", None, (0.909, 0.906, 0.911), rival="torch-compile")
UNRESOLVED = replace(SEPARATE, ratio=Ratio(0.99, None, None, 1, 3, None, "unresolved"))
THROTTLED = Clocks(1755, 1980, ("power cap",))
