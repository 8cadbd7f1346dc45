"""What one block of I2V-14B becomes in a TensorRT-RTX plan, and what LoRA adds to it. No GPU.

    python benchmarks/compiled_block.py [--work DIR] [--only NAME]

Builds plans of the stem, one layer and the head with the product's own code (random weights, bf16),
reads their kernels as `wanrt explain` does, and writes benchmarks/results/compiled_block.{json,md}.
A plan takes some 10 s. Each is removed once it is read, since all of them would take 50 GB.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from unittest.mock import patch

import numpy as np
from safetensors.numpy import save_file

import wanexport.graph.passes
from wanexport.build.request import BuildRequest
from wanexport.compiled import read_block, shrink
from wanexport.graph.fusible.forms import FORMS, lower_for_tensorrt
from wanexport.lora.find import parse_lora
from wanexport.model.config import Config, Size, load_config
from wanexport.model.names import module_shapes
from wanrt.explain.work import bound_seconds
from wanrt.machine.devices import load_devices
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Mode
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
CONFIG = "wan2.1-i2v-14b-480p"
SIZES = {"480p": Size(width=832, height=480, frames=81),
         "720p": Size(width=1280, height=720, frames=81)}  # fmt: skip
CARDS = {"12.0": "RTX 5090", "8.9": "RTX 4090"}
ALL = tuple(FORMS)
CROSS, EVERY = "cross-attention", "all linears"


@dataclass(frozen=True)
class Case:
    """One plan: an engine of some layers, for a size and a compute capability, in some forms."""

    mode: Mode
    rank: int | None = None
    targets: str = CROSS
    size: str = "480p"
    capability: str = "12.0"
    layers: int = 1
    forms: tuple[str, ...] = ALL
    dtype: Dtype = "bf16"

    @property
    def label(self) -> str:
        return self.mode + (f" r{self.rank}" if self.rank else "")

    @property
    def baseline(self) -> Case:
        """The full engine that it is compared with."""
        return replace(self, mode="full", rank=None, targets=CROSS)


@dataclass(frozen=True)
class Found:
    """What a plan's kernels come to."""

    kernels: int
    moved: int
    flops: int
    bound_s: float


