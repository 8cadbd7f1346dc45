"""The TensorRT part of an engine: a plan per graph; for merged engines those that swap adapters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from wanexport.build.manifest import GRAPH_FILES
from wanexport.build.targets import Target
from wanexport.graph.passes import count_ops
from wanexport.graph.trace import model_inputs
from wanexport.lora.adapter import touched_parameters
from wanexport.model.config import Size
from wanexport.storage.dtypes import ENGINE_DTYPES, engine_dtype
from wanexport.storage.hashes import sha256_file
from wanexport.storage.tensor_file import TensorRef
from wanexport.tensorrt.key import make_job, plan_key
from wanexport.tensorrt.merge_graph import merge_model
from wanexport.tensorrt.pool import PlanPool
from wanexport.tensorrt.protocol import BuilderJob, Finished
from wanexport.tensorrt.settings import PlanSettings
from wanexport.verify.kernels import check_kernels
from wanexport.weights.store import WeightStore
from wanrt.manifest.fields import Dtype, File, TensorSpec
from wanrt.manifest.plan import MergePlan, PlanFile, Swap, WeightRange
from wanrt.storage.dtypes import SAFETENSORS
from wanrt.terminal.progress import Reporter

__all__ = ["PlanMaker", "describe_ranges"]

PREFIXES: dict[str, str] = {"forward": "", "context": "context.", "denoise": "denoise."}
PLAN_FILES = {"forward": "engine.plan", "context": "context.plan", "denoise": "denoise.plan"}


@dataclass(frozen=True)
class PlanMaker:
    """Makes the plan of one of an engine's graphs; it and the weights are in the draft folder.

    Args:
        target: the engine.
        name: the graph's: forward, context or denoise.
        model: the graph, bound and saved.
        store: the engine's weights.
        reporter: receives progress.
        made: keys of the plans that this build made; with `force` only they are taken as they are.
    """

    target: Target
    name: str
    model: ir.Model
    store: WeightStore
    reporter: Reporter
    made: set[str] = field(default_factory=set)

    def make(self) -> PlanFile:
        """Build the plan, or link one that an engine of the same key has.

        Raises:
            BuildError: TensorRT can't build it.
        """
        job = self._job()
        key = self._key(job)
        found = self._make(key, job, self._label)
        path = self.store.folder / PLAN_FILES[self.name]
        with self.reporter.work(f"{self._label}: placing its plan"):
            self._pool.place(key, path)
        self._check(path)
        layers = self.store.folder / f"{PREFIXES[self.name]}layers.json"
        layers.write_text(_describe_layers(found), encoding="utf-8")
        settings, toolchain = self._settings, self._settings.toolchain
        # of `targets` too there is nothing to refit if the engine has none of the adapter's weights
        stripped = settings.refit == "none" or bool(job.refittable)
        assert settings.refit is not None
        assert toolchain is not None
        return PlanFile(
            file=path.name,
            bytes=found.bytes,
            sha256=found.sha256,
            key=key,
            library=toolchain.library,
            gpu=toolchain.gpu,
            compute_capabilities=settings.built_for,
            hardware_compatibility=settings.hardware_compatibility,
            version_compatible=settings.version_compatible,
            refit=settings.refit,
            weight_streaming=settings.weight_streaming,
            profiles=tuple(size.name for size in self.target.sizes),
            weights=self._ranges(self.store.bound) if stripped else {},
            swap=self._make_swap(),
            layers=_describe_file(layers),
            control=self.target.control,
        )

    def _check(self, plan: Path) -> None:
        if self._settings.backend != "tensorrt-rtx":
            return
        unread = check_kernels(
            plan,
            self.target.config.dtype,
            count_ops(self.model).get("Attention", 0),
            allow_unfused=self._settings.allow_unfused,
            quantized={node.name or "" for node in self.model.graph} & set(self.target.quantized),
            scheme=self.target.form.scheme if self.target.form else None,
        )
        if unread:
            self.reporter.log(f"{self._label}: its kernels weren't checked: {unread}")

    def drop(self, file: PlanFile) -> None:
        """Forget a plan that turned out not to compute what it should."""
        self._pool.drop(file.key)

    @property
    def _label(self) -> str:
        """What progress calls it."""
        return self.target.name if self.name == "forward" else f"{self.target.name}, {self.name}"

    def _ranges(self, refs: Mapping[str, TensorRef]) -> dict[str, WeightRange]:
        """Return where those of some tensors lie that this graph reads."""
        own = self.model.graph.initializers
        return describe_ranges(self.store.folder, {n: ref for n, ref in refs.items() if n in own})

    @property
    def _settings(self) -> PlanSettings:
        assert self.target.tensorrt is not None
        return self.target.tensorrt

    @property
    def _pool(self) -> PlanPool:
        return PlanPool(self.target.out / ".plans")

    def _job(self) -> BuilderJob:
        profiles: tuple[dict[str, tuple[int, ...]], ...] = ()
        if self.target.dynamic:
            profiles = tuple(self._profile(size) for size in self.target.sizes)
        values = (*self.model.graph.inputs, *self.model.graph.outputs)
        cache = None if self.target.control else self._pool.timing_cache(self._settings)
        return make_job(
            self.store.folder / GRAPH_FILES[self.name],
            self._settings,
            {v.name or "": engine_dtype(v.dtype) for v in values},
            count_ops(self.model).get("Attention", 0),
            self._refittable(),
            profiles,
        ).model_copy(update={"timing_cache": None if cache is None else str(cache.resolve())})

    def _profile(self, size: Size) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the graph's data and context inputs at a size."""
        data = model_inputs(self.target.config.architecture, size, "fp32")
        shapes = {}
        for value in self.model.graph.inputs:
            name = value.name or ""
            if name in data:
                shapes[name] = data[name][0]
            elif value.shape is not None and not value.shape.is_static():
                # what an open dimension of a context may be: the batch
                shapes[name] = tuple(d if isinstance(d, int) else size.batch for d in value.shape)
        return shapes

    def _refittable(self) -> list[str]:
        """Return the initializers that a refit may change, by the kind asked for."""
        bound = self.store.bound.keys() & self.model.graph.initializers.keys()
        if self._settings.refit == "all":
            return sorted(bound)
        touched = touched_parameters(a for s in self.target.adapters for a in s.adapters)
        adapted = touched if self.target.mode == "merged" else set()
        halves = (".lora_A", ".lora_B")
        return sorted(n for n in bound if n in adapted or n.endswith(halves))

    def _key(self, job: BuilderJob) -> str:
        digests = {self.store.folder / f.file: f.sha256 for f in self.store.files.values()}
        return plan_key(job, self._settings, self.store.bound, digests)

    def _make(self, key: str, job: BuilderJob, name: str) -> Finished:
        if self.target.force and key not in self.made:
            self._pool.drop(key)
        with self.reporter.work(f"{name}: looking for its plan"):
            found = self._pool.find(key)
        self.made.add(key)
        if found is not None:
            self.reporter.log(f"{name}: its plan exists")
            return found
        with self.reporter.phases(f"{name}: building its plan") as show:
            return self._pool.make(key, job, lambda p: show(p.name, p.done, p.steps))

    def _make_swap(self) -> Swap | None:
        rank = self.target.swap_rank
        if rank is None:
            return None
        shapes = self.target.shapes
        (adapters,) = self.target.adapters
        own = self.model.graph.initializers
        sides = {
            m: (shapes[f"{m}.weight"][0], math.prod(shapes[f"{m}.weight"][1:]))
            for m in adapters.ranks
            if f"{m}.weight" in own
        }
        if not sides:
            return None
        inputs = []
        for module, (out, width) in sides.items():
            for half, shape in (("lora_A", (rank, width)), ("lora_B", (out, rank))):
                inputs.append(
                    TensorSpec(
                        name=f"{module}.{half}",
                        dtype="fp32",
                        shape=shape,
                        role=half,  # type: ignore[arg-type]
                        module=module,
                    )
                )
        merges = tuple(self._make_merge(shape, rank) for shape in sorted(set(sides.values())))
        return Swap(
            inputs=tuple(inputs),
            base=self._ranges(self.store.pristine),
            merges=merges,
        )

    def _make_merge(self, shape: tuple[int, int], rank: int) -> MergePlan:
        dtype = SAFETENSORS[self.target.config.dtype]
        name = f"{PREFIXES[self.name]}merge-{shape[0]}x{shape[1]}"
        path = self.store.folder / f".{name}.onnx"
        try:
            ir.save(merge_model(shape, rank, dtype), path)
            dtypes: dict[str, Dtype] = {"lora_A": "fp32", "lora_B": "fp32"}
            dtypes |= dict.fromkeys(("weight", "merged"), ENGINE_DTYPES[dtype])
            job = make_job(path, self._settings, dtypes, attentions=0)
            job = job.model_copy(update={"refit": "baked", "weight_streaming": False})
            key = plan_key(job, self._settings)
            self._make(key, job, f"{self.target.name}: {name}")
        finally:
            path.unlink(missing_ok=True)
        path = self.store.folder / f"{name}.plan"
        self._pool.place(key, path)
        return _describe_merge(path, shape, rank)


def describe_ranges(folder: Path, refs: Mapping[str, TensorRef]) -> dict[str, WeightRange]:
    """Return where a folder's weight files hold tensors, as its engine.json says it."""
    return {
        name: WeightRange(
            file=ref.path.relative_to(folder).as_posix(),
            offset=ref.offset,
            bytes=ref.nbytes,
            dtype=ENGINE_DTYPES[ref.dtype],
        )
        for name, ref in refs.items()
    }


def _describe_layers(found: Finished) -> str:
    """Return what TensorRT made of the graph: layers by type, and the engine's own account."""
    engine = json.loads(found.engine) if found.engine else None
    return json.dumps({"network": found.layers, "engine": engine}, indent=1) + "\n"


def _describe_merge(path: Path, shape: tuple[int, int], max_rank: int) -> MergePlan:
    """Return a merge plan's entry in the manifest."""
    file = _describe_file(path)
    return MergePlan(**file.model_dump(), shape=shape, max_rank=max_rank)


def _describe_file(path: Path) -> File:
    """Return a file's entry in the manifest."""
    return File(file=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
