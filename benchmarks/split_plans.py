"""What `--split` makes of one layer of I2V-14B in TensorRT-RTX plans, beside the one plan. No GPU.

    python benchmarks/split_plans.py [--work DIR]

Builds stem, one layer and head with the product's own code (random weights, bf16, 480p, SM120) as
one graph and as two, without an adapter and with one of rank 32 on cross-attention and on all
linear layers, and reads the plans' kernels as `wanrt explain` does. Writes
benchmarks/results/split_plans.md. A plan takes some 10 s; each engine is removed once it is read.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.checkpoint.random_weights import ensure_demo_checkpoint
from wanexport.compiled import shrink
from wanexport.model.config import load_config
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import Sums, Work, examine, sum_up
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Mode
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
CONFIG, CAPABILITY, RANK = "wan2.1-i2v-14b-480p", "12.0", 32
QUIET = Reporter(quiet=True)
HEAD = f"""# One layer of I2V-14B as one plan and as two

`python benchmarks/split_plans.py`: stem, one layer and head of {CONFIG} (832x480x81, bf16),
built by TensorRT-RTX 1.7.1.116 for SM120 without a GPU and read as `wanrt explain` reads them.
Kernels, and GB (10^9 bytes) that they move, each operand of a kernel once; TFLOP of `denoise`.

| engine | targets | one plan | denoise | to one plan | TFLOP | context, once per prompt |
|---|---|--:|--:|--:|--:|--:|
"""


def list_requests() -> Iterator[tuple[str, str, BuildRequest]]:
    """Yield each engine's label, its targets and what is asked."""
    config = load_config(CONFIG)
    yield "full", "", BuildRequest(config=config, modes=("full",))
    modes: tuple[Mode, ...] = ("separate", "swappable")
    for mode in modes:
        for label, targets in (("cross-attention", ()), ("all linears", ("all",))):
            request = BuildRequest(config=config, modes=(mode,), ranks=(RANK,), targets=targets)
            yield f"{mode} r{RANK}", label, request


def read_plans(request: BuildRequest, work: Path) -> dict[str, tuple[Work, ...]]:
    """Build a request's engine and return what the kernels of each of its plans do."""
    base = work / "base"
    if not base.exists():
        ensure_demo_checkpoint(base, request.config.architecture, "bf16", 0, lambda _: None)
    with tempfile.TemporaryDirectory(prefix="engines-", dir=work) as out:
        (built,) = build_engines(replace(request, base=str(base), out=Path(out)), QUIET)
        graphs = read_manifest(built.path).graphs.items()
        return {
            name: examine(read_kernels(built.path / graph.plan.file))
            for name, graph in graphs
            if graph.plan is not None
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Read what --split makes of one layer's plans.")
    parser.add_argument("--work", type=Path, help="where to build; a temporary folder by default")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as room:
        work = arguments.work or Path(room)
        for label, targets, request in list_requests():
            small = shrink(request, 1, CAPABILITY)
            one = read_plans(small, work)["forward"]
            two = read_plans(replace(small, split=True), work)
            rows.append(tabulate(label, targets, one, two["denoise"], two["context"]))
            print(rows[-1], flush=True)
    (RESULTS / "split_plans.md").write_text(HEAD + "\n".join(rows) + "\n")


def tabulate(label: str, targets: str, *plans: tuple[Work, ...]) -> str:
    """Return the table's row: the one plan, `denoise` and `context`."""
    one, denoise, context = map(sum_up, plans)
    cells = [f"{len(work)}, {sums.moved / 1e9:.3f} GB" for work, sums in
             zip(plans, (one, denoise, context), strict=True)]  # fmt: skip
    return (
        f"| {label} | {targets} | {cells[0]} | {cells[1]} | {_change(denoise, one)} "
        f"| {denoise.flops / 1e12:.2f} | {cells[2]} |"
    )


def _change(ours: Sums, theirs: Sums) -> str:
    return f"{(ours.moved - theirs.moved) / 1e9:+.3f} GB"


if __name__ == "__main__":
    main()
