"""The recipe: from a request to engine folders, each verified before it exists."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from wanexport.build.contents import list_parameters, ship_adapters, specify_graph, write_weights
from wanexport.build.experts import gather_targets
from wanexport.build.folder import publish
from wanexport.build.manifest import EMULATED_FILES, GRAPH_FILES, make_manifest
from wanexport.build.oracles import Oracles
from wanexport.build.request import BuildRequest, resolve_request
from wanexport.build.reuse import appeared_meanwhile
from wanexport.build.targets import Target, check_targets
from wanexport.build.tensorrt_plan import PlanMaker
from wanexport.build.verifier import Comparer
from wanexport.errors import BuildError, VerificationError
from wanexport.graph import passes
from wanexport.graph.cards import cut_for_cards
from wanexport.graph.emulate import emulate
from wanexport.graph.split import split_graph
from wanexport.graph.swappable import make_swappable
from wanexport.graph.trace import trace_graph
from wanexport.storage.disk import check_out
from wanexport.storage.drafts import draft_folder, sweep_drafts
from wanexport.tensorrt.pool import PlanPool
from wanexport.weights.pool import Pool
from wanexport.weights.store import INLINE_BYTES, WeightStore
from wanrt.errors import WanrtError
from wanrt.manifest.origin import Verification
from wanrt.manifest.read import MANIFEST_NAME, read_manifest
from wanrt.storage.files import sweep_temporaries
from wanrt.terminal.progress import Reporter

__all__ = ["Built", "build_engines"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """The outcome for one engine of a request."""

    path: Path
    target: Target
    verification: Verification | None  # None: the engine was there already

    @property
    def keeps(self) -> tuple[float, ...]:
        """What it keeps of the full fine-tune's effect, per adapter; empty where nobody measured.

        What an engine that was there already says of another fine-tune doesn't count.
        """
        if self.target.span is None:
            return ()
        found = self.verification or read_manifest(self.path).verification
        files = {digest for _, digest in self.target.span[1].files}
        measured = found.fidelity
        return measured.keeps if measured and set(measured.finetuned) == files else ()


@dataclass
class _Builder:
    """What the engines of a build share."""

    pool: Pool
    comparer: Comparer
    oracles: Oracles
    reporter: Reporter
    plans_made: set[str] = field(default_factory=set)


def build_engines(request: BuildRequest, reporter: Reporter) -> list[Built]:
    """Build every engine of a request that doesn't exist yet.

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
            targets, _ = gather_targets(request, reporter, dry_run=False)
            check_targets(request.out, targets)
            pool = Pool((request.out / ".weights").resolve())
            builder = _Builder(pool, Comparer(reporter), Oracles(reporter), reporter)
            return [_build(builder, target) for target in targets]
    except OSError as error:
        where = error.filename or request.out  # a write that fails doesn't say to what
        raise BuildError(
            f"{where}: {error.strerror or error}", "nothing of this engine was kept"
        ) from error


def _build(builder: _Builder, target: Target) -> Built:
    folder = target.folder
    if target.action == "reuse" or appeared_meanwhile(target):
        builder.reporter.log(f"{target.name}: up to date")
        return Built(folder, target, None)
    with draft_folder(target.out, target.name) as draft:
        verification = _fill(builder, target, draft)
        if not publish(draft, folder, replace=target.action == "replace"):
            if not appeared_meanwhile(target):
                raise BuildError(f"{folder} appeared while its engine was built", "run again")
            return Built(folder, target, None)
    return Built(folder, target, verification)


def _fill(builder: _Builder, target: Target, draft: Path) -> Verification:
    """Build, verify and describe one engine in its draft folder."""
    reporter, settings = builder.reporter, target.tensorrt
    oracle = builder.oracles.ask(target) if target.verify else None
    spec = specify_graph(target)
    with reporter.work(f"{target.name}: tracing"):
        traced = trace_graph(spec)
        model = passes.lower_for(
            traced, target.backend, spec.dtype, target.joined, target.quantized, target.form
        )
    parameters = list_parameters(target, spec)
    with reporter.bytes(f"{target.name}: weights", target.write_bytes - target.plan_bytes) as piece:
        store = WeightStore(
            draft,
            builder.pool,
            target.copy,
            piece.advance,
            # a refitter may ask for any of a plan's constants
            inline_bytes=1 if settings else INLINE_BYTES,
            keep_pristine=target.swap_rank is not None,
        )
        write_weights(store, target, parameters[0])
        adapters = ship_adapters(draft, target, piece.advance)
        if target.max_rank is not None:
            make_swappable(model, target.branch_names, target.max_rank, target.backend, spec.dtype)
        if target.cards > 1:
            cut_for_cards(model, target.cards)
        store.bind(model)
    if settings and settings.allow_unfused:
        passes.allow_decomposition(model)
    graphs = _save_graphs(target, model, draft)
    makers = {}
    if settings:
        makers = {
            name: PlanMaker(target, name, graph, store, reporter, builder.plans_made)
            for name, graph in graphs.items()
        }
    verification = Verification(method="none")
    if target.verify:
        verification = builder.comparer.compare_graph(target, spec, model, store, parameters)
        verification = verification.model_copy(update={"adapter_oracle": oracle})
    plans = {name: maker.make() for name, maker in makers.items()}
    manifest = make_manifest(target, store, graphs, adapters, verification, plans)
    (draft / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    if target.verify and settings and settings.runs_here and target.cards == 1:
        try:
            error = builder.comparer.compare_plan(target, spec, draft, manifest, parameters)
        except WanrtError as problem:
            raise BuildError(f"{target.name} can't be run: {problem}", problem.hint) from problem
        except VerificationError:
            for name, maker in makers.items():
                maker.drop(plans[name])
            raise
        verification = verification.model_copy(update={"plan_error": error})
        manifest = manifest.model_copy(update={"verification": verification})
        (draft / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return verification


def _save_graphs(target: Target, model: ir.Model, draft: Path) -> dict[str, ir.Model]:
    """Write the graphs that an engine runs, by their names, and their emulated forms."""
    graphs = {"forward": model}
    if target.split:
        split = split_graph(model)
        graphs = {"context": split.context, "denoise": split.denoise}
    for name, graph in graphs.items():
        ir.save(graph, draft / GRAPH_FILES[name])
        if target.config.dtype == "bf16" and target.backend == "onnxruntime":
            ir.save(emulate(graph), draft / EMULATED_FILES[name])
    return graphs


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
