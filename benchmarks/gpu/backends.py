"""What only a GPU can show, in one table: `make gpu-check`, with the libraries that are there.

    python -m benchmarks.gpu.backends --work DIR [--backend tensorrt --backend tensorrt-rtx ...]

Builds the demo for every backend that this machine has, in fp16 and bf16, in every mode and refit
kind, and compares what comes out with ONNX Runtime's fp32 engine on the CPU. Needs 8 GB of disk and
some minutes. Ends with 1 if a check failed; what was skipped is named with its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import wanrt
from wanexport.cli.main import main as wanexport_main
from wanrt.backends.tensorrt.cuda import find_gpu
from wanrt.cli.main import main as wanrt_main
from wanrt.engine.engine import DeviceKind, Engine
from wanrt.engine.inputs import make_inputs
from wanrt.errors import UnsupportedError, WanrtError
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Manifest

from .command import CommandError, run_command

BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
RANKS = (8, 32)
ATTENTIONS = 12  # of the demo
FACTOR = 1.5  # of PyTorch's own error in fp16, as for every engine that is verified
UNVERIFIED = ("--verify", "none")  # what comes out is compared here
BF16 = 8  # bf16 has three bits less than fp16


class SkippedError(Exception):
    """Why a check can't be made here."""


@dataclass(frozen=True)
class Study:
    """Engines of one backend, dtype and refit kind, and what they should say."""

    folder: Path
    reference: Path
    backend: str
    dtype: str
    refit: str
    device: DeviceKind
    seconds: float

    @property
    def name(self) -> str:
        """For the table."""
        kind = f" {self.refit}" if self.backend != "onnxruntime" else ""
        return f"{self.backend} {self.dtype}{kind}"

    def engines(self) -> dict[str, Path]:
        """Return the engines by mode and rank: `merged-r8`."""
        return {_key(read_manifest(path)): path for path in _folders(self.folder)}

    def expected(self, key: str) -> np.ndarray:
        """Return what the fp32 engine on the CPU says."""
        mode, _, rank = key.partition("-r")
        if mode == "swappable" or (rank and mode == "separate"):
            mode = "merged"
        name = f"{mode}-r{rank}" if rank else mode
        (path,) = (p for p in _folders(self.reference) if _key(read_manifest(p)) == name)
        return run(path, "cpu")

    @property
    def tolerance(self) -> float:
        """The relative L2 distance that the dtype explains."""
        (path,) = (p for p in _folders(self.reference.parent / "fp16"))
        own = read_manifest(path).verification.reference_error
        assert own is not None
        return FACTOR * own * (BF16 if self.dtype == "bf16" else 1)


