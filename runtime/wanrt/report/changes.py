"""Changes of speed since an earlier bench, as text."""

from __future__ import annotations

from collections.abc import Sequence

from wanrt.results.regression import Change
from wanrt.terminal.units import RATES, pick, show

__all__ = ["render_changes"]


def render_changes(changes: Sequence[Change], where: str) -> str:
    """Return a line per candidate."""
    width = max(len(change.name) for change in changes)
    unit = pick(RATES, min(change.before for change in changes))
    lines = [f"compared with {where}"]
    for change in changes:
        if change.now is None:
            lines.append(f"  {change.name:<{width}}  {show(change.before, unit)} tok/s -> gone")
            continue
        interval = ", one load: no interval"
        if change.low is not None and change.high is not None:
            interval = f" ({change.low:+.2%} to {change.high:+.2%})"
        mark = "  SLOWER" if change.failed else ""
        rates = f"{show(change.before, unit)} -> {show(change.now, unit)} tok/s"
        text = f"{change.of} {change.value:+.2%}{interval}{mark}"
        lines.append(f"  {change.name:<{width}}  {rates}  {text}")
    return "\n".join(lines) + "\n"
