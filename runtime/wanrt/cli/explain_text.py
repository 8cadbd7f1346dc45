"""What `wanrt explain` says, as text and as JSON; a GB is 10^9 bytes, as in datasheets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from wanrt.errors import EngineError
from wanrt.explain.difference import compare_kernels
from wanrt.explain.plan import Operand
from wanrt.explain.work import Work, bound_seconds, sum_by_part
from wanrt.machine.devices import DeviceRates
from wanrt.manifest.parts import PARTS
from wanrt.manifest.schema import Manifest, Workload
from wanrt.terminal.text import columns, counted
from wanrt.terminal.units import SECONDS, pick, shorten, show, show_si

__all__ = ["Explained", "to_json", "to_text"]

SCHEMA = 1
LABEL = 40
LABELS = {**PARTS, "lora": "LoRA alone"}
HEADER = ("kernel", "moved", "flops", "stream")


@dataclass(frozen=True)
class Explained:
    """An engine and what its plan's kernels do."""

    manifest: Manifest
    work: tuple[Work, ...]

    @property
    def workload(self) -> Workload:
        """The size that the plan's shapes are of: the only one, or the profile it is tuned for."""
        return next(iter(self.manifest.workloads.values()))

    @property
    def moved(self) -> int:
        """Bytes that all kernels move."""
        return sum(one.kernel.bytes for one in self.work)

    @property
    def flops(self) -> int:
        """Of all GEMMs and attentions."""
        return sum(one.flops for one in self.work)


def to_text(
    ours: Explained, theirs: Explained | None, devices: Sequence[DeviceRates], *, verbose: bool
) -> str:
    """Return tables of kernels or of their differences, of parts, and of devices."""
    listed = _kernels(ours.work, verbose) if theirs is None else _changes(ours, theirs, verbose)
    blocks = [listed, _parts(ours, theirs), _bounds(ours, theirs, devices)]
    return "\n\n".join(block for block in blocks if block)


def to_json(ours: Explained, theirs: Explained | None, devices: Sequence[DeviceRates]) -> str:
    """Return the same as JSON, with every operand."""
    value = {"schema": SCHEMA, **_describe(ours, devices)}
    if theirs is not None:
        value["against"] = _describe(theirs, devices)
        value["differences"] = [
            {"ours": [w.label for w in run.ours], "theirs": [w.label for w in run.theirs]}
            for run in compare_kernels(ours.work, theirs.work)
        ]
    return json.dumps(value, indent=1)


def _kernels(work: Sequence[Work], verbose: bool) -> str:
    rows = [HEADER, *map(_row, work)]
    lines = columns(rows)
    if verbose:
        shown = [lines[0]]
        for line, one in zip(lines[1:], work, strict=True):
            shown += [line, *_operands(one)]
        lines = shown
    return "\n".join(lines)


def _row(one: Work) -> tuple[str, str, str, str]:
    flops = show_si(one.flops, "FLOP") if one.flops else ""
    label = shorten(one.label, LABEL)
    return label, show_si(one.kernel.bytes, "B"), flops, str(one.kernel.stream)


def _operands(one: Work) -> list[str]:
    lines = [f"      reads  {_operand(operand)}" for operand in one.kernel.inputs]
    return lines + [f"      writes {_operand(operand)}" for operand in one.kernel.outputs]


def _operand(operand: Operand) -> str:
    return f"{operand.dtype} [{', '.join(map(str, operand.shape))}]"


def _changes(ours: Explained, theirs: Explained, verbose: bool) -> str:
    runs = compare_kernels(ours.work, theirs.work)
    if not runs:
        return "the same kernels"
    rows: list[tuple[str, ...]] = [HEADER]
    details: list[list[str]] = [[]]
    for run in runs:
        for sign, side in (("-", run.theirs), ("+", run.ours)):
            for one in side:
                label, *cells = _row(one)
                rows.append((f"{sign} {label}", *cells))
                details.append(_operands(one) if verbose else [])
    lines = zip(columns(rows), details, strict=True)
    return "\n".join(line for row, detail in lines for line in (row, *detail))


def _parts(ours: Explained, theirs: Explained | None) -> str:
    """A row per part: moved, and beside it the least or the other engine's."""
    sums = sum_by_part(ours.work)
    beside = (
        dict(ours.workload.bytes)
        if theirs is None
        else {part: moved for part, (moved, _) in sum_by_part(theirs.work).items()}
    )
    rows = [("part", "moved", "the least" if theirs is None else "of the other", "flops")]
    for part, label in LABELS.items():
        moved, flops = sums.get(part, (0, 0))
        if moved or beside.get(part):
            rows.append(
                (
                    label,
                    show_si(moved, "B"),
                    show_si(beside[part], "B") if part in beside else "",
                    show_si(flops, "FLOP") if flops else "",
                )
            )
    total = (ours.moved, sum(beside.values()), ours.flops)
    rows.append(
        (
            counted(len(ours.work), "kernel"),
            show_si(total[0], "B"),
            show_si(total[1], "B"),
            show_si(total[2], "FLOP"),
        )
    )
    return "\n".join(columns(rows))


def _bounds(ours: Explained, theirs: Explained | None, devices: Sequence[DeviceRates]) -> str:
    rows = [("compiled bound", "forward", *(("of the other", "") if theirs else ()))]
    for device in devices:
        seconds = _bound(ours, device)
        if seconds is None:
            continue
        unit = pick(SECONDS, seconds)
        cells = [device.name, show(seconds, unit)]
        if theirs is not None and (other := _bound(theirs, device)):
            cells += [show(other, unit), f"{100 * (seconds / other - 1):+.2f} %"]
        rows.append(tuple(cells))
    width = max(map(len, rows))
    padded = [(*row, *[""] * (width - len(row))) for row in rows]
    return "\n".join(columns(padded)) if len(rows) > 1 else ""


def _bound(explained: Explained, device: DeviceRates) -> float | None:
    """Return the sum of the kernels' times, or None where the device has no rate for one."""
    try:
        return sum(bound_seconds(explained.work, device))
    except EngineError:
        return None


def _describe(explained: Explained, devices: Sequence[DeviceRates]) -> dict[str, object]:
    bounds = {device.name: _bound(explained, device) for device in devices}
    known = [device for device in devices if bounds[device.name] is not None]
    seconds = {device.name: bound_seconds(explained.work, device) for device in known}
    return {
        "engine": explained.manifest.name,
        "bytes": explained.moved,
        "flops": explained.flops,
        "least_bytes": dict(explained.workload.bytes),
        "parts": {
            part: {"bytes": moved, "flops": flops}
            for part, (moved, flops) in sum_by_part(explained.work).items()
        },
        "compiled_bound_s": bounds,
        "kernels": [
            {
                "name": one.kernel.name,
                "label": one.label,
                "kind": one.kernel.kind,
                "stream": one.kernel.stream,
                "part": one.part,
                "adapter": one.adapter,
                "bytes": one.kernel.bytes,
                "flops": one.flops,
                "computes_in": one.dtype,
                "at_best_s": {name: times[index] for name, times in seconds.items()},
                "inputs": [_values(operand) for operand in one.kernel.inputs],
                "outputs": [_values(operand) for operand in one.kernel.outputs],
                "nodes": one.kernel.nodes,
            }
            for index, one in enumerate(explained.work)
        ],
    }


def _values(operand: Operand) -> dict[str, object]:
    return {"name": operand.name, "dtype": operand.dtype, "shape": operand.shape}
