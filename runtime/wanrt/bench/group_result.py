"""What a group's bench knows, as rows of a result, and notes on what has no ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wanrt.bench.candidates import Candidate, find_baseline
from wanrt.bench.moved import moved_by_part
from wanrt.bench.rounds import Entry
from wanrt.machine.devices import DeviceRates
from wanrt.machine.predict import predict_forward
from wanrt.results.advice import advise_on_row
from wanrt.results.ratios import Timed
from wanrt.results.result import CandidateResult
from wanrt.results.values import Ratio

__all__ = ["make_rows", "note_gaps", "time_entries"]


def time_entries(entries: Sequence[Entry]) -> list[Timed]:
    """Return what has been measured, each entry with the index of its baseline."""
    measured = [entry.candidate for entry in entries if entry.forwards]
    order = {id(entry.candidate): i for i, entry in enumerate(entries)}
    timed = []
    for entry in entries:
        base = find_baseline(entry.candidate, measured)
        timed.append(
            Timed(
                entry.forwards,
                order[id(base)] if base is not None and entry.forwards else None,
                control=entry.candidate.control,
                check=entry.candidate.manifest.mode == "merged",
            )
        )
    return timed


def make_rows(
    entries: Sequence[Entry],
    timed: Sequence[Timed],
    ratios: Sequence[Ratio | None],
    workload: str,
    rates: Mapping[str, DeviceRates | None],
    half_width: float,
) -> tuple[CandidateResult, ...]:
    """Return the entries' rows.

    Args:
        entries: what was measured.
        timed: theirs, as `time_entries` returns it.
        ratios: theirs.
        workload: whose shapes ran.
        rates: what the device can do, by dtype; predictions are made from it.
        half_width: what was asked for, of a ratio's 95 % interval.
    """
    rows = []
    for entry, own, ratio in zip(entries, timed, ratios, strict=True):
        base = None if own.baseline is None else entries[own.baseline].candidate
        predicted_s = _predict(entry.candidate, workload, rates)
        moved = moved_by_part(entry.candidate, workload)
        row = _make_row(entry, base, ratio, workload, predicted_s, moved)
        rows.append(advise_on_row(row, half_width))
    return tuple(rows)


def note_gaps(entries: Sequence[Entry], timed: Sequence[Timed]) -> list[str]:
    """Say which baselines failed, why there are no ratios, or which rows have none."""
    full = [entry for entry in entries if entry.candidate.serves_as_baseline]
    if not full:
        return ["no `full` engine of this model and workload: no ratios"]
    measured = [e for e in entries if e.forwards]
    pairs = zip(entries, timed, strict=True)
    alone = [e.candidate for e, own in pairs if e.forwards and own.baseline is None]
    notes = _switched(entries, full)
    for kind in dict.fromkeys(candidate.kind for candidate in alone):
        rows = [f"{c.label} {c.manifest.dtype}" for c in alone if c.kind == kind]
        who = "" if len(rows) == len(measured) else f" for {', '.join(rows)}"
        alike = [entry for entry in full if entry.candidate.kind == kind]
        reasons = [_why_not(entry) for entry in alike if not entry.active]
        if reasons:
            notes.append(f"no ratios{who}: {'; '.join(reasons)}")
        elif not alike:
            notes.append(f"no ratios{who}: no `full` engine of {_show_kind(kind)}")
    return notes


def _make_row(
    entry: Entry,
    base: Candidate | None,
    ratio: Ratio | None,
    workload: str,
    predicted_s: float | None,
    moved: dict[str, int] | None,
) -> CandidateResult:
    candidate = entry.candidate
    manifest = candidate.manifest
    shapes = manifest.workloads[workload]
    return CandidateResult(
        engine=str(candidate.folder),
        identity=candidate.identity,
        label=candidate.label,
        mode=manifest.mode,
        rank=candidate.rank,
        dtype=manifest.dtype,
        random_weights=manifest.random_weights,
        verified=manifest.verification.method != "none",
        full_finetune=manifest.full_finetune,
        batch=shapes.batch,
        tokens=shapes.tokens,
        flops=sum(shapes.flops.values()),
        target_set=None if candidate.rival else manifest.target_set,
        scheme=manifest.source_scheme,
        error=None if candidate.rival else manifest.verification.own_error,
        keeps=candidate.keeps(base),
        baseline=base.label if base else None,
        baseline_dtype=base.manifest.dtype if base else None,
        forwards=tuple(entry.forwards),
        control=candidate.control,
        rival=candidate.rival,
        probe=entry.probe,
        clocks=entry.clocks,
        energy=entry.energy,
        predicted_s=predicted_s,
        moved=moved,
        least_moved=None if moved is None else dict(shapes.bytes),
        ratio=ratio,
        skipped=entry.skipped,
        failed=entry.failed,
    )


def _predict(
    candidate: Candidate, workload: str, rates: Mapping[str, DeviceRates | None]
) -> float | None:
    dtype = candidate.manifest.dtype
    device = rates.get(dtype)
    if device is None or dtype not in device.tflops:
        return None
    shapes = candidate.manifest.workloads[workload]
    return predict_forward(shapes.flops, shapes.bytes, device, dtype).seconds


def _switched(entries: Sequence[Entry], full: Sequence[Entry]) -> list[str]:
    """Say which baselines failed, since others take their place without a control."""
    taken = {e.candidate.folder for e in entries if e.candidate.again}
    if not any(entry.forwards for entry in full):
        return []
    return [
        f"{entry.candidate.label} failed: ratios are to another full engine, without a control"
        for entry in full
        if entry.failed and entry.candidate.folder in taken
    ]


def _show_kind(kind: tuple[str, str]) -> str:
    backend, refit = kind
    return f"{backend}, refit {refit}" if refit else backend


def _why_not(entry: Entry) -> str:
    name = f"{entry.candidate.label} {entry.candidate.manifest.dtype}"
    if entry.failed is not None:
        return f"{name} failed: {entry.failed}"
    return f"{name} was skipped: {entry.skipped}"