def main() -> None:
    """Run every check and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, help="where engines go; kept")
    parser.add_argument("--backend", action="append", choices=BACKENDS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each bench's measuring")
    parser.add_argument("--json", type=Path, help="save the rows")
    asked = parser.parse_args()
    name = _device_name(asked.device)
    work = asked.work or Path(tempfile.mkdtemp(prefix="gpu-check-"))
    table = Table(title=name, title_justify="left")
    rows = []
    for column in ("engines", "check", "result"):
        table.add_column(column)
    failed = 0
    for study, check in _plan(work, asked):
        try:
            result = check(study)
        except SkippedError as reason:
            result = f"skipped: {reason}"
        except (AssertionError, WanrtError, CommandError) as problem:
            failed += 1
            result = f"FAILED: {_describe(problem)}"
        rows.append((study.name, (check.__doc__ or "").rstrip("."), result))
        table.add_row(*rows[-1])
        sys.stderr.write(f"{study.name}: {check.__name__}: {result}\n")
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    Console(width=160).print(table)
    sys.exit(1 if failed else 0)


def _device_name(device: str) -> str:
    if device == "cpu":
        return "a CPU: a rehearsal"
    gpu = find_gpu()
    if gpu is None:
        sys.exit("no GPU here (or no cuda-bindings): pip install '.[tensorrt-rtx]'")
    return f"{gpu.name}, compute capability {gpu.capability}"


def _plan(work: Path, asked: argparse.Namespace) -> Iterator[tuple[Study, Callable[[Study], str]]]:
    reference = work / "fp32"
    backends: tuple[str, ...] = asked.backend or BACKENDS
    _build(reference, "--dtype", "fp32", *UNVERIFIED, ranks=RANKS)
    _build(work / "fp16", "--dtype", "fp16", "--mode", "full")
    for backend in backends:
        kinds = ("none",) if backend == "onnxruntime" else ("none", "targets", "all", "baked")
        for dtype in ("fp16", "bf16"):
            for refit in kinds:
                folder = work / f"{backend}-{dtype}-{refit}"
                study = Study(folder, reference, backend, dtype, refit, asked.device, asked.seconds)
                checks = (build, outputs, swapping, graphs, attention, streaming, benching)
                yield from ((study, check) for check in checks)


def build(study: Study) -> str:
    """Every mode is built."""
    if study.device == "cpu" and study.backend != "onnxruntime":
        raise SkippedError("runs on a GPU alone")
    flags = ["--backend", study.backend, "--dtype", study.dtype, *UNVERIFIED]
    if study.backend != "onnxruntime":
        flags += ["--bake"] if study.refit == "baked" else ["--refit", study.refit]
    try:
        _build(study.folder, *flags, ranks=RANKS)
    except CommandError as problem:
        if "isn't installed" in str(problem) or "doesn't build for" in str(problem):
            raise SkippedError(str(problem)) from None
        raise
    plans = [read_manifest(path).forward.plan for path in _folders(study.folder)]
    keys = {plan.key for plan in plans if plan is not None}
    return f"{len(plans)} engines" + (f", {len(keys)} plans" if keys else "")


def outputs(study: Study) -> str:
    """Outputs are those of the fp32 engine on the CPU, neither zero nor infinite."""
    worst = 0.0
    for key, path in _built(study).items():
        if key.startswith("swappable"):
            continue
        said = run(path, study.device)
        assert np.isfinite(said).all(), f"{key}: not finite"
        assert said.any(), f"{key}: all zero"
        error = relative_l2(said, study.expected(key))
        assert error <= study.tolerance, (
            f"{key}: off by {error:.2g}, more than {study.tolerance:.2g}"
        )
        worst = max(worst, error)
    return f"relative L2 at most {worst:.1e} (tolerance {study.tolerance:.1e})"


def swapping(study: Study) -> str:
    """Adapters are swapped, and swapping back is bit-exact."""
    swapped = 0
    for key, path in _built(study).items():
        if not read_manifest(path).adapter_inputs:
            continue
        _swap(study, key, path)
        swapped += 1
    if not swapped:
        raise SkippedError("no engine of this kind swaps")
    return f"{swapped} engines"


def graphs(study: Study) -> str:
    """A CUDA graph computes what enqueueing does."""
    if study.backend == "onnxruntime":
        raise SkippedError("ONNX Runtime runs without CUDA graphs")
    path = _built(study)["full"]
    assert (run(path, "cuda") == run(path, "cuda", cuda_graph=False)).all(), "the outputs differ"
    return "bit-equal"


def attention(study: Study) -> str:
    """Every attention is one layer of the engine, by TensorRT's own inspector."""
    if study.backend == "onnxruntime":
        raise SkippedError("ONNX Runtime has no inspector")
    told = json.loads((_built(study)["full"] / "layers.json").read_text())["engine"]
    if not told:
        raise SkippedError("the builder described no layers")
    layers = [str(layer).lower() for layer in told["Layers"]]
    fused = sum("mha" in layer or "attention" in layer for layer in layers)
    assert fused >= ATTENTIONS, f"{fused} of {len(layers)} layers name an attention"
    return f"{fused} of {len(layers)} layers name an attention; the network has {ATTENTIONS}"


