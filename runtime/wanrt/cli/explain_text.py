"""What `wanrt explain` says, as text; a GB is 10^9 bytes, as in datasheets."""

from __future__ import annotations

from collections.abc import Sequence

from wanrt.explain.difference import compare_kernels
from wanrt.explain.explained import Explained
from wanrt.explain.kernel import Operand
from wanrt.explain.lora_share import sum_adapter
from wanrt.explain.work import Sums, Work, sum_by_part, sum_up
from wanrt.machine.cores import usable_cores
from wanrt.machine.devices import DeviceRates
from wanrt.manifest.parts import PARTS
from wanrt.terminal.text import columns, counted, wrap
from wanrt.terminal.units import SECONDS, pick, shorten, show, show_si

__all__ = ["to_text"]

LABEL, OPERATOR = 40, 16
LABELS = {**PARTS, "lora": "LoRA alone"}
HEADER = ("kernel", "moved", "flops", "stream")
MEASURED = ("operator", "type", "moved", "flops", "measured")
ONCE = (
    "measured: one forward on this CPU after a first one, no bound. Whether two engines differ in "
    "speed is for wanrt bench to say. Moved and flops are worked out from the operators' shapes."
)


def to_text(
    ours: Explained, theirs: Explained | None, devices: Sequence[DeviceRates], *, verbose: bool
) -> str:
    """Return tables of kernels or of their differences, of parts, and of devices."""
    listed = _kernels(ours, verbose) if theirs is None else _changes(ours, theirs, verbose)
    times = _bounds(ours, theirs, devices) if ours.forward_s is None else _forwards(ours, theirs)
    sums = [_parts(ours, theirs), *_adapter(ours), *_exchanges(ours)]
    blocks = [listed, "\n".join(sums), times]
    return "\n\n".join(block for block in blocks if block)


def _kernels(ours: Explained, verbose: bool) -> str:
    lines = columns([_header(ours), *map(_row, ours.work)])
    if verbose:
        shown = [lines[0]]
        for line, one in zip(lines[1:], ours.work, strict=True):
            shown += [line, *_operands(one)]
        lines = shown
    return "\n".join(lines)


def _header(ours: Explained) -> tuple[str, ...]:
    return HEADER if ours.forward_s is None else MEASURED


def _row(one: Work) -> tuple[str, ...]:
    flops = show_si(one.flops, "FLOP") if one.flops else ""
    kernel = one.kernel
    moved = "exchanged" if kernel.exchanged else show_si(kernel.bytes, "B")
    if kernel.seconds is None:
        return shorten(one.label, LABEL), moved, flops, f"{kernel.stream}"
    label = shorten(one.label, LABEL - OPERATOR)
    return label, shorten(kernel.kind, OPERATOR), moved, flops, _time(kernel.seconds)


def _operands(one: Work) -> list[str]:
    lines = [f"      {one.kernel.name}"] if one.kernel.seconds is not None else []
    lines += [f"      reads  {_operand(operand)}" for operand in one.kernel.inputs]
    return lines + [f"      writes {_operand(operand)}" for operand in one.kernel.outputs]


def _operand(operand: Operand) -> str:
    return f"{operand.dtype} [{', '.join(map(str, operand.shape))}]"


def _changes(ours: Explained, theirs: Explained, verbose: bool) -> str:
    runs = compare_kernels(ours.work, theirs.work)
    if not runs:
        return "the same kernels"
    rows: list[tuple[str, ...]] = [_header(ours)]
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
    """A row per part: moved, beside it the least or the other engine's, and flops or times."""
    sums, others = sum_by_part(ours.work), sum_by_part(theirs.work if theirs else ())
    least = ours.workload.bytes if ours.manifest.cards == 1 else {}  # which counts all tokens
    beside = {part: sums.moved for part, sums in others.items()} if theirs else dict(least)
    timed = ours.forward_s is not None

    def row(label: str, one: Sums, other: Sums, moved: int | None) -> tuple[str, ...]:
        least = "" if moved is None else show_si(moved, "B")
        flops = show_si(one.flops, "FLOP") if one.flops else ""
        times = (_time(one.seconds), _time(other.seconds))
        last = (flops,) if not timed else times if theirs else (flops, times[0])
        return label, show_si(one.moved, "B"), least, *last

    named = "of the other" if theirs else "the least" if beside else ""
    last = ("flops",) if not timed else ("measured", named) if theirs else ("flops", "measured")
    rows = [("part", "moved", named, *last)]
    for part, label in LABELS.items():
        one, other = sums.get(part, Sums()), others.get(part, Sums())
        if one.moved or beside.get(part):
            rows.append(row(label, one, other, beside.get(part)))
    label = counted(len(ours.work), "operator" if timed else "kernel")
    everything = sum_up(ours.work), sum_up(theirs.work if theirs else ())
    rows.append(row(label, *everything, sum(beside.values()) if beside else None))
    return "\n".join(columns(rows))


def _adapter(ours: Explained) -> list[str]:
    """Say what LoRA takes in all, where layers' kernels do a part of it."""
    whole, alone = sum_adapter(ours.work), sum_by_part(ours.work).get("lora", Sums())
    if whole == alone:
        return []
    text = f"LoRA in all: {show_si(whole.moved, 'B')}, {show_si(whole.flops, 'FLOP')}"
    return wrap(f"{text}, with its columns of the layers' own products", "  ", first="  ")


def _exchanges(ours: Explained) -> list[str]:
    """Say what cards exchange, which neither `moved` nor a bound counts."""
    if not ours.exchanges:
        return []
    text = f"{counted(ours.exchanges, 'exchange')} among {ours.manifest.cards} cards"
    each = f"each card sends {show_si(ours.received, 'B')} and receives as much"
    return wrap(f"{text}: {each}; neither moved nor the bound counts it", "  ", first="  ")


def _forwards(ours: Explained, theirs: Explained | None) -> str:
    """Say how long whole forwards took, and what such a time is worth."""
    assert ours.forward_s is not None
    cells = [_time(ours.forward_s)]
    if theirs is not None and theirs.forward_s is not None:
        cells += [f"{_time(theirs.forward_s)} of the other"]
    text = f"forward: {', '.join(cells)}; {counted(usable_cores(), 'thread')}"
    return "\n".join(["  " + text, *wrap(ONCE, "  ", first="  ")])


def _time(seconds: float) -> str:
    if not seconds:
        return ""
    return show(seconds, pick(SECONDS, seconds))


def _bounds(ours: Explained, theirs: Explained | None, devices: Sequence[DeviceRates]) -> str:
    rows = [("compiled bound", "forward", *(("of the other", "") if theirs else ()))]
    for device in devices:
        seconds = ours.bound(device)
        if seconds is None:
            continue
        unit = pick(SECONDS, seconds)
        cells = [device.name, show(seconds, unit)]
        if theirs is not None and (other := theirs.bound(device)):
            cells += [show(other, unit), f"{100 * (seconds / other - 1):+.2f} %"]
        rows.append(tuple(cells))
    width = max(map(len, rows))
    padded = [(*row, *[""] * (width - len(row))) for row in rows]
    return "\n".join(columns(padded)) if len(rows) > 1 else ""
