"""What was measured, as Markdown."""

from __future__ import annotations

from typing import Any

from .record import Record
from .settings import Settings


def render(record: Record, settings: Settings) -> str:
    """Return a page: the card and its ceilings, a table per bench, where the time goes."""
    parts: dict[str, dict[str, Any]] = record.steps
    title = "# What a GPU shows" if settings.is_measurement else "# Rehearsal: no GPU's figures"
    lines = [title, "", *_card(parts.get("card", {}))]
    ceiling = parts.get("card", {}).get("matmul", {}).get("flops_per_s")
    for part in ("layers", "deep"):
        for name, step in parts.get(part, {}).items():
            if "rows" in step:
                lines += ["", f"## {part}: {name}", "", *_bench(step, ceiling)]
    lines += _forwards(parts.get("kernels", {}), ceiling)
    lines += _parity(parts.get("layers", {}).get("parity", {}))
    for name, step in parts.get("kernels", {}).items():
        if "seconds_by_kind" in step:
            lines += ["", f"## Where the time of {name} goes", "", *_kernels(step)]
    lines += _forms(parts.get("forms", {}))
    lines += _fusible(parts.get("fusible", {}).get("race", {}))
    for name, step in parts.get("check", {}).items():
        lines += ["", f"## `make gpu-check`: {name}", "", *_check(step)]
    problems = [
        f"- {part}, {name}: {step['failed']}"
        for part, steps in parts.items()
        for name, step in steps.items()
        if "failed" in step
    ]
    if problems:
        lines += ["", "## Failed", "", *problems]
    return "\n".join(lines) + "\n"


def _card(steps: dict[str, Any]) -> list[str]:
    lines = []
    if "machine" in steps:
        machine = steps["machine"].get("machine", {})
        names = ("gpu", "driver", "processor", "cores", "onnxruntime", "torch", "python")
        lines.append(" · ".join(f"{n} {machine.get(n)}" for n in names))
    for name, field, unit in (
        ("matmul", "flops_per_s", "TFLOP/s"),
        ("copy", "bytes_per_s", "TB/s"),
    ):
        if field in steps.get(name, {}):
            lines.append(f"- {name} with torch: {steps[name][field] / 1e12:.4g} {unit}")
    for name, value in steps.get("attention", {}).items():
        if isinstance(value, float) and name != "seconds":
            lines.append(f"- attention with torch, {name}: {value / 1e12:.4g} TFLOP/s")
    return lines


def _bench(step: dict[str, Any], ceiling: float | None) -> list[str]:
    lines = [
        "| candidate | forward | tokens/s | to full (95 %) | TFLOP/s | of the matmul ceiling |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for row in step["rows"]:
        label = row["label"] + (" (control)" if row["control"] else "")
        if not row["forward_s"]:
            lines.append(f"| {label} | | | {row['skipped'] or row['failed']} | | |")
            continue
        ratio, seconds = row["ratio"], row["forward_s"]["typical"]
        shown = "" if ratio is None else f"{ratio['value']:.4f}"
        if ratio and ratio["low"] is not None:
            shown += f" ({ratio['low']:.4f} to {ratio['high']:.4f}), {ratio['verdict']}"
        rate = row["flops"] / seconds
        share = f"{100 * rate / ceiling:.1f} %" if ceiling else ""
        lines.append(
            f"| {label} | {seconds * 1e3:.2f} ms | {row['tokens_per_s']:,.0f} | {shown} "
            f"| {rate / 1e12:.1f} | {share} |"
        )
    return lines


def _forwards(steps: dict[str, Any], ceiling: float | None) -> list[str]:
    rows = []
    for name, step in steps.items():
        if "forward_s" in step and "flops" in step:
            rate = step["flops"] / step["forward_s"]
            share = f"{100 * rate / ceiling:.1f} %" if ceiling else ""
            tokens = step["tokens"] / step["forward_s"]
            rows.append(
                f"| {name} | {step['forward_s'] * 1e3:.1f} ms | {tokens:,.0f} "
                f"| {rate / 1e12:.0f} | {share} |"
            )
    if not rows:
        return []
    lines = ["", "## What is profiled below, unprofiled: one load, no interval", ""]
    lines += ["| candidate | forward | tokens/s | TFLOP/s | of the matmul ceiling |"]
    return [*lines, "|---|--:|--:|--:|--:|", *rows]


def _parity(step: dict[str, Any]) -> list[str]:
    found = {k: v for k, v in step.items() if isinstance(v, float) and k != "seconds"}
    if not found:
        return []
    lines = [
        "",
        "## Outputs against diffusers' model in fp32",
        "",
        "| | relative L2 |",
        "|---|--:|",
    ]
    return lines + [f"| {name} | {error:.2e} |" for name, error in found.items()]


def _kernels(step: dict[str, Any]) -> list[str]:
    total = sum(step["seconds_by_kind"].values())
    lines = ["| kernels | ms per forward | share |", "|---|--:|--:|"]
    for kind, seconds in sorted(step["seconds_by_kind"].items(), key=lambda item: -item[1]):
        lines.append(f"| {kind} | {seconds * 1e3:.2f} | {100 * seconds / total:.1f} % |")
    lines += ["", "| kernel | count | ms |", "|---|--:|--:|"]
    for row in step["kernels"][:12]:
        name = row["name"].replace("|", "\\|")[:100]
        lines.append(f"| `{name}` | {row['count']:.0f} | {row['s'] * 1e3:.2f} |")
    return lines


def _forms(steps: dict[str, Any]) -> list[str]:
    measured = {name: s["forward_s"] for name, s in steps.items() if "forward_s" in s}
    if not measured:
        return []
    lines = ["", "## Forms of the graph: full, one load, median forward", ""]
    lines += ["| form | forward |", "|---|--:|"]
    return lines + [f"| {name} | {seconds * 1e3:.1f} ms |" for name, seconds in measured.items()]


def _fusible(step: dict[str, Any]) -> list[str]:
    """The graph's forms for TensorRT: what plans promise in bytes, in seconds."""
    kinds = {name: found for name, found in step.items() if isinstance(found, dict)}
    if not kinds:
        return []
    lines = [
        "",
        "## Forms that TensorRT fuses: one load each, interleaved, no interval",
        "",
        "| engine | as exported | with the forms | ratio | error to fp32 | the two apart |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for name, found in kinds.items():
        errors = [found[key] for key in ("as_exported_error", "fusible_error") if key in found]
        lines.append(
            f"| {name} | {found['as_exported_s'] * 1e3:.1f} ms | {found['fusible_s'] * 1e3:.1f} ms "
            f"| {found['ratio']:.4f} | {', '.join(f'{error:.2e}' for error in errors)} "
            f"| {found['apart']:.1e} |"
        )
    return lines


def _check(step: dict[str, Any]) -> list[str]:
    lines = ["| engines | check | result |", "|---|---|---|"]
    return lines + [f"| {' | '.join(row)} |" for row in step.get("rows", [])]
