"""A file's description as text."""

from __future__ import annotations

from wanexport.inspection.description import Description, Range
from wanexport.lora.delta import DORA_STRENGTH
from wanexport.model.config import Architecture
from wanrt.storage.hub import hub_file
from wanrt.terminal.text import counted, first_and_more

__all__ = ["format_description"]

LISTED = 10
LISTED_PROBLEMS = 3


def format_description(held: Description) -> str:
    """Return a description as text."""
    values = {
        held.what: held.dialect,
        "tensors": f"{held.tensors:,} ({_show_dtypes(held)}), {held.parameters:,} parameters",
        "quantised": held.scheme or "",
        "prefixes": f"{', '.join(held.stripped)} taken off" if held.stripped else "",
        "left aside": ", ".join(f"{name} x{n}" for name, n in held.left_aside.items()),
        "skipped": first_and_more(held.skipped, LISTED),
        "weights": "random" if held.random_weights else "",
        "model": _sizes(held.architecture),
        "fits": _show_fits(held),
        "differs": "; ".join(
            f"{key}: {here or 'none'}, not {there or 'none'}"
            for key, (here, there) in held.differences.items()
        ),
        "targets": ", ".join(f"{name} x{n}" for name, n in (held.targets or {}).items()),
        "rank": _span(held.ranks),
        "alpha": _span(held.alphas),
        "scale": _span(held.scales),
        "low-rank": counted(len(held.low_rank), "change") if held.low_rank else "",
        "merge only": first_and_more(held.rest, LISTED),
        "strength": DORA_STRENGTH if any("DoRA" in part for part in held.rest) else "",
        "values": "" if held.values_read or held.problems else "not read, so NaN isn't seen",
    }
    cached = hub_file(held.path)
    title = f"{cached.id} (of the Hugging Face cache)" if cached else str(held.path)
    lines = [title, *(f"  {key:<10}  {value}" for key, value in values.items() if value)]
    return "\n".join([*lines, *(f"  {note}" for note in held.notes), *_show_problems(held)])


def _show_problems(held: Description) -> list[str]:
    about = f" ({held.config})" if held.config else ""
    lines = []
    for problem in held.problems[:LISTED_PROBLEMS]:
        lines.append(f"  not applied{about}: {problem.message}")
        lines += [f"    hint: {problem.hint}"] if problem.hint else []
    if others := held.problems[LISTED_PROBLEMS:]:
        lines.append(f"  and {counted(len(others), 'more problem')}")
    return lines


def _show_dtypes(held: Description) -> str:
    return ", ".join(f"{count} {dtype}" for dtype, count in held.dtypes.items())


def _sizes(arch: Architecture | None) -> str:
    if arch is None:
        return ""
    image = (
        f"{arch.image_tokens} image tokens of {arch.image_dim}" if arch.image_dim else "no image"
    )
    return (
        f"{counted(arch.num_layers, 'layer')}, width {arch.width} in "
        f"{counted(arch.num_attention_heads, 'head')}, ffn {arch.ffn_dim}, channels "
        f"{arch.in_channels} to {arch.out_channels}, text {arch.text_dim}, {image}"
    )


def _show_fits(held: Description) -> str:
    """Name the configurations that fit, and beside them the one that was asked about or is near."""
    fits = ", ".join(held.fits)
    if held.config in held.fits or not held.config:
        return fits or "no configuration"
    if held.nearest:
        return f"no configuration; the nearest is {held.config}"
    return f"not {held.config}{', but ' if fits else ''}{fits}"


def _span(values: Range | None) -> str:
    if values is None:
        return ""
    low, high = values
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
