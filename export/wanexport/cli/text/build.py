"""What `wanexport build` says at its end and in a dry run, as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from wanrt.terminal.units import show_bytes, show_share

if TYPE_CHECKING:
    from wanexport.build.recipe import Built
    from wanexport.build.targets import Target

# Scheme -> how much of an adapter's effect is left, merged into such a checkpoint and rounded to it
# again, where the change is 0.3 and 1 % of the weight's norm; 5120 x 5120, rank 32.
KEPT = {"fp8": ("nothing", "nothing"), "fp8_": ("18 %", "49 %"), "int8_": ("nothing", "21 %")}

__all__ = ["built_to_json", "effect_warnings", "format_built", "format_targets"]

BUILT_SCHEMA = 1


def format_targets(targets: Sequence[Target], out: Path, to_make_bytes: int) -> str:
    """Return a line per engine: what would happen, what it writes and needs, and why."""
    prefix, names = _shorten([target.name for target in targets])
    width = max(map(len, names), default=0)
    lines = [f"{out / prefix}", *_about_weights(targets)]
    if to_make_bytes:
        lines.append(f"  make {show_bytes(to_make_bytes)} of random weights first")
    lines += [
        f"  {target.action:<8} {name:<{width}}  writes {show_bytes(target.write_bytes):>10}  "
        f"memory {show_bytes(target.memory_bytes):>10}  {target.reason}"
        for target, name in zip(targets, names, strict=True)
    ]
    total = to_make_bytes + sum(target.write_bytes for target in targets)
    lines.append(f"writes {show_bytes(total)} in all")
    lines += [f"values not looked at: {path} (wanexport inspect does)" for path in _unread(targets)]
    return "\n".join(lines)


def format_built(built: Sequence[Built]) -> str:
    """Return a line per engine: where it is and how well it was verified.

    Errors and effects are relative L2 distances of the outputs.
    """
    prefix, names = _shorten([engine.path.name for engine in built])
    width = max(map(len, names), default=0)
    lines = [f"{engine.path.parent / prefix}" for engine in built[:1]]
    lines += _about_weights([engine.target for engine in built])
    for engine, name in zip(built, names, strict=True):
        found = engine.verification
        if found is None:
            note = "up to date"
        elif found.error is None:
            note = "unverified: outputs not compared, linked weights not read"
        else:
            note = f"error {found.error:.1e} (at most {found.tolerance:.1e})"
            if found.emulated_error is not None and found.reference_error is not None:
                note += f", bf16 emulated {found.emulated_error:.1e}"
                note += f" (torch's {found.reference_error:.1e})"
            if found.adapter_effect is not None:
                note += f", adapter's effect {found.adapter_effect:.1e}"
        lines.append(f"  {name:<{width}}  {note}{_kept(engine)}")
    return "\n".join(lines)


def built_to_json(built: Sequence[Built], argv: Sequence[str], seconds: float) -> str:
    """Return what a build made, or found up to date, for scripts.

    Args:
        built: its engines.
        argv: the command's arguments.
        seconds: what it took, with loading what it needs.
    """
    engines = [
        {
            "folder": str(engine.path.absolute()),
            "mode": engine.target.mode,
            "control": engine.target.control,
            "made": engine.verification is not None,
        }
        for engine in built
    ]
    value = {
        "schema": BUILT_SCHEMA,
        "argv": list(argv),
        "seconds": round(seconds, 3),
        "engines": engines,
    }
    return json.dumps(value, indent=1) + "\n"


def _kept(engine: Built) -> str:
    """Say how much of the full fine-tune's effect an engine keeps, with each of its adapters."""
    target = engine.target
    if engine.keeps:
        names = [f" ({one.label})" for one in target.adapters] if len(target.adapters) > 1 else [""]
        kept = zip(engine.keeps, names, strict=True)
        return f", keeps {', '.join(show_share(share) + name for share, name in kept)}"
    if engine.verification is None and target.span is not None and target.mode != "full":
        return "; what it keeps of this full fine-tune wasn't measured: --force"
    return ""


def _about_weights(targets: Sequence[Target]) -> list[str]:
    """Return lines on checkpoints that aren't what engines hold: laid over another, quantised."""
    weights = {target.weights.origin: target.weights for target in targets}
    lines = [f"  {held.laid_over}" for held in weights.values() if held.laid_over]
    lines += [
        f"  {origin}: {scheme}"
        for origin, held in sorted(weights.items())
        if held.checkpoint is not None and (scheme := held.checkpoint.scheme())
    ]
    return lines + _about_merging(targets)


def _about_merging(targets: Sequence[Target]) -> list[str]:
    """Say what becomes of an adapter that is merged into a quantised base."""
    lines = []
    for target in targets:
        checkpoint = target.weights.checkpoint
        scheme = checkpoint.scheme() if checkpoint and target.mode == "merged" else None
        if scheme is None:
            continue
        dtype, family = target.config.dtype, scheme.partition("_")[0]
        text = (
            f"  merged: kept in {dtype}, not made {scheme} again, so the adapter's effect is whole"
        )
        kept = KEPT.get(scheme, KEPT.get(f"{family}_") if "_" in scheme else None)
        if kept:
            text += (
                f"; back in {family}, {kept[0]} would be left of it where it changes a weight by "
                f"0.3 %, {kept[1]} at 1 % (measured on one layer, rank 32)"
            )
        lines.append(text)
    return list(dict.fromkeys(lines))


def _unread(targets: Sequence[Target]) -> list[str]:
    """Return the checkpoints whose headers alone were read; made ones need no look."""
    held = (target.weights.checkpoint for target in targets)
    return list(dict.fromkeys(str(c.path) for c in held if c and not c.random_weights))


def _shorten(names: Sequence[str]) -> tuple[str, list[str]]:
    """Split engine names into what they share, up to a dash, and the rest."""
    split = [name.split("-") for name in names]
    columns = zip(*(words[:-1] for words in split), strict=False) if len(names) > 1 else iter(())
    shared = [words[0] for words in takewhile(lambda words: len(set(words)) == 1, columns)]
    rest = ["-".join(words[len(shared) :]) for words in split]
    return "-".join([*shared, "*"]) if shared else "", rest


def effect_warnings(built: Sequence[Built]) -> list[str]:
    """Return a warning for every adapter whose effect is lost in the error."""
    warnings = []
    for engine in built:
        v = engine.verification
        if v is None or v.adapter_effect is None or v.error is None:
            continue
        if v.adapter_effect <= v.error:
            warnings.append(
                f"warning[no-effect]: {engine.target.name}: the adapter moves the output by "
                f"{v.adapter_effect:.1e}, no more than the error; can't tell that it is applied\n"
                "   hint: is it trained? see its scale: wanexport inspect FILE"
            )
    return warnings
