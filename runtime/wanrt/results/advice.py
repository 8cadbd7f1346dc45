"""Warnings about a result: what in it a reader shouldn't trust, and which flag or act helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from wanrt.machine.describe import Machine
from wanrt.results.result import CandidateResult
from wanrt.results.stats import robust_z, summarize
from wanrt.results.values import Advice

__all__ = ["advise_on_machine", "advise_on_row"]

WILD = 14.826
"""Median absolute deviations; ten standard deviations of a normal sample. As in hyperfine."""

UNSTABLE_CV = 0.025
BUSY = 0.25
"""Runnable processes per core."""

GPU_BUSY = 0.05
HOST_BOUND = 0.8
"""Of a forward's seconds."""

SUSPICIOUS = 0.01
"""The chance of such a difference between two loads of one engine."""


def advise_on_row(row: CandidateResult, half_width: float) -> CandidateResult:
    """Return a row with the warnings that it calls for."""
    found = (_on_forwards(row), _on_enqueueing(row), _on_ratio(row, half_width), _on_clocks(row))
    return replace(row, advice=tuple(advice for one in found for advice in one))


def _on_forwards(row: CandidateResult) -> Iterator[Advice]:
    seconds = [forward.seconds for forward in row.forwards]
    if not seconds:
        return
    z = robust_z(seconds)
    if z[0] > WILD:
        text = "the first forward was much slower than the others"
        yield Advice("slow-first-run", text, "discard more at each visit: --warmup 3")
    wild = sum(1 for value in z[1:] if abs(value) > WILD)
    if wild:
        text = f"{wild} of {len(z)} forwards are far from the others"
        yield Advice("outliers", text, "close what else runs on this machine, and rerun")
    cv = summarize(seconds).cv
    if cv > UNSTABLE_CV and not wild:
        text = f"forwards vary by more than {UNSTABLE_CV:.1%} (coefficient of variation)"
        hint = "close what else runs, use fewer --threads than cores, or raise --time-budget"
        if row.clocks is not None:
            text += f", SM clock {row.clocks.min_mhz} to {row.clocks.max_mhz} MHz"
            hint = "lock the clock for a fair comparison: nvidia-smi -lgc"
        yield Advice("unstable", text, hint)


def _on_enqueueing(row: CandidateResult) -> Iterator[Advice]:
    enqueued = [f.enqueue_s for f in row.forwards if f.enqueue_s is not None]
    if enqueued and median(enqueued) > HOST_BOUND * median(f.seconds for f in row.forwards):
        text = f"enqueueing takes more than {HOST_BOUND:.0%} of a forward: the GPU waits for it"
        hint = "at this size the host's speed is what is measured: take a larger one, or --batch 2"
        yield Advice("host-bound", text, hint)


def _on_ratio(row: CandidateResult, half_width: float) -> Iterator[Advice]:
    ratio = row.ratio
    if ratio is None or ratio.verdict == "baseline":
        return
    if ratio.low is None or ratio.high is None:
        text = "one load is too few for a ratio with a 95 % interval"
        yield Advice("unresolved", text, "raise --time-budget, or ask for --loads 3")
    elif (ratio.high - ratio.low) / 2 > half_width and not row.control:
        text = f"the interval is wider than the half-width asked for, {half_width:.2%}"
        yield Advice("unresolved", text, "raise --time-budget")
    shifted = ratio.verdict in ("faster", "slower")
    if row.control and shifted and ratio.p is not None and ratio.p < SUSPICIOUS:
        text = f"the same engine loaded or built twice differs by {ratio.value - 1:+.2%}"
        hint = "no claim below that can be trusted; quieten the machine, and rerun"
        yield Advice("control", text, hint)
    if row.mode == "merged" and row.rival is None and shifted:
        text = f"runs at {ratio.value:.4f} x full, whose graph it shares"
        hint = "differences of that size are the machine's or the loader's, not an adapter's"
        yield Advice("control", text, hint)


def _on_clocks(row: CandidateResult) -> Iterator[Advice]:
    if row.clocks is None or not row.clocks.throttled:
        return
    clocks = f"SM clock {row.clocks.max_mhz} -> {row.clocks.min_mhz} MHz"
    hint = f"lock the clock for a fair comparison: nvidia-smi -lgc {row.clocks.min_mhz}"
    yield Advice("throttled", f"{clocks} ({', '.join(row.clocks.throttled)})", hint)


def advise_on_machine(machine: Machine) -> tuple[Advice, ...]:
    """Return the warnings that the machine's state before the bench calls for."""
    found = []
    if machine.load_average > BUSY * machine.cores:
        text = f"load average {machine.load_average:.2f} on {machine.cores} cores before the start"
        found.append(Advice("busy-machine", text, "wait until the machine is idle, and rerun"))
    used = []
    if machine.gpu_processes:
        used.append(f"other processes are on it: {', '.join(map(str, machine.gpu_processes))}")
    if machine.gpu_utilisation is not None and machine.gpu_utilisation > GPU_BUSY:
        used.append(f"it was at work {machine.gpu_utilisation:.0%} of the time")
    if used:
        text = f"the GPU wasn't idle before the start: {'; '.join(used)}"
        found.append(Advice("busy-gpu", text, "end what uses it (nvidia-smi lists it), and rerun"))
    return tuple(found)
