"""`wanrt explain`: the kernels that a plan holds, and the bytes that they move."""

from __future__ import annotations

import json as text
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import EngineFolder
from wanrt.errors import EngineError
from wanrt.terminal.screen import print_line
from wanrt.terminal.text import columns, counted
from wanrt.terminal.units import show_si

if TYPE_CHECKING:
    from wanrt.explain.plan import Kernel, Operand

__all__ = ["explain"]


def explain(
    folder: EngineFolder,
    json: Annotated[
        bool, typer.Option("--json", help="Print the kernels with all their operands as JSON.")
    ] = False,
) -> None:
    """List a TensorRT-RTX plan's kernels and the bytes they move.

    Works without a GPU.
    """
    from wanrt.explain.plan import read_kernels
    from wanrt.manifest.read import read_manifest

    manifest = read_manifest(folder)
    plan = manifest.forward.plan
    if plan is None or manifest.backend != "tensorrt-rtx":
        raise EngineError(
            f"{folder}: its kernels can't be read: it is an engine of {manifest.backend}",
            "the kernels of TensorRT-RTX engines can be read",
        )
    kernels = read_kernels(folder / plan.file)
    print_line(_as_json(kernels) if json else _as_table(kernels))


def _as_table(kernels: tuple[Kernel, ...]) -> str:
    rows = [("kernel", "kind", "stream", "moved", "writes")]
    rows += [
        (
            kernel.name,
            kernel.kind,
            str(kernel.stream),
            show_si(kernel.bytes, "B"),
            ", ".join(_shape(operand) for operand in kernel.outputs),
        )
        for kernel in kernels
    ]
    moved = show_si(sum(kernel.bytes for kernel in kernels), "B")
    return "\n".join([*columns(rows), f"{counted(len(kernels), 'kernel')} move {moved}"])


def _shape(operand: Operand) -> str:
    return f"{operand.dtype} {'x'.join(map(str, operand.shape))}"


def _as_json(kernels: tuple[Kernel, ...]) -> str:
    def operands(held: tuple[Operand, ...]) -> list[dict[str, object]]:
        return [
            {"name": operand.name, "dtype": operand.dtype, "shape": operand.shape}
            for operand in held
        ]

    listed = [
        {
            "name": kernel.name,
            "kind": kernel.kind,
            "stream": kernel.stream,
            "bytes": kernel.bytes,
            "inputs": operands(kernel.inputs),
            "outputs": operands(kernel.outputs),
            "nodes": kernel.nodes,
        }
        for kernel in kernels
    ]
    return text.dumps(
        {"kernels": listed, "bytes": sum(kernel.bytes for kernel in kernels)}, indent=1
    )
