"""What `wanexport build` says at its end and in a dry run, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wanexport.build import Built
    from wanexport.plan import EnginePlan

__all__ = ["effect_warnings", "format_built", "format_bytes", "format_plans"]


def format_plans(plans: Sequence[EnginePlan], to_make_bytes: int) -> str:
    """Return a line per engine: what would happen, what it writes and needs, and why."""
    width = max(len(plan.name) for plan in plans)
    lines = []
    if to_make_bytes:
        lines.append(f"make {format_bytes(to_make_bytes)} of random weights first")
    lines += [
        f"{plan.action:<8}  {plan.name:<{width}}  writes {format_bytes(plan.write_bytes):>8}  "
        f"memory {format_bytes(plan.memory_bytes):>8}  {plan.reason}"
        for plan in plans
    ]
    total = to_make_bytes + sum(plan.write_bytes for plan in plans)
    lines.append(f"writes {format_bytes(total)} in all")
    return "\n".join(lines)


def format_built(built: Sequence[Built]) -> str:
    """Return a line per engine: where it is and how well it was verified."""
    lines = []
    for engine in built:
        if engine.verification is None:
            note = "there already, made from the same"
        elif engine.verification.error is None:
            note = "unverified"
        else:
            v = engine.verification
            note = f"error {v.error:.1e} of at most {v.tolerance:.1e} (relative L2, {v.dtype})"
            if v.adapter_effect is not None:
                note += f", adapter moves the output by {v.adapter_effect:.1e}"
        lines.append(f"{engine.path}  {note}")
    return "\n".join(lines)


def effect_warnings(built: Sequence[Built]) -> list[str]:
    """Return a warning for every adapter whose effect is lost in the error."""
    warnings = []
    for engine in built:
        v = engine.verification
        if v is None or v.adapter_effect is None or v.error is None:
            continue
        if v.adapter_effect <= v.error:
            warnings.append(
                f"warning[no-effect]: {engine.plan.name}: the adapter moves the output by "
                f"{v.adapter_effect:.1e}, no more than the error; can't tell that it is applied\n"
                "   hint: is it trained? see its scale: wanexport inspect FILE"
            )
    return warnings


def format_bytes(count: int) -> str:
    """Return a size with three digits in the nearest decimal unit."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
