"""A plan's job and its key: a hash of everything that shapes the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx

from wanexport.storage.hashes import sha256_text
from wanexport.storage.tensor_file import TensorRef
from wanexport.tensorrt.protocol import BuilderJob
from wanexport.tensorrt.settings import PlanSettings, code_hash
from wanrt.manifest.fields import Dtype

__all__ = ["make_job", "plan_key"]


def make_job(
    model: Path,
    settings: PlanSettings,
    dtypes: Mapping[str, Dtype],
    attentions: int,
    refittable: Collection[str] = (),
    profiles: tuple[dict[str, tuple[int, ...]], ...] = (),
) -> BuilderJob:
    """Return the job of building a model's plan; `refittable` counts where the kind says so."""
    refit = settings.refit
    assert refit is not None
    rtx = settings.backend == "tensorrt-rtx"
    return BuilderJob(
        backend=settings.backend,
        model=str(model.resolve()),
        plan=None,
        refit=refit,
        refittable=tuple(refittable) if refit in ("targets", "all") else (),
        capabilities=settings.built_for if rtx else (),
        profiles=profiles,
        dtypes=dict(dtypes),
        attentions=attentions,
        optimization_level=settings.optimization_level,
        workspace=settings.workspace,
        aux_streams=settings.aux_streams,
        hardware_compatibility=settings.hardware_compatibility,
        version_compatible=settings.version_compatible,
        weight_streaming=settings.weight_streaming,
        memory_limit=settings.memory_limit,
    )


def plan_key(
    job: BuilderJob,
    settings: PlanSettings,
    bound: Mapping[str, TensorRef] | None = None,
    digests: Mapping[Path, str] | None = None,
) -> str:
    """Return the name of the plan that a job would build: a hash of all that shapes it.

    Args:
        job: what to build; where files lie and how much memory the builder gets don't count.
        settings: their toolchain counts.
        bound: where each initializer's bytes lie. Those that a refit may replace don't count.
        digests: SHA-256 of the files they lie in.
    """
    toolchain = settings.toolchain
    assert toolchain is not None
    free = set(job.refittable)
    content = {}
    model = onnx.load(job.model, load_external_data=False)
    for initializer in model.graph.initializer:
        if not initializer.external_data:
            continue
        del initializer.external_data[:]
        ref = (bound or {})[initializer.name]
        if initializer.name not in free:
            content[initializer.name] = f"{(digests or {})[ref.path]}:{ref.offset}:{ref.nbytes}"
    graph = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    paths = {"model", "plan", "memory_limit", "timing_cache"}
    shaped = {
        "graph": graph,
        "job": job.model_dump(mode="json", exclude=paths),
        "toolchain": toolchain.model_dump(mode="json", exclude={"capabilities"}),
        "without timing cache": job.timing_cache is None,
        "weights": content,
        "code": code_hash(),
    }
    return sha256_text(json.dumps(shaped, sort_keys=True))
