"""What `wanexport estimate` says, as text and as JSON; a GB is 10^9 bytes, as in datasheets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from wanexport.cost import Cost, Outlook
from wanexport.model.config import Config
from wanexport.model.formulas import GraphName, count_parameters
from wanrt.machine.predict import Prediction
from wanrt.manifest.parts import PARTS
from wanrt.terminal.text import columns, group_digits, wrap
from wanrt.terminal.units import SECONDS, SI, Unit, pick, show_si, significant_decimals

if TYPE_CHECKING:
    from wanexport.compiled import CompiledCost

__all__ = ["costs_to_json", "render_costs"]

SHOWN: tuple[GraphName, ...] = ("forward", "step")
SCHEMA = 1
Row = Sequence[str]


def render_costs(
    config: Config,
    costs: Sequence[Cost],
    outlooks: Sequence[Outlook],
    compiled: Sequence[CompiledCost] = (),
) -> str:
    """Return the model, its engines, a forward by part, and a table for each device."""
    blocks = [_head(config), _engines(costs), _parts(costs), _context(costs[0])]
    blocks += [_device(config, outlook) for outlook in outlooks]
    if outlooks:
        blocks.append(
            "forward: each part at the device's full rate or bandwidth, one after another;\n"
            "  no kernel reaches those, so engines are slower\n"
            "LoRA: what an adapter's branch adds to a forward\n"
            "LoRA on: the same by targets, of a separate engine\n"
            "GB: 10^9 bytes"
        )
    if compiled:
        blocks.append(_compiled(compiled))
    return "\n\n".join(blocks)


def costs_to_json(
    config: Config,
    costs: Sequence[Cost],
    outlooks: Sequence[Outlook],
    compiled: Sequence[CompiledCost] = (),
) -> str:
    """Return all costs with their parts, in bytes, flops and seconds."""
    document = {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "workload": config.size.name,
        "tokens": config.size.tokens,
        "parameters": count_parameters(config.architecture.dims),
        "engines": [{"label": cost.label, **asdict(cost)} for cost in costs],
        "devices": [_outlook_values(config, outlook) for outlook in outlooks],
        "compiled": [{"label": cost.label, **asdict(cost)} for cost in compiled],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _outlook_values(config: Config, outlook: Outlook) -> dict[str, object]:
    tokens = config.size.batch * config.size.tokens
    engines = [
        {
            "label": cost.label,
            "video_s": _video_seconds(config, outlook, index),
            **{
                graph: {
                    "seconds": prediction.seconds,
                    "tokens_per_s": None if graph == "context" else tokens / prediction.seconds,
                    "lora_overhead": _overhead(prediction),
                    "fits": outlook.fits(index, graph),
                    "compute_s": prediction.compute_s,
                    "memory_s": prediction.memory_s,
                }
                for graph, prediction in outlook.predictions[index].items()
            },
        }
        for index, cost in enumerate(outlook.costs)
    ]
    return {
        **outlook.device.model_dump(mode="json"),
        "dtype": outlook.dtype,
        "engines": engines,
        "lora_overhead_by_targets": outlook.shares,
        "over_cards": [
            {
                "cards": one.cards,
                "seconds": one.seconds,
                "overlapped_s": one.overlapped_s,
                "forward_s": one.forward.seconds,
                "exchange_s": one.exchange_s,
                "exchanged_bytes": one.exchanged,
                "memory_bytes": one.memory,
                "lora_overhead": one.lora,
            }
            for one in outlook.over_cards
        ],
    }


def _compiled(costs: Sequence[CompiledCost]) -> str:
    """Return a row per engine and device, beside full."""
    rows: list[Row] = [("as compiled", "kernels", "moved", "to full", "bound", "to full", "on")]
    for cost in costs:
        full = next(c for c in costs if c.capability == cost.capability and c.mode == "full")
        for device, seconds in cost.bound_s.items():
            plain = cost is full
            more = "" if plain else f"+{show_si(cost.moved - full.moved, 'B')}"
            slower = "" if plain else f"{100 * (seconds / full.bound_s[device] - 1):+.2f} %"
            bound = show_si(seconds, "s")
            moved = show_si(cost.moved, "B")
            rows.append((cost.label, f"{cost.kernels}", moved, more, bound, slower, device))
    notes = (
        "  as compiled: read from TensorRT-RTX's plans of one and of two layers; merged",
        "  engines have full's kernels",
        "  bound: each kernel at the full rate or bandwidth; worked out, not measured",
    )
    return "\n".join([*columns(rows), *notes])


def _head(config: Config) -> str:
    size = config.size
    batch = f"{size.batch} x " if size.batch > 1 else ""
    items = [config.name, size.name, f"{batch}{group_digits(size.tokens)} tokens per forward"]
    counts = count_parameters(config.architecture.dims)
    groups = [f"{part.replace('_', '-')} {show_si(count, '')}" for part, count in counts.items()]
    whole = f"{group_digits(sum(counts.values()))} parameters: {', '.join(groups)}"
    together = whole.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")
    return "\n".join([" · ".join([*items, config.dtype]), *wrap(together, "  ")])


def _engines(costs: Sequence[Cost]) -> str:
    header = ("engine", "parameters", "weights", "to write", "moved", "memory", "K/V once")
    unit = pick(SI, costs[0].weight_bytes)
    rows = [
        (
            cost.label,
            show_si(cost.parameters, ""),
            _fixed(cost.weight_bytes, unit, "B"),
            _fixed(cost.write_bytes, unit, "B"),
            _fixed(sum(cost.moved["forward"].values()), unit, "B"),
            _fixed(sum(cost.memory["forward"].values()), unit, "B"),
            _fixed(sum(cost.memory["step"].values()), unit, "B"),
        )
        for cost in costs
    ]
    notes = (
        "  to write: beside the base; model.onnx, a few MB, apart",
        "  moved: what a forward can't avoid reading and writing, weights included",
        "  memory: weights, adapter, activations of one layer; not a backend's workspace",
        "  K/V once: the same if K and V are computed once per prompt, with them in it",
    )
    return "\n".join([*columns([header, *rows]), *notes])


def _parts(costs: Sequence[Cost]) -> str:
    """Return a table of the parts of a forward, and of the branches that adapters add."""
    flops, moved = costs[0].flops["forward"], costs[0].moved["forward"]
    base = [(label, flops.get(part, 0), moved[part]) for part, label in PARTS.items()]
    total, traffic = sum(count for _, count, _ in base), sum(size for _, _, size in base)
    branches = {
        cost.rank: (
            f"LoRA r{cost.rank}",
            cost.flops["forward"]["lora"],
            cost.moved["forward"]["lora"],
        )
        for cost in costs
        if "lora" in cost.moved["forward"]
    }
    rows = [
        (
            label,
            _fixed(count, pick(SI, total), "FLOP", 3),
            f"{100 * count / total:.3f} %",
            _fixed(size, pick(SI, traffic), "B"),
            group_digits(round(count / size)),
        )
        for label, count, size in (*base, ("without LoRA", total, traffic), *branches.values())
    ]
    return "\n".join(columns([("of a forward", "flops", "share", "moved", "FLOP/B"), *rows]))


def _context(cost: Cost) -> str:
    """Say what computing K and V once per prompt changes."""
    flops = sum(count for part, count in cost.flops["context"].items() if part != "lora")
    memory = cost.memory["context"]
    return (
        f"K/V once per prompt: {show_si(flops, 'FLOP')} and {show_si(memory['weights'], 'B')} "
        f"of weights leave every forward;\n  {show_si(memory['context'], 'B')} of K and V stay, "
        "and LoRA on k and v costs a forward nothing"
    )


def _device(config: Config, outlook: Outlook) -> str:
    device, dtype = outlook.device, outlook.dtype
    instead = "" if dtype == config.dtype else f" (no {config.dtype})"
    rate = f"{show_si(device.tflops[dtype] * 1e12, 'FLOP/s')} in {dtype}{instead}"
    bandwidth, memory = (
        show_si(device.bandwidth_gb_s * 1e9, "B/s"),
        show_si(device.memory_gb * 1e9, "B"),
    )
    lines = wrap(f"at best on {device.name}: {rate}, {bandwidth}, {memory}", "  ")
    lines += [*wrap(f"  {device.full_name}; {device.source}", "  "), "", *_timings(config, outlook)]
    lines += _videos(config, outlook)
    if not all(outlook.fits(i, g) for _, i in _rows(outlook.costs) for g in SHOWN):
        lines.append(f"  M: needs more than its memory, {memory}")
    lines += [*_targets(outlook), *_over_cards(outlook)]
    return "\n".join(lines)


def _video_seconds(config: Config, outlook: Outlook, index: int) -> float | None:
    """Return high steps x high + low steps x low, a forward each; None where there is no pair."""
    if (pair := config.experts) is None:
        return None
    return (pair.high_steps + pair.low_steps) * outlook.predictions[index]["forward"].seconds


def _videos(config: Config, outlook: Outlook) -> list[str]:
    """Say what a video takes of a pair of experts: they cost the same, but run in turn."""
    if (pair := config.experts) is None:
        return []
    text = (
        f"  a video: {pair.high_steps} steps of the high-noise expert and {pair.low_steps} of the "
        f"low-noise one (boundary {pair.boundary:g}), a forward each, or two with guidance. "
        "One forward a step: "
    )
    times = [
        f"{label} {show_si(_video_seconds(config, outlook, index) or 0, 's')}"
        for label, index in _rows(outlook.costs)
    ]
    return wrap(f"{text}{'; '.join(times)}", "  ")


def _timings(config: Config, outlook: Outlook) -> list[str]:
    """Return a device's table; every column in one unit."""
    least = min(graphs["forward"].seconds for graphs in outlook.predictions)
    rows: list[Row] = [("engine", *("forward", "tok/s", "LoRA", "") * len(SHOWN))]
    for label, index in _rows(outlook.costs):
        cells = [label]
        for graph in SHOWN:
            cells += _timing(config, outlook, index, graph, least)
        rows.append(cells)
    lines = columns(rows)
    context = show_si(outlook.predictions[0]["context"].seconds, "s")
    start = lines[0].rindex("forward")
    return [f"{'':{start}}K/V once per prompt ({context})", *lines]