def list_cases() -> Iterator[Case]:
    """Yield the plans of all tables."""
    for count in range(len(ALL) + 1):
        yield Case("full", forms=ALL[:count])
    unmerged: tuple[Mode, ...] = ("separate", "swappable")
    for mode in unmerged:
        yield from (Case(mode, rank) for rank in (8, 32, 128, 256))
        yield from (Case(mode, rank, EVERY) for rank in (32, 128))
        yield from (Case(mode, 32, targets, forms=()) for targets in (CROSS, EVERY))
        yield from (Case(mode, 32, targets, size="720p") for targets in (CROSS, EVERY))
        yield from (Case(mode, 32, targets, capability="8.9") for targets in (CROSS, EVERY))
        yield from (Case(mode, 32, targets, dtype="fp16") for targets in (CROSS, EVERY))
    yield from (Case("full", size="720p", forms=forms) for forms in ((), ALL))
    yield from (Case("full", capability="8.9", forms=forms) for forms in ((), ALL))
    yield from (Case("full", dtype="fp16", forms=forms) for forms in ((), ALL))
    yield from (Case("full", layers=2, forms=forms) for forms in ((), ALL))
    yield Case("separate", 32, layers=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Read what blocks become in compiled plans.")
    parser.add_argument("--work", type=Path, help="where to build; a temporary folder by default")
    parser.add_argument("--only", default="", help="cases whose label has this; prints, saves not")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        found: dict[Case, Found] = {}
        for case in list_cases():
            if arguments.only in case.label:
                found[case] = measure(case, work)
                print(f"{case}: {found[case]}", flush=True)
    if not arguments.only:
        save(found)


def measure(case: Case, work: Path) -> Found:
    """Build a case's plan with its forms alone, and sum what its kernels do."""
    device = load_devices()[CARDS[case.capability]]
    with only_forms(case.forms):
        kernels = read_block(ask(case, work), find_base(case, work), Reporter(quiet=True))
    return Found(
        len(kernels),
        sum(one.kernel.bytes for one in kernels),
        sum(one.flops for one in kernels),
        sum(bound_seconds(kernels, device)),
    )


def ask(case: Case, work: Path) -> BuildRequest:
    """Return the request of a case's engine."""
    config = load_config(CONFIG).model_copy(update={"size": SIZES[case.size], "dtype": case.dtype})
    plain = BuildRequest(config=config, modes=(case.mode,), ranks=(case.rank,) if case.rank else ())
    request = shrink(plain, case.layers, case.capability)
    if case.targets == EVERY and case.rank:
        lora = parse_lora(str(write_lora(request.config, case.rank, work)))
        request = replace(request, ranks=(), loras=(lora,))
    return request


def find_base(case: Case, work: Path) -> Path:
    """Return where a case's random weights are, or are to be made."""
    return work / f"base-{case.dtype}-{case.layers}"


@contextmanager
def only_forms(forms: tuple[str, ...]) -> Iterator[None]:
    """Let graphs for TensorRT get these forms alone."""
    lower = partial(lower_for_tensorrt, forms=forms)
    with patch.object(wanexport.graph.passes, "lower_for_tensorrt", lower):
        yield


def write_lora(config: Config, rank: int, work: Path) -> Path:
    """Write a LoRA on every linear layer of the blocks; return its file."""
    path = work / f"every-r{rank}-{config.architecture.num_layers}.safetensors"
    if not path.exists():
        rng = np.random.default_rng(0)
        tensors = {}
        for name, shape in module_shapes(config.architecture).items():
            if name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2:
                module = f"transformer.{name.removesuffix('.weight')}"
                halves = {"lora_A": (rank, prod(shape[1:])), "lora_B": (shape[0], rank)}
                for half, size in halves.items():
                    values = rng.standard_normal(size, np.float32) / 64
                    tensors[f"{module}.{half}.weight"] = values
        save_file(tensors, path)
    return path


def save(found: Mapping[Case, Found]) -> None:
    """Write all figures, and the tables that answer the questions."""
    rows = [{**asdict(case), **asdict(one)} for case, one in found.items()]
    (RESULTS / "compiled_block.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = HEAD + "".join(tabulate(title, shared, found) for title, shared in TABLES.items())
    (RESULTS / "compiled_block.md").write_text(text)
    print(text)


HEAD = f"""# One block of I2V-14B in compiled plans

`python benchmarks/compiled_block.py`: stem, one layer and head of {CONFIG} in bf16 (one
table: fp16), built by TensorRT-RTX 1.7.1.116 without a GPU and read as `wanrt explain` reads them.
GB (10^9 bytes) that the kernels move, each operand of a kernel once; to full: of the same forms,
size and capability. The bound is the time that the kernels take at best, one after the other, on
the card that is named: worked out from the plan, not measured. Merged engines have the kernels of
full ones: checked on tiny engines by tests/system/test_real_plans.py.
"""
PLAIN = {"size": "480p", "capability": "12.0", "layers": 1, "dtype": "bf16"}
TABLES: dict[str, dict[str, object]] = {
    "The forms of the graph, one after the other (full)": {**PLAIN, "mode": "full"},
    "LoRA at 480p, with all forms": {**PLAIN, "forms": ALL},
    "LoRA at 480p, as exported": {**PLAIN, "forms": ()},
    "720p (75,600 tokens)": {"size": "720p"},
    "Compute capability 8.9": {"capability": "8.9"},
    "fp16": {"dtype": "fp16"},
    "Two layers (minus one layer, above: an inner block)": {"layers": 2},
}
"""Title -> what the cases of a table have in common."""


def tabulate(title: str, shared: Mapping[str, object], found: Mapping[Case, Found]) -> str:
    """Return a table of the cases that belong to it."""
    lines = [
        f"\n## {title}\n",
        "| engine | targets | forms | kernels | GB | to full | TFLOP | bound, ms | to full |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case, one in found.items():
        if any(getattr(case, name) != value for name, value in shared.items()):
            continue
        full = found.get(case.baseline)
        more = "" if full is None else f"+{(one.moved - full.moved) / 1e9:.2f}"
        slower = "" if full is None else f"+{100 * (one.bound_s / full.bound_s - 1):.2f} %"
        if case == case.baseline:
            more = slower = ""
        forms = "all" if case.forms == ALL else ", ".join(case.forms) or "as exported"
        targets = "" if case.mode == "full" else case.targets
        bound = f"{1e3 * one.bound_s:.1f} on {CARDS[case.capability]}"
        cells = (case.label, targets, forms, f"{one.kernels}", f"{one.moved / 1e9:.2f}", more,
                 f"{one.flops / 1e12:.2f}", bound, slower)  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
