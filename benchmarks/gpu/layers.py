"""Engines of the model at some depth: built, benched against torch, and held against fp32."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import wanrt
from wanexport.cli.main import main as wanexport_main
from wanexport.rivals import load_eager
from wanrt.bench.loading.jobs import LoadJob
from wanrt.cli.main import main as wanrt_main
from wanrt.engine.inputs import make_inputs
from wanrt.errors import WanrtError
from wanrt.manifest.fields import Dtype
from wanrt.manifest.folder import open_folder
from wanrt.manifest.read import read_manifest

from .command import run_command
from .record import Step
from .settings import Settings, Size

RANK = "32"  # of what is compared in every mode

Wanted = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
"""Modes, each in all the ranks beside them."""
BESIDE: Wanted = (
    (("full", "merged", "swappable"), (RANK,)),
    (("separate",), ("8", "32", "128", "256")),
)
DEEP: Wanted = ((("full", "separate", "swappable"), (RANK,)),)


FEW = ("--loads", "1", "--rounds", "1")
"""A ratio without an interval: what true depth has time for, and all that a rehearsal needs."""


def build(
    settings: Settings, layers: int, size: Size, wanted: Wanted, base: str = "random"
) -> Step:
    """Build engines in the modes and ranks asked for; those of all sizes share their weights."""
    config = settings.write_config(layers)
    for modes, ranks in wanted:
        command = [
            *("build", "--quiet", "--verify", "none", "--dtype", settings.dtype),
            *("--config", str(config), "--base", base),
            *("--width", str(size.width), "--height", str(size.height)),
            *("--frames", str(size.frames)),
            *(word for mode in modes for word in ("--mode", mode)),
            *(word for rank in ranks for word in ("--rank", rank)),
            *("--out", str(folder(settings, layers))),
        ]
        run_command(wanexport_main, command)
    return {"engines": [path.name for path in engines(settings, layers, size)]}


def bench(settings: Settings, layers: int, size: Size, flags: Sequence[str] = ()) -> Step:
    """Bench what was built.

    Loading times aren't probed: to read 33 GB without the page cache takes minutes of a GPU.
    """
    return _bench(settings, list(engines(settings, layers, size)), "bench", flags)


def race(settings: Settings, layers: int, size: Size, rival: str) -> Step:
    """Bench the full engine and torch, as diffusers' users run it, side by side."""
    full = [path for path in engines(settings, layers, size) if path.name.endswith("full")]
    return _bench(settings, full, rival, ("--with", rival))


def _bench(settings: Settings, paths: Sequence[Path], name: str, flags: Sequence[str]) -> Step:
    """Return the rows of `wanrt bench --json` without the raw times, which stay in its file."""
    saved = settings.work / f"{paths[0].name}-{name}.json"
    command = [
        *("bench", *map(str, paths), "--device", settings.device, "--no-probe"),
        *("--time-budget", str(settings.seconds), "--half-width", "0.3%"),
        *("--json", str(saved), *(FEW if settings.small else flags)),
    ]
    printed = run_command(wanrt_main, command, ok=(0, 1))
    result = json.loads(saved.read_text(encoding="utf-8"))
    for row in result["results"]:
        if row["forward_s"]:
            for raw in ("times", "loads", "rounds", "enqueued"):
                del row["forward_s"][raw]
    return {"table": printed, "groups": result["groups"], "rows": result["results"]}


def parity(settings: Settings, layers: int, size: Size) -> Step:
    """Compare outputs with diffusers' model in fp32 on the same device and the same weights.

    torch's own distance in the engine's dtype stands beside them. What isn't merged is held
    against the merged weights of its rank.
    """
    by_mode = {}
    for path in engines(settings, layers, size):
        manifest = read_manifest(path)
        if manifest.rank in (None, int(RANK)):
            by_mode[manifest.mode] = path
    found: Step = {}
    for source, modes in (("full", ("full",)), ("merged", ("merged", "separate", "swappable"))):
        if source not in by_mode:
            continue
        expected = torch_sample(settings, by_mode[source], "fp32")
        own = torch_sample(settings, by_mode[source], settings.dtype)
        found[f"torch {settings.dtype}, {source}"] = relative_l2(own, expected)
        for mode in modes:
            if mode in by_mode:
                found[mode] = relative_l2(engine_sample(settings, by_mode[mode]), expected)
    return found


def folder(settings: Settings, layers: int) -> Path:
    """Return where engines of that depth are, and the weights that they share."""
    return settings.work / f"engines-{layers}-layers"


def engines(settings: Settings, layers: int, size: Size) -> Iterator[Path]:
    """Yield the engine folders of that size that were built."""
    for manifest in sorted(folder(settings, layers).glob(f"[!.]*-{size.name}-*/engine.json")):
        yield manifest.parent


def find_weights(settings: Settings, layers: int) -> str:
    """Return the random checkpoint that engines of that depth were built from, to use it again."""
    return next((str(made) for made in folder(settings, layers).glob(".made/*-seed0")), "random")


def engine_sample(settings: Settings, path: Path) -> np.ndarray:
    """Return an engine's sample of seeded inputs, with the first adapter that ships with it."""
    with wanrt.load_engine(path, device=settings.device) as engine:  # type: ignore[arg-type]
        manifest = engine.manifest
        adapters = sorted((path / "adapters").glob("*.safetensors"))
        if manifest.mode == "swappable" and adapters:
            engine.swap(adapters[0])
        (workload,) = manifest.workloads.values()
        sample = engine.forward(**make_inputs(manifest, workload, seed=0))["sample"]
        return np.asarray(sample).astype(np.float64)


def torch_sample(settings: Settings, path: Path, dtype: Dtype) -> np.ndarray:
    """Return what diffusers' model computes from the same inputs with an engine's weights."""
    taken = open_folder(path)
    (workload,) = taken.manifest.workloads
    job = LoadJob(taken, workload, device=settings.device)  # type: ignore[arg-type]
    rival = load_eager(job, dtype=dtype)
    rival.time_forward()
    assert rival.sample is not None
    sample = rival.sample.double().cpu().numpy()
    rival.close()
    if settings.device == "cuda":
        torch.cuda.empty_cache()
    return np.asarray(sample)


def relative_l2(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return |actual - expected| / |expected|.

    Raises:
        WanrtError: the first isn't finite.
    """
    if not np.isfinite(actual).all():
        raise WanrtError("an output is not finite")
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