def _targets(outlook: Outlook) -> list[str]:
    """Return a table of what a separate adapter costs by the layers it sits on and its rank."""
    ranks = list(next(iter(outlook.shares.values())))
    if not ranks:
        return []
    header = ("LoRA on", *(f"r{rank}" for rank in ranks))
    rows = [
        (name, *(f"{100 * share:.2f} %" for share in by_rank.values()))
        for name, by_rank in outlook.shares.items()
    ]
    return ["", *columns([header, *rows])]


def _over_cards(outlook: Outlook) -> list[str]:
    """Return a table of `full` over several cards, and what guidance's two forwards take there."""
    if not outlook.over_cards:
        return []
    link = outlook.device.link
    assert link is not None
    alone = outlook.predictions[0]["forward"].seconds
    header = ("cards", "forward", "speed-up", "exchange", "hidden", "LoRA", "memory")
    rows = [
        (
            f"{one.cards}",
            show_si(one.seconds, "s"),
            f"{alone / one.seconds:.2f} x",
            show_si(one.exchange_s, "s"),
            show_si(one.overlapped_s, "s"),
            "" if one.lora is None else f"{100 * one.lora:.2f} %",
            show_si(one.memory, "B"),
        )
        for one in outlook.over_cards
    ]
    by_number = {one.cards: one.seconds for one in outlook.over_cards}
    halves = [by_number.get(n // 2) if n % 2 == 0 else None for n in by_number]
    guided = (
        ("a step with CFG", *(f"{cards}" for cards in by_number)),
        ("all, twice", *(show_si(2 * seconds, "s") for seconds in by_number.values())),
        ("two groups", *("" if half is None else show_si(half, "s") for half in halves)),
    )
    notes = [
        f"  over cards: full, one video, {link.name} of {link.gb_s:g} GB/s each way; an estimate",
        "  forward: arithmetic, then exchange; hidden: the longer of the two alone",
        "  two groups: half of the cards for each of guidance's two forwards",
    ]
    pairs = zip(outlook.over_cards, outlook.over_cards[1:], strict=False)
    slower = next((b for a, b in pairs if b.seconds >= a.seconds), None)
    if slower is not None:
        notes.append(f"  {slower.cards} cards lose more by exchanging than they save")
    return ["", *columns([header, *rows]), "", *columns(guided), *notes]


def _rows(costs: Sequence[Cost]) -> list[tuple[str, int]]:
    """Return labels and indexes of the rows; engines without a branch share one."""
    plain = [index for index, cost in enumerate(costs) if "lora" not in cost.moved["forward"]]
    modes = dict.fromkeys(costs[index].mode for index in plain)
    rows = [(", ".join(modes), plain[0])] if plain else []
    return rows + [(cost.label, i) for i, cost in enumerate(costs) if i not in plain]


def _timing(
    config: Config, outlook: Outlook, index: int, graph: GraphName, least: float
) -> tuple[str, str, str, str]:
    prediction = outlook.predictions[index][graph]
    rate = config.size.batch * config.size.tokens / prediction.seconds
    overhead = _overhead(prediction)
    unit = pick(SECONDS, least)
    return (
        _fixed(prediction.seconds, unit, "", significant_decimals(least / unit[0])),
        show_si(rate, ""),
        "" if overhead is None else f"{100 * overhead:.2f} %",
        "" if outlook.fits(index, graph) else "M",
    )


def _overhead(prediction: Prediction) -> float | None:
    """Return what an adapter's branch adds to a forward without it, or None if there is none."""
    parts = prediction.parts_s
    return parts["lora"] / (prediction.seconds - parts["lora"]) if "lora" in parts else None


def _fixed(value: float, unit: Unit, name: str, digits: int = 2) -> str:
    return f"{value / unit[0]:,.{digits}f}".replace(",", " ") + f" {unit[1]}{name}"
