"""What the graph's forms for TensorRT are worth in seconds; plans promise it in bytes."""

from __future__ import annotations

import importlib.util
import random
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import onnx_ir as ir

from wanexport.cli.main import main as wanexport_main
from wanexport.graph import passes
from wanexport.graph.fusible.forms import FORMS, lower_for_tensorrt
from wanrt.bench.loading.jobs import LoadJob, load_job
from wanrt.manifest.folder import open_folder

from . import layers
from .command import run_command
from .record import Step
from .settings import Settings

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
SEPARATE = f"separate r{layers.RANK}"
KINDS = {
    "full": [],
    SEPARATE: ["--rank", layers.RANK],
    f"{SEPARATE}, all linears": ["--rank", layers.RANK, "--targets", "all"],
    f"{SEPARATE}, all linears, padded": ["--rank", layers.RANK, "--targets", "all"],
}
PADDED = ["--pad-rank", "64"]
AGES = {"as exported": (), "fusible": FORMS}
ROUNDS, SETTLED = 12, 2


def build(settings: Settings, kind: str, age: str) -> Step:
    """Build one engine of a kind, as exported or with all forms; only its own graph differs."""
    out = _folder(settings, kind, age)
    config = settings.write_config(settings.layers)
    size = settings.sizes[0]
    padded = kind.endswith("padded") and settings.device != "cpu"
    command = [
        *("build", "--quiet", "--verify", "none", "--dtype", settings.dtype),
        *("--config", str(config), "--backend", _backend(settings)),
        *("--base", layers.find_weights(settings, settings.layers)),
        *("--width", str(size.width), "--height", str(size.height)),
        *("--frames", str(size.frames), "--mode", kind.split()[0]),
        *KINDS[kind],
        *(PADDED if padded else ()),
        *("--out", str(out)),
    ]
    with _only(AGES[age], settings):
        run_command(wanexport_main, command)
    return {"engine": _engine(settings, kind, age).name}


def race(settings: Settings) -> Step:
    """Time all of them in random order, round by round, each loaded once; an error beside each.

    The ratio is the median over rounds of a kind's two forms in one round. One load each, so there
    are no intervals.
    """
    runners = {}
    try:
        for kind in KINDS:
            for age in AGES:
                opened = open_folder(_engine(settings, kind, age))
                (workload,) = opened.manifest.workloads
                job = LoadJob(opened, workload, device=settings.device)  # type: ignore[arg-type]
                runners[kind, age] = load_job(job)
        rounds = []
        shuffled = random.Random(0)
        for _ in range(SETTLED + ROUNDS):
            order = shuffled.sample(list(runners), len(runners))
            rounds.append({key: runners[key].time_forward() for key in order})
    finally:
        for runner in runners.values():
            runner.close()
    found: Step = {}
    for kind in KINDS:
        old, new = ([r[kind, age] for r in rounds[SETTLED:]] for age in AGES)
        found[kind] = {
            "as_exported_s": statistics.median(old),
            "fusible_s": statistics.median(new),
            "ratio": statistics.median(b / a for a, b in zip(old, new, strict=True)),
            **_errors(settings, kind),
        }
    return found


def _errors(settings: Settings, kind: str) -> dict[str, float]:
    """Return the distance of both forms to torch in fp32, of a full engine; of others, apart."""
    paths = [_engine(settings, kind, age) for age in AGES]
    samples = [layers.engine_sample(settings, path) for path in paths]
    apart = layers.relative_l2(samples[1], samples[0])
    if kind != "full":
        return {"apart": apart}  # torch has no model with a separate adapter
    expected = layers.torch_sample(settings, paths[0], "fp32")
    errors = [layers.relative_l2(sample, expected) for sample in samples]
    return {"as_exported_error": errors[0], "fusible_error": errors[1], "apart": apart}


def _backend(settings: Settings) -> str:
    """Return the TensorRT that is installed; a rehearsal on a CPU takes ONNX Runtime.

    Raises:
        RuntimeError: none is installed.
    """
    if settings.device == "cpu":
        return "onnxruntime"
    for backend, module in MODULES.items():
        if importlib.util.find_spec(module) is not None:
            return backend
    raise RuntimeError("neither tensorrt nor tensorrt-rtx is installed")


@contextmanager
def _only(forms: tuple[str, ...], settings: Settings) -> Iterator[None]:
    """Let graphs have these forms alone; in a rehearsal, graphs for ONNX Runtime."""

    def lower(
        model: ir.Model, dtype: ir.DataType, joined: tuple[str, ...] = (), _: object = ()
    ) -> None:
        lower_for_tensorrt(model, dtype, joined, forms)

    def rehearse(model: ir.Model) -> None:
        lower(model, ir.DataType.BFLOAT16)
        attention(model)

    attention = passes.lower_attention
    on_cpu = settings.device == "cpu"
    with (
        patch.object(passes, "lower_for_tensorrt", lower),
        patch.object(passes, "lower_attention", rehearse if on_cpu else attention),
    ):
        yield


def _folder(settings: Settings, kind: str, age: str) -> Path:
    place = f"{list(KINDS).index(kind)}-{list(AGES).index(age)}"
    return settings.work / "fusible" / place


def _engine(settings: Settings, kind: str, age: str) -> Path:
    return next(one.parent for one in _folder(settings, kind, age).glob("[!.]*/engine.json"))
