"""The plans of an engine: what names them, the pool that engines share them from, the manifest's
account of them.

A plan is built once for everything that shapes it (its key): graph, settings, library, GPU, and the
weights that it is bound to. `engines/.plans` keeps it under that key, and engines link to it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from wanexport.errors import WanExportError
from wanexport.graph.trace import IR_VERSION, OPSET
from wanexport.storage.dtypes import onnx_dtype
from wanexport.storage.hashes import remember_sha256, sha256_file, sha256_text
from wanexport.storage.links import place_file
from wanexport.storage.locks import locked
from wanexport.storage.tensor_file import TensorRef
from wanexport.tensorrt.builder import build_plan
from wanexport.tensorrt.protocol import BuilderJob, Finished, Phase
from wanexport.tensorrt.settings import PlanSettings, code_hash
from wanrt.manifest.fields import Dtype, File
from wanrt.manifest.plan import MergePlan
from wanrt.storage.files import atomic_file, atomic_path

__all__ = ["PlanPool", "make_job", "merge_model", "plan_key"]

Show = Callable[[str], AbstractContextManager[Callable[[Phase], None]]]


@dataclass(frozen=True)
class PlanPool:
    """Plans by key: `engines/.plans`."""

    folder: Path

    def find(self, key: str) -> Finished | None:
        """Return the account of a plan that is there, its bytes as they were, or None."""
        account = self.folder / f"{key}.json"
        try:
            found = Finished.model_validate_json(account.read_text(encoding="utf-8"))
            sound = sha256_file(self.path(key)) == found.sha256
        except (OSError, ValueError, WanExportError):
            return None
        return found if sound else None

    def drop(self, key: str) -> None:
        """Forget a plan; engines that link to it keep theirs."""
        self.path(key).unlink(missing_ok=True)
        (self.folder / f"{key}.json").unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        """Return where a plan is or will be."""
        return self.folder / f"{key}.plan"

    def timing_cache(self, settings: PlanSettings) -> Path | None:
        """Return the timings of this GPU and library version; without a GPU nothing is timed."""
        toolchain = settings.toolchain
        if toolchain is None or toolchain.gpu is None:
            return None
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", toolchain.gpu)
        return self.folder / f"{toolchain.backend}-{toolchain.library}-{gpu}.timing"

    def make(self, key: str, job: BuilderJob, on_phase: Callable[[Phase], None]) -> Finished:
        """Build a plan, unless another build just did, and keep it under its key.

        Builds that time kernels wait for one another, whatever they build.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = ".timing.lock" if job.timing_cache else f".{key}.lock"
        with locked(self.folder / name):
            found = self.find(key)
            if found is None:
                with atomic_path(self.path(key)) as temporary:
                    job = job.model_copy(update={"plan": str(temporary.resolve())})
                    found = build_plan(job, on_phase)
                remember_sha256(self.path(key), found.sha256)
                with atomic_file(self.folder / f"{key}.json") as file:
                    file.write(found.model_dump_json(indent=1).encode())
        return found

    def place(self, key: str, target: Path) -> None:
        """Give an engine folder a plan, by hard link where the file system can."""
        if place_file(self.path(key), target, clone=False) is None:
            shutil.copyfile(self.path(key), target)

    def sweep(self) -> int:
        """Delete what no engine links to any more and return how many bytes that freed."""
        freed = 0
        for path in self.folder.glob("*.plan"):
            if path.stat().st_nlink == 1:
                freed += path.stat().st_size
                self.drop(path.stem)
        for lock in self.folder.glob(".*.lock"):
            lock.unlink(missing_ok=True)
        return freed


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


def merge_model(shape: tuple[int, int], max_rank: int, dtype: str) -> ir.Model:
    """Return the graph that merges one matrix: weight + lora_B lora_A in fp32, rounded once.

    Args:
        shape: [out, in] of the weight.
        max_rank: rows of lora_A [max_rank, in] and columns of lora_B [out, max_rank], in fp32.
        dtype: the weight's safetensors dtype.
    """
    out, width = shape
    kind = onnx_dtype(dtype)
    weight = _value("weight", kind, (out, width))
    down = _value("lora_A", ir.DataType.FLOAT, (max_rank, width))
    up = _value("lora_B", ir.DataType.FLOAT, (out, max_rank))
    cast = ir.node("Cast", [weight], {"to": int(ir.DataType.FLOAT)})
    delta = ir.node("MatMul", [up, down])
    total = ir.node("Add", [cast.outputs[0], delta.outputs[0]])
    merged = ir.node("Cast", [total.outputs[0]], {"to": int(kind)})
    merged.outputs[0].name = "merged"
    merged.outputs[0].shape, merged.outputs[0].type = ir.Shape(shape), ir.TensorType(kind)
    graph = ir.Graph(
        [weight, down, up],
        [merged.outputs[0]],
        nodes=[cast, delta, total, merged],
        opset_imports={"": OPSET},
        name="merge",
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="wanexport")


def describe_merge(path: Path, shape: tuple[int, int], max_rank: int) -> MergePlan:
    """Return a merge plan's entry in the manifest."""
    file = describe_file(path)
    return MergePlan(**file.model_dump(), shape=shape, max_rank=max_rank)


def describe_file(path: Path) -> File:
    """Return a file's entry in the manifest."""
    return File(file=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def _value(name: str, kind: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))
