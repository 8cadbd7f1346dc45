"""`wanexport compare`: how far an engine's outputs are from another's, or from diffusers'."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wanexport.cli.options import Quiet
from wanrt.terminal.screen import print_line
from wanrt.terminal.text import columns, wrap

if TYPE_CHECKING:
    from wanexport.comparison import Comparison

__all__ = ["compare"]


DIFFUSERS = "diffusers"
Row = tuple[str, ...]


def compare(
    engine: Annotated[Path, typer.Argument(metavar="A", help="An engine folder.")],
    other: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="Another engine folder, or `diffusers`: diffusers' model with A's weights.",
        ),
    ],
    blocks: Annotated[
        bool,
        typer.Option(
            "--blocks",
            help="Compare stem, every block and head, run one after the other on a CPU.",
        ),
    ] = False,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Canonical adapter for a swappable engine [default: none, the base's output].",
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Workload to run [default: the first that both have]."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(
            help="Device to run on; auto picks the GPU for TensorRT engines and the CPU otherwise."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the inputs.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Relative L2 distance that counts as equal [default: by dtype, 1e-5 for fp32]."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare the outputs of two engines, or of an engine and diffusers, on the same inputs.

    Exits 1 when they differ by more than the tolerance.
    """
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise typer.BadParameter("--tolerance is a positive number, such as 1e-5")
    if blocks and seed:
        raise typer.BadParameter("--blocks has inputs of its own: leave out --seed")
    if blocks and device == "cuda":
        raise typer.BadParameter("--blocks runs on a CPU: leave out --device")
    from wanexport.comparison import compare_engines
    from wanrt.terminal.progress import Reporter

    found = compare_engines(
        engine,
        None if other == DIFFUSERS else Path(other),
        Reporter(quiet=quiet),
        blocks=blocks,
        adapter=adapter,
        workload=workload,
        seed=seed,
        device=None if device == "auto" else device,
        tolerance=tolerance,
    )
    print_line(format_comparison(found))
    if found.first_off is not None:
        raise typer.Exit(1)


def format_comparison(found: Comparison) -> str:
    """Return what was compared, a table of distances, and the verdict."""
    rows: list[Row] = [("output", "largest", "mean", "relative", "L2", "PSNR")]
    for one in found.distances:
        figures = (f"{value:.1e}" for value in (one.largest, one.mean, one.relative, one.l2))
        rows.append((one.name, *figures, f"{one.psnr:.1f} dB"))
    lines = [
        *wrap(f"A: {found.a}", "   ", whole_words=True),
        *wrap(f"B: {found.b}", "   ", whole_words=True),
        f"inputs: {found.inputs}",
        "",
        *columns(rows),
        "",
        *wrap(
            "largest, mean: of |A - B|; relative: the median of |A - B| / |B|; L2: the norm of "
            "A - B over the norm of B"
        ),
    ]
    if found.note:
        lines += wrap(found.note, whole_words=True)
    off = found.first_off
    if off is None:
        lines.append(f"equal within {found.tolerance:g} (L2)")
    elif len(found.distances) == 1:
        lines.append(f"{off.name} differs by more than {found.tolerance:g} (L2)")
    else:
        lines.append(f"{off.name} is the first that differs by more than {found.tolerance:g} (L2)")
    return "\n".join(lines)
