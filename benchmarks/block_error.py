"""What the forms that TensorRT's builder can fuse do to the error of a block of I2V-14B. No GPU.

    python benchmarks/block_error.py [--work DIR] [--tokens 1024]

Builds engines of the stem, one layer and the head (random weights, bf16) as exported and with the
forms, as compiled_block.py does, and keeps what the build's own verification finds: the error of
the graph, emulated in bf16, to diffusers' model in fp32, beside torch's own in bf16, and what is
left of it without rounding. Writes benchmarks/results/block_error.{json,md}. Takes ten minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

from compiled_block import ALL, EVERY, Case, ask, find_base, only_forms

import wanexport.verify.twin
from wanexport.build.recipe import build_engines
from wanexport.checkpoint.random_weights import ensure_demo_checkpoint
from wanrt.manifest.read import read_manifest
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
ALLOWED = 1.01


@dataclass(frozen=True)
class Errors:
    """Relative L2 distances of a sample to diffusers' model in fp32, on the same inputs.

    Args:
        tokens: of the sample.
        emulated: of the engine's graph, every operator's result rounded to bf16.
        torch: of diffusers' model in bf16.
        unrounded: of the same graph in fp32.
    """

    tokens: int
    emulated: float
    torch: float
    unrounded: float


def list_cases() -> Iterator[Case]:
    """Yield every engine, as exported and with all forms."""
    for forms in ((), ALL):
        yield Case("full", forms=forms)
        yield Case("separate", 32, forms=forms)
        yield Case("separate", 32, EVERY, forms=forms)
        yield Case("swappable", 32, EVERY, forms=forms)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the graph's forms do to its error.")
    parser.add_argument("--work", type=Path, help="where to build; a temporary folder by default")
    parser.add_argument("--tokens", type=int, default=1024, help="at most so many")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(wanexport.verify.twin, "MAX_TOKENS_WIDE", arguments.tokens),
    ):
        found = {}
        for case in list_cases():
            found[case] = measure(case, arguments.work or Path(folder))
            print(f"{case}: {found[case]}", flush=True)
    rows = [{**asdict(case), **asdict(errors)} for case, errors in found.items()]
    (RESULTS / "block_error.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "block_error.md").write_text(tabulate(found))
    print(tabulate(found))


def measure(case: Case, work: Path) -> Errors:
    """Build a case's engine with its verification, and return what that found."""
    work.mkdir(parents=True, exist_ok=True)
    request, base = ask(case), find_base(case, work)
    ensure_demo_checkpoint(base, request.config.architecture, case.dtype, 0)
    with only_forms(case.forms), tempfile.TemporaryDirectory(dir=work) as out:
        request = replace(request, base=str(base), out=Path(out), verify=True)
        (built,) = build_engines(request, Reporter(quiet=True))
        found = read_manifest(request.out / built.target.name).verification
    assert found.tokens is not None
    assert found.emulated_error is not None
    assert found.reference_error is not None
    assert found.error is not None
    return Errors(found.tokens, found.emulated_error, found.reference_error, found.error)


def tabulate(found: dict[Case, Errors]) -> str:
    """Return the page."""
    tokens = next(iter(found.values())).tokens
    lines = [
        "# The error of a block of I2V-14B, as exported and in the forms that fuse",
        "",
        "`python benchmarks/block_error.py`: stem, one layer and head of wan2.1-i2v-14b-480p with "
        f"random weights, {tokens:,} tokens.",
        "Relative L2 to diffusers' model in fp32, of the graph emulated in bf16 (every operator's "
        "result rounded), of diffusers' model in bf16,",
        "and of the same graph in fp32. A fused kernel rounds less often than this. Nothing here "
        "ran on a GPU.",
        "",
        "| engine | targets | as exported | with the forms | of that | torch in bf16 | in fp32 |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for case, errors in found.items():
        if case.forms:
            plain = found[replace(case, forms=())]
            targets = "" if case.mode == "full" else case.targets
            cells = (case.label, targets, f"{plain.emulated:.4e}", f"{errors.emulated:.4e}",
                     f"{errors.emulated / plain.emulated:.3f} x", f"{errors.torch:.4e}",
                     f"{errors.unrounded:.1e}")  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    worst = max(
        errors.emulated / found[replace(case, forms=())].emulated for case, errors in found.items()
    )
    kept = "kept" if worst <= ALLOWED else "NOT kept"
    lines += ["", f"Allowed: {ALLOWED} x the error as exported. At most {worst:.3f} x: {kept}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
