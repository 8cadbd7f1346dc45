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
    engine: Annotated[Path, typer.Argument(metavar="A", help="Engine folder.")],
    other: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="Another engine folder, or 'diffusers' for diffusers' model with A's weights.",
        ),
    ],
    blocks: Annotated[
        bool,
        typer.Option(
            "--blocks",
            help="Run both graphs piece by piece on a CPU, and name the first piece that differs.",
        ),
    ] = False,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Adapter to load into a swappable engine, made by wanexport adapter.",
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Size to run at, such as 832x480x81 [default: the first of A that B has].",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(
            help="Device to run on; auto picks the GPU for TensorRT engines and the CPU otherwise."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random inputs.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="L2",
            help="Largest relative L2 distance that counts as equal "
            "[default: 1e-5 for fp32, 5e-3 for fp16, 3e-2 for bf16].",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare what two engines compute from the same inputs, or an engine and diffusers.

    Exits with 1 if an output differs by more than the tolerance.
    """
    if str(engine) == DIFFUSERS:
        raise typer.BadParameter(f"name the engine first: wanexport compare {other} {DIFFUSERS}")
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
