"""The recipe: from a request to engine folders, each verified before it exists."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch
from torch import Tensor

from wanexport.build.folder import draft_folder, publish, sweep_drafts, sweep_temporaries
from wanexport.build.manifest import make_manifest
from wanexport.build.request import BuildRequest, resolve_request
from wanexport.build.sources import AdapterSet, Materials, gather
from wanexport.build.targets import EnginePlan, appeared_meanwhile, check_plans, plan_engines
from wanexport.build.tensorrt_plan import PlanMaker
from wanexport.build.verifier import Comparer
from wanexport.checkpoint.open import Checkpoint
from wanexport.errors import BuildError, VerificationError
from wanexport.graph import passes
from wanexport.graph.passes import to_inputs
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.lora.adapter import touched_parameters
from wanexport.lora.canonical import write_adapter
from wanexport.model.names import computes_in_fp32
from wanexport.storage.disk import check_out
from wanexport.storage.dtypes import ENGINE_DTYPES
from wanexport.storage.hashes import sha256_file
from wanexport.storage.tensor_file import TensorSpec
from wanexport.tensorrt.pool import PlanPool
from wanexport.tensorrt.progress import Reporter
from wanexport.weights.parameters import Reference
from wanexport.weights.store import INLINE_BYTES, Pool, WeightStore
from wanrt.errors import WanrtError
from wanrt.manifest.fields import Dtype
from wanrt.manifest.origin import Verification
from wanrt.manifest.read import MANIFEST_NAME
from wanrt.manifest.schema import AdapterFile
from wanrt.storage.dtypes import SAFETENSORS

__all__ = ["Built", "build_engines"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """What became of one engine of a request."""

    path: Path
    plan: EnginePlan
    verification: Verification | None  # None: the engine was there already


@dataclass
class _Builder:
    request: BuildRequest
    materials: Materials
    reporter: Reporter
    pool: Pool
    comparer: Comparer
    plans_made: set[str] = field(default_factory=set)


def build_engines(request: BuildRequest, reporter: Reporter) -> list[Built]:
    """Make every engine of a request that isn't there yet, or say why that can't be done.

    Raises:
        WanExportError: a source can't be used, an engine of that name was made from something else
            (without `force`), the disk is too small, or an engine doesn't verify. Engines finished
            before that stay; nothing half-made does.
    """
    try:
        check_out(request.out)
        request = resolve_request(request, reporter)
        request.out.mkdir(parents=True, exist_ok=True)
        sweep_drafts(request.out)
        with _sharing(request.out):
            materials = gather(request, reporter, dry_run=False)
            plans = plan_engines(request, materials)
            check_plans(request.out, plans)
            pool = Pool((request.out / ".weights").resolve())
            comparer = Comparer(request, materials, reporter)
            builder = _Builder(request, materials, reporter, pool, comparer)
            return [_build(builder, plan) for plan in plans]
    except OSError as error:
        where = error.filename or request.out  # a write that fails doesn't say to what
        raise BuildError(
            f"{where}: {error.strerror or error}", "the build stopped there"
        ) from error


def _build(builder: _Builder, plan: EnginePlan) -> Built:
    request = builder.request
    target = request.out / plan.name
    if plan.action == "reuse" or appeared_meanwhile(request, plan):
        builder.reporter.log(f"{plan.name}: there already, made from the same")
        return Built(target, plan, None)
    with draft_folder(request.out, plan.name) as draft:
        verification = _fill(builder, plan, draft)
        if not publish(draft, target, replace=plan.action == "replace"):
            if not appeared_meanwhile(request, plan):
                raise BuildError(f"{target} appeared while its engine was built", "run again")
            return Built(target, plan, None)
    return Built(target, plan, verification)


def _fill(builder: _Builder, plan: EnginePlan, draft: Path) -> Verification:
    """Build, verify and describe one engine in its draft folder."""
    request, reporter = builder.request, builder.reporter
    checkpoint = _checkpoint(builder.materials, plan)
    spec = _graph_spec(request, plan, checkpoint)
    with reporter.work(f"{plan.name}: tracing"):
        model = passes.lower_for(trace_graph(spec), request.backend, spec.dtype)
    references = [_reference(plan, checkpoint, spec, adapters) for adapters in plan.carried]
    with reporter.bytes(f"{plan.name}: weights", plan.write_bytes - plan.plan_bytes) as piece:
        store = WeightStore(
            draft,
            builder.pool,
            request.copy,
            piece.advance,
            # a refitter may ask for any of a plan's constants
            inline_bytes=1 if request.plans else INLINE_BYTES,
            keep_pristine=request.swaps_in_place(plan.mode),
        )
        finetuned = checkpoint is builder.materials.finetuned
        _write_weights(store, plan, references[0], "finetuned" if finetuned else "base")
        adapters = _ship_adapters(draft, plan, request.config.dtype, piece.advance)
        if plan.mode == "swappable":
            to_inputs(model, plan.branch_names)
        store.bind(model)
    if request.plans and request.plans.allow_unfused:
        passes.allow_decomposition(model)
    ir.save(model, draft / "model.onnx")
    maker = None
    if request.plans:
        maker = PlanMaker(request, plan, model, store, reporter, builder.plans_made)
    verification = Verification(method="none")
    if request.verify:
        verification = builder.comparer.compare_graph(plan, spec, model, store, references)
    manifest = make_manifest(
        request,
        plan,
        builder.materials,
        store,
        model,
        adapters,
        verification,
        maker.make() if maker else None,
    )
    (draft / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    if request.verify and maker and request.plans and request.plans.runs_here:
        try:
            error = builder.comparer.compare_plan(plan, spec, draft, manifest, references)
        except WanrtError as problem:
            raise BuildError(f"{plan.name} can't be run: {problem}", problem.hint) from problem
        except VerificationError:
            assert manifest.forward.plan is not None
            maker.drop(manifest.forward.plan)
            raise
        verification = verification.model_copy(update={"plan_error": error})
        manifest = manifest.model_copy(update={"verification": verification})
        (draft / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return verification


def _checkpoint(materials: Materials, plan: EnginePlan) -> Checkpoint:
    checkpoint = materials.base
    if plan.mode == "full" and materials.finetuned is not None:
        checkpoint = materials.finetuned
    assert checkpoint is not None
    return checkpoint


def _graph_spec(request: BuildRequest, plan: EnginePlan, checkpoint: Checkpoint) -> GraphSpec:
    """Say what to trace: what the graph reads in fp32 is stored as the checkpoint has it."""
    storage = {
        name: ENGINE_DTYPES[ref.dtype]
        for name, ref in checkpoint.tensors.items()
        if computes_in_fp32(name) and ENGINE_DTYPES[ref.dtype] != request.config.dtype
    }
    config = request.config
    return GraphSpec(
        config.architecture, config.size, config.dtype, plan.ranks, storage, request.dynamic
    )


def _reference(
    plan: EnginePlan, checkpoint: Checkpoint, spec: GraphSpec, adapters: AdapterSet | None
) -> Reference:
    dtypes = {name: SAFETENSORS[spec.storage.get(name, spec.dtype)] for name in checkpoint.tensors}
    if adapters is None:
        return Reference(checkpoint.tensors, dtypes)
    if plan.mode == "merged":
        return Reference(checkpoint.tensors, dtypes, adapters.adapters)
    branch_dtype = SAFETENSORS[spec.dtype]
    return Reference(checkpoint.tensors, dtypes, adapters.rest, adapters.carried, branch_dtype)


def _write_weights(
    store: WeightStore, plan: EnginePlan, reference: Reference, origin: Literal["base", "finetuned"]
) -> None:
    """Reference what doesn't change, and write what does, one tensor at a time."""
    changed = touched_parameters(reference.merged)
    store.reference(reference.refs, reference.dtypes, origin, changed)
    if changed:
        names = [name for name in reference.refs if name in changed]
        shapes = {name: reference.refs[name].shape for name in names}
        specs = [TensorSpec(name, reference.dtypes[name], shapes[name]) for name in names]
        store.write("merged", specs, _merged(reference, names))
    if plan.mode == "separate":
        branch_specs = list(chain.from_iterable(reference.branch_specs(plan.ranks)))
        store.write("adapter", branch_specs, _branches(plan, reference))


