"""At how many tokens a low-rank branch pays as a part of its layer's own product. No GPU.

    python benchmarks/lora_turn.py [--work DIR]

A build for TensorRT takes, layer by layer, the form that moves less by the formula of `estimate`: a
branch of its own, or one product over [x, x A^T] and [W, B]. This builds plans of both for one
block of I2V-14B (rank 32 on cross-attention, all layers in one form) at several sizes, reads what
their kernels move, and writes benchmarks/results/lora_turn.{json,md}. Takes ten minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compiled_block import CONFIG

from wanexport.build.request import BuildRequest
from wanexport.compiled import read_block, shrink
from wanexport.lora.targets import select_modules
from wanexport.model.config import Size, load_config
from wanexport.model.formulas import count_branch, module_rows
from wanexport.model.names import module_shapes
from wanrt.manifest.schema import LoraForm, Mode
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
RANK = 32
SIZES = ((256, 144), (320, 192), (416, 240), (480, 272), (608, 352), (832, 480))
MODES: tuple[Mode, ...] = ("separate", "swappable")
FORMS: tuple[LoraForm | None, ...] = ("branch", "fused", None)

CHOSEN = "as built"
NOTES = (
    "By the plans a separate branch moves less than by the formula, because the builder computes",
    "x W^T and x A^T as one product. A swappable engine, all of it fused, puts [W, B] together for",
    "k and v of text and image, too, which have few rows; the builder then puts those of k and v",
    "together once more, 420 MB in all, which the formula doesn't know. A build leaves them apart.",
)


@dataclass(frozen=True)
class Found:
    """What one size's plans move, in bytes beyond the full engine's, and the same by formula.

    The form None is a build's choice, layer by layer.
    """

    mode: Mode
    tokens: int
    form: LoraForm | None
    moved: int
    formula: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Read where forms of a branch turn.")
    parser.add_argument("--work", type=Path, help="where to build; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for one in measure(arguments.work or Path(folder)):
            found.append(one)
            print(one, flush=True)
    (RESULTS / "lora_turn.json").write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")
    (RESULTS / "lora_turn.md").write_text(tabulate(found))
    print(tabulate(found))


def measure(work: Path) -> Iterator[Found]:
    """Yield every size, mode and form."""
    work.mkdir(parents=True, exist_ok=True)
    for width, height in SIZES:
        size = Size(width=width, height=height, frames=81)
        full = _moved("full", size, None, work)
        for mode in MODES:
            for form in FORMS:
                moved = _moved(mode, size, form, work) - full
                yield Found(mode, size.tokens, form, moved, _formula(mode, size, form))


def _moved(mode: Mode, size: Size, form: LoraForm | None, work: Path) -> int:
    config = load_config(CONFIG).model_copy(update={"size": size})
    ranks = () if mode == "full" else (RANK,)
    request = shrink(BuildRequest(config=config, modes=(mode,), ranks=ranks), 1, "12.0")
    assert request.tensorrt is not None
    request = replace(request, tensorrt=replace(request.tensorrt, lora_form=form))
    kernels = read_block(request, work / "base-bf16-1", Reporter(quiet=True))
    return sum(one.kernel.bytes for one in kernels)


def _formula(mode: Mode, size: Size, form: LoraForm | None) -> int:
    """Return what estimate's formula gives for one block's modules."""
    arch = load_config(CONFIG).architecture.model_copy(update={"num_layers": 1})
    shapes = module_shapes(arch)
    total = 0
    for module in select_modules(arch, "cross-attention"):
        fan_out, fan_in = shapes[f"{module}.weight"]
        sizes = (module_rows(module, size.tokens, arch.dims), RANK, fan_in, fan_out)
        swaps = mode == "swappable"
        known: tuple[LoraForm, ...] = (form,) if form else ("branch", "fused")
        total += 2 * min(count_branch(*sizes, form=one, swappable=swaps) for one in known)
    return total


def tabulate(found: Sequence[Found]) -> str:
    """Return the page."""
    lines = [
        "# From how many tokens on a branch pays as part of its layer's product",
        "",
        "`python benchmarks/lora_turn.py`: one block of I2V-14B with stem and head, 81 frames,",
        f"bf16, rank {RANK} on cross-attention, compiled by TensorRT-RTX 1.7.1.116 for compute",
        "capability 12.0 and read as `wanrt explain` reads it. MB (10^6 bytes) beyond the full",
        "engine, all layers in one form or as a build chooses, layer by layer, by the formula of",
        "`estimate`; in brackets by that formula. Nothing here is a time.",
        "",
        f"| tokens | {' | '.join(f'{m}, {f or CHOSEN}' for m in MODES for f in FORMS)} |",
        f"|--:|{'--:|' * len(MODES) * len(FORMS)}",
    ]
    for tokens in dict.fromkeys(one.tokens for one in found):
        cells = [
            f"{one.moved / 1e6:,.0f} ({one.formula / 1e6:,.0f})"
            for one in found
            if one.tokens == tokens
        ]
        lines.append(f"| {tokens:,} | {' | '.join(cells)} |")
    lines += ["", *(f"- {mode}, {CHOSEN}: {_turn(found, mode)}" for mode in MODES)]
    lines += ["", *NOTES]
    return "\n".join(lines) + "\n"


def _turn(found: Sequence[Found], mode: Mode) -> str:
    """Say at which of the sizes what is built moves less than branches, by plans and formula."""
    said = []
    for name in ("moved", "formula"):
        by = {(one.tokens, one.form): getattr(one, name) for one in found if one.mode == mode}
        sizes = sorted({tokens for tokens, _ in by})
        pays = [tokens for tokens in sizes if by[tokens, None] < by[tokens, "branch"]]
        some = f"from {pays[0]:,} tokens on" if pays else "at none of them"
        said.append("at all of them" if pays == sizes else some)
    return f"less than branches {said[0]} by the plans, {said[1]} by the formula"


if __name__ == "__main__":
    main()
