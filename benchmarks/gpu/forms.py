"""What each form of the bf16 graph is worth on CUDA: the full engine, built with some of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import onnx_ir as ir

from wanexport.graph import cuda_forms, passes
from wanrt.bench.loading.jobs import LoadJob, load_job
from wanrt.manifest.folder import open_folder

from . import layers
from .record import Step
from .settings import Settings

Pass = Callable[[ir.Model], None]
FORWARDS = 7
SETTLED = 2  # the first forwards choose kernels and fill the arena


def _as_traced(_: ir.Model) -> None:
    """Change nothing."""


def _folded(model: ir.Model) -> None:
    cuda_forms.fold_modulation(model)
    cuda_forms.scale_in_attention(model)


FORMS: dict[str, tuple[Pass, Pass]] = {
    "as traced, ONNX Attention": (_as_traced, _as_traced),
    "MultiHeadAttention": (_as_traced, passes.lower_attention),
    "and modulation in LayerNorm": (_folded, passes.lower_attention),
    "and norms, gates, rotary in bf16": (cuda_forms.lower_for_cuda, passes.lower_attention),
}
"""Name -> what shapes the graph for CUDA and what lowers its attention; the last is ours."""


def measure(settings: Settings, name: str) -> Step:
    """Build the full engine in one form, load it once and time its forwards."""
    apart = replace(settings, work=settings.work / "forms" / str(list(FORMS).index(name)))
    apart.work.mkdir(parents=True, exist_ok=True)
    size = settings.sizes[0]
    with _form(*FORMS[name]):
        base = layers.find_weights(settings, settings.layers)
        layers.build(apart, settings.layers, size, ((("full",), ()),), base)
    (path,) = layers.engines(apart, settings.layers, size)
    engine = open_folder(path)
    (workload,) = engine.manifest.workloads
    runner = load_job(LoadJob(engine, workload, device=settings.device))  # type: ignore[arg-type]
    try:
        seconds = [runner.time_forward() for _ in range(FORWARDS)]
    finally:
        runner.close()
    return {"forward_s": statistics.median(seconds[SETTLED:])}


@contextmanager
def _form(shape: Pass, attention: Pass) -> Iterator[None]:
    with (
        patch.object(passes, "lower_for_cuda", shape),
        patch.object(passes, "lower_attention", attention),
    ):
        yield
