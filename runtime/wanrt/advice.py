"""Warnings about a result: what in it a reader shouldn't trust, and which flag or act helps."""

from __future__ import annotations

from collections.abc import Sequence

from wanrt.machine import Machine
from wanrt.stats import robust_z, summarize
from wanrt.values import Advice, Ratio

__all__ = ["advise_on_machine", "advise_on_row"]

WILD = 14.826
"""Median absolute deviations; ten standard deviations of a normal sample. As in hyperfine."""

UNSTABLE_CV = 0.025
BUSY = 0.25
"""Runnable processes per core."""


def advise_on_row(seconds: Sequence[float], ratio: Ratio | None) -> tuple[Advice, ...]:
    """Return the warnings that a candidate's forwards call for."""
    found = []
    z = robust_z(seconds) if seconds else []
    if z and z[0] > WILD:
        text = "the first forward was much slower than the others"
        found.append(Advice("slow-first-run", text, "discard more at each visit: --warmup 3"))
    wild = sum(1 for value in z[1:] if abs(value) > WILD)
    if wild:
        text = f"{wild} of {len(z)} forwards are far from the others"
        found.append(Advice("outliers", text, "close what else runs on this machine, and rerun"))
    cv = summarize(seconds).cv if seconds else 0.0
    if cv > UNSTABLE_CV and not wild:
        text = f"forwards vary by {cv:.1%} (coefficient of variation)"
        hint = "close what else runs, use fewer --threads than cores, or raise --time-budget"
        found.append(Advice("unstable", text, hint))
    if ratio is not None and ratio.verdict == "unresolved":
        rounds = "1 round is" if ratio.rounds == 1 else f"{ratio.rounds} rounds are"
        text = f"{rounds} too few for a ratio with a 95 % interval"
        found.append(Advice("unresolved", text, "raise --time-budget, or ask for --rounds 6"))
    return tuple(found)


def advise_on_machine(machine: Machine) -> tuple[Advice, ...]:
    """Return the warnings that the machine's state before the bench calls for."""
    if machine.load_average <= BUSY * machine.cores:
        return ()
    text = f"load average {machine.load_average:.2f} on {machine.cores} cores before the start"
    return (Advice("busy-machine", text, "wait until the machine is idle, and rerun"),)