def _merged(reference: Reference, names: list[str]) -> Iterator[Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # merging waits for memory; writing and hashing need the other cores
    try:
        for name in names:
            yield from reference.stored(name)
    finally:
        torch.set_num_threads(threads)


def _branches(plan: EnginePlan, reference: Reference) -> Iterator[Tensor]:
    for module in plan.ranks:
        branch = reference.branch(module)
        assert branch is not None
        yield from branch


def _ship_adapters(
    draft: Path, plan: EnginePlan, dtype: Dtype, on_bytes: Callable[[int], None]
) -> tuple[AdapterFile, ...]:
    """Write the adapters a swappable engine was asked with into its folder, canonically."""
    if plan.mode != "swappable":
        return ()
    files = []
    (draft / "adapters").mkdir()
    for adapter in plan.adapters:
        path = draft / adapter.file
        rank = write_adapter(
            adapter.carried,
            path,
            dtype,
            max_rank=plan.max_rank,
            targets=list(plan.ranks),
            on_bytes=on_bytes,
        )
        files.append(
            AdapterFile(
                file=adapter.file,
                rank=rank,
                bytes=path.stat().st_size,
                sha256=sha256_file(path),
            )
        )
    return tuple(files)


@contextmanager
def _sharing(out: Path) -> Iterator[None]:
    """Use the pool beside other builds; whoever is alone at the end sweeps it."""
    pool = Pool(out / ".weights")
    pool.folder.mkdir(exist_ok=True)
    with (pool.folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        plans = PlanPool(out / ".plans")
        for folder in (pool.folder, plans.folder, out / ".made"):
            sweep_temporaries(folder)
        freed = pool.sweep() + plans.sweep()
        if freed:
            log.info("freed %d bytes of pooled weights and plans", freed)