def streaming(study: Study) -> str:
    """Streamed weights give the same outputs."""
    if study.backend == "onnxruntime" or study.refit != "none":
        raise SkippedError("checked for plans of --refit none")
    _built(study)
    folder = study.folder.with_name(f"{study.folder.name}-streaming")
    flags = [
        "--backend",
        study.backend,
        "--dtype",
        study.dtype,
        "--refit",
        "none",
        "--mode",
        "full",
    ]
    once = ["--no-build-control"] if study.backend == "tensorrt" else []
    _build(folder, *flags, *once, "--allow-weight-streaming", *UNVERIFIED)
    (path,) = _folders(folder)
    error = relative_l2(run(path, "cuda", weight_streaming=0), run(path, "cuda"))
    assert error <= study.tolerance, f"off by {error:.2g}"
    return f"relative L2 {error:.1e} with a budget of 0"


def benching(study: Study) -> str:
    """A bench of all of them ends with a ratio for each."""
    saved = study.folder / "bench.json"
    few = ["--loads", "1", "--rounds", "1"] if study.device == "cpu" else []
    command = ["bench", str(study.folder), "--device", study.device, "--json", str(saved)]
    command += ["--no-probe", "--time-budget", str(study.seconds), *few]
    run_command(wanrt_main, command, ok=(0, 1))
    rows = json.loads(saved.read_text())["results"]
    return f"{len(rows)} rows, {saved}"


def run(path: Path, device: DeviceKind, **options: Any) -> np.ndarray:
    """Return an engine's sample on seeded inputs."""
    with wanrt.load_engine(path, device=device, **options) as engine:
        forward(engine)  # as a CUDA graph from the second on
        return forward(engine)


def forward(engine: Engine) -> np.ndarray:
    """Return the sample of a loaded engine in fp64."""
    manifest = engine.manifest
    workload = next(iter(manifest.workloads.values()))
    sample = engine.forward(**make_inputs(manifest, workload, seed=0))["sample"]
    return np.asarray(sample).astype(np.float64)


def relative_l2(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return |actual - expected| / |expected|."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def _swap(study: Study, key: str, path: Path) -> None:
    with wanrt.load_engine(path, device=study.device) as engine:
        first = forward(engine)
        for rank in RANKS:
            file = study.folder / f"{key}-r{rank}.safetensors"
            lora = next((study.folder / ".made").glob(f"*-lora-r{rank}-*.safetensors"))
            command = ["adapter", str(lora), "--force", "--for", str(path), "-o", str(file)]
            run_command(wanexport_main, command)
            engine.swap(file)
            error = relative_l2(forward(engine), study.expected(f"merged-r{rank}"))
            assert error <= study.tolerance, f"{key} with r{rank}: off by {error:.2g}"
        engine.swap(None)
        assert (forward(engine) == first).all(), f"{key}: another output after swapping back"


def _built(study: Study) -> dict[str, Path]:
    if study.device == "cpu" and study.dtype == "bf16":
        raise SkippedError("no CPU backend computes bf16")
    engines = study.engines() if study.folder.exists() else {}
    if not engines:
        raise SkippedError("nothing was built")
    return engines


def _build(out: Path, *flags: str, ranks: tuple[int, ...] = ()) -> None:
    asked = [word for rank in ranks for word in ("--rank", str(rank))]
    modes = [] if ranks or "--mode" in flags else ["--mode", "full"]
    run_command(wanexport_main, ["build", "--quiet", *asked, *modes, *flags, "--out", str(out)])


def _folders(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("[!.]*/engine.json"))


def _key(manifest: Manifest) -> str:
    control = manifest.forward.plan is not None and manifest.forward.plan.control
    rank = f"-r{manifest.rank}" if manifest.rank else ""
    return f"{manifest.mode}{rank}{'-control' if control else ''}"


def _describe(problem: Exception) -> str:
    return f"{problem} ({problem.hint})" if isinstance(problem, UnsupportedError) else str(problem)


if __name__ == "__main__":
    main()
