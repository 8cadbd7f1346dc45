"""What engines are made from: checkpoints and adapters, found or made, with their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wanexport.build.prefuse import Prefuse, lay_prefused, read_prefuse
from wanexport.build.request import RANDOM, SEED, BuildRequest
from wanexport.checkpoint.open import (
    Checkpoint,
    complete,
    is_partial,
    lay_over,
    open_checkpoint,
)
from wanexport.checkpoint.random_weights import checkpoint_specs, ensure_demo_checkpoint
from wanexport.checkpoint.read import read_checkpoint
from wanexport.errors import AdapterError, UsageError
from wanexport.lora.adapter import Adapter, split_rest, stacked_ranks
from wanexport.lora.choose import Choice
from wanexport.lora.delta import DORA_STRENGTH
from wanexport.lora.find import find_lora, name_lora, resolve_adapters
from wanexport.lora.random_adapter import seeded_adapter
from wanexport.lora.targets import Targets, choose_targets
from wanexport.model.names import module_shapes
from wanexport.storage.disk import check_disk
from wanexport.storage.hashes import hash_files
from wanexport.storage.locks import locked
from wanexport.storage.names import safe_name
from wanexport.storage.values import one_thread
from wanrt.manifest.schema import Mode
from wanrt.terminal.progress import Reporter
from wanrt.terminal.text import first_and_more
from wanrt.terminal.units import show_bytes

__all__ = ["AdapterSet", "Sources", "Weights", "gather"]

Origin = Literal["base", "finetuned"]
Shapes = Mapping[str, tuple[int, ...]]

NOT_MADE = "not made yet"


@dataclass(frozen=True)
class AdapterSet:
    """Adapters applied together, as one.

    Args:
        name: of its files; empty for a made one.
        ranks: module -> rank of the low-rank branch that carries it unmerged.
        adapters: the resolved files; empty if they aren't made yet.
        carried: the parts of them that a branch can carry.
        rest: the parts that no branch can, merged into the base where that is allowed.
        sources: (path, sha256, strength) of each file.
        stems: what a file is called in an engine's folder.
    """

    name: str
    ranks: Mapping[str, int]
    adapters: tuple[Adapter, ...]
    carried: tuple[Adapter, ...]
    rest: tuple[Adapter, ...]
    sources: tuple[tuple[str, str, float], ...]
    random_weights: bool
    stems: Mapping[Path, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its part of an engine's name: r32, or r32-NAME for files."""
        return "-".join(filter(None, (f"r{self.rank}" if self.rank else "", self.name)))

    @property
    def files(self) -> tuple[tuple[str, Adapter], ...]:
        """Where a swappable engine's folder has each adapter that is carried."""
        found: dict[str, Adapter] = {}
        for adapter in self.carried:
            name = "-".join(filter(None, (f"r{adapter.max_rank}", self.stems[adapter.path])))
            again = sum(file.startswith(f"adapters/{name}") for file in found)
            found[f"adapters/{name}{f'-{again + 1}' if again else ''}.safetensors"] = adapter
        return tuple(found.items())

    @property
    def slots(self) -> int:
        """The rank of a swappable engine that takes all of them side by side."""
        return sum(adapter.max_rank for adapter in self.carried) or self.rank or 1

    @property
    def rank(self) -> int | None:
        """The largest rank of a module; None if nothing of it is low-rank."""
        return max(self.ranks.values(), default=None)

    @property
    def targets(self) -> tuple[str, ...]:
        """All modules that the adapters change, in any way."""
        return tuple(sorted({target for a in self.adapters for target in a.targets}))


@dataclass(frozen=True)
class Weights:
    """The checkpoint that an engine is made from.

    Args:
        origin: what it is called: the base, or a full fine-tune.
        checkpoint: None if it isn't made yet, in a dry run.
        files: (path, sha256) of each file that holds it.
        prefuse: the LoRAs that were merged into it.
    """

    origin: Origin
    checkpoint: Checkpoint | None
    files: tuple[tuple[str, str], ...]
    prefuse: tuple[Prefuse, ...] = ()

    @property
    def laid_over(self) -> str:
        """Which of its tensors are whose, where it is laid over another checkpoint."""
        return self.checkpoint.laid_over if self.checkpoint else ""

    @property
    def made(self) -> Checkpoint:
        """The checkpoint, where nothing is built without."""
        assert self.checkpoint is not None
        return self.checkpoint


@dataclass(frozen=True)
class Sources:
    """Everything that is read to make the engines of one request.

    Args:
        shapes: of the model's parameters.
        base: the base; of no checkpoint if no engine needs it.
        finetuned: the full fine-tune, if there is one.
        adapter_sets: what engines carry, one set at a time.
        to_make_bytes: what a build writes before its engines.
    """

    shapes: Shapes
    base: Weights
    finetuned: Weights | None
    adapter_sets: tuple[AdapterSet, ...]
    to_make_bytes: int

    def weights_of(self, mode: Mode) -> Weights:
        """Return what engines of a mode are made from."""
        return self.finetuned if mode == "full" and self.finetuned else self.base

    @property
    def span(self) -> tuple[Weights, Weights] | None:
        """The base and the full fine-tune, if engines with adapters are made beside that one."""
        tuned, found = self.finetuned, self.base.checkpoint is not None
        if tuned is None or not found or not self.adapter_sets or tuned.files == self.base.files:
            return None
        return self.base, tuned


def gather(request: BuildRequest, reporter: Reporter, *, dry_run: bool) -> Sources:
    """Open the files that the request names, and make the random ones.

    Seeded weights and adapters lie in `OUT/.made`, so that engines can link to them. A dry run
    makes nothing.
    """
    arch, config = request.config.architecture, request.config
    shapes = module_shapes(arch)
    made = request.out / ".made"
    trained = read_checkpoint(request.finetuned) if request.finetuned else None
    partial = trained is not None and request.base is not None and is_partial(trained, arch)
    if request.base not in (None, RANDOM) and not request.needs_base and not partial:
        raise UsageError(
            "--base has no effect: the only engine is made of --finetuned, a whole checkpoint",
            "drop it, or add a --mode that has the base in it",
        )
    base, to_make = None, 0
    if request.needs_base or partial:
        base, to_make = _open_base(request, reporter, dry_run=dry_run)
    finetuned = None
    if trained is not None and not partial:
        finetuned = complete(trained, arch)
    elif trained is not None and base is not None:
        finetuned = lay_over(trained, base)
        reporter.log(finetuned.laid_over)
    prefuse: tuple[Prefuse, ...] = ()
    if request.prefuse:
        prefuse = read_prefuse(request.prefuse, shapes, _choice(request), reporter)
        base = lay_prefused(prefuse, base) if base else None
        finetuned = lay_prefused(prefuse, finetuned) if finetuned else None
    sets = []
    targets = choose_targets(arch, request.targets)
    for rank in request.ranks:
        label = "-".join(filter(None, (f"r{rank}", targets.label)))
        path = made / f"{config.name}-lora-{label}-seed{SEED}.safetensors"
        if not path.exists():
            to_make += _seeded_bytes(targets, shapes, rank)
        sets.append(_seeded_set(path, request, shapes, targets, rank, reporter, dry_run=dry_run))
    if request.loras:
        sets.append(_file_set(request, shapes, reporter))
    return Sources(
        shapes,
        _weights("base", base, prefuse, reporter),
        _weights("finetuned", finetuned, prefuse, reporter) if trained else None,
        tuple(sets),
        to_make,
    )


def _open_base(
    request: BuildRequest, reporter: Reporter, *, dry_run: bool
) -> tuple[Checkpoint | None, int]:
    """Return the base, made if it is random, and the bytes that a dry run leaves to be made."""
    arch, config = request.config.architecture, request.config
    if request.base is not None and request.base != RANDOM:
        return open_checkpoint(request.base, arch), 0
    folder = request.out / ".made" / f"{config.name}-{config.dtype}-seed{SEED}"
    total = sum(spec.nbytes for spec in checkpoint_specs(arch, config.dtype))
    if not folder.exists():
        if dry_run:
            return None, total
        check_disk(request.out, total)
        reporter.log(f"making {show_bytes(total)} of random weights in {folder}")
    with reporter.bytes("random weights", total) as piece:
        ensure_demo_checkpoint(folder, arch, config.dtype, SEED, piece.advance)
    return open_checkpoint(str(folder), arch), 0


def _seeded_set(
    path: Path,
    request: BuildRequest,
    shapes: Shapes,
    targets: Targets,
    rank: int,
    reporter: Reporter,
    *,
    dry_run: bool,
) -> AdapterSet:
    if not path.exists() and dry_run:
        ranks = dict.fromkeys(sorted(targets.modules), rank)
        return AdapterSet(targets.label, ranks, (), (), (), ((str(path), NOT_MADE, 1.0),), True)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            reporter.bytes(
                f"random adapter r{rank}", _seeded_bytes(targets, shapes, rank)
            ) as piece,
            locked(path.parent / ".making.lock"),
        ):
            if not path.exists():  # another build may have made it since, and be reading it
                seeded_adapter(path, shapes, targets.modules, rank, SEED, on_bytes=piece.advance)
    return _resolve([(path, 1.0)], {path: targets.label}, request, shapes, targets.label, reporter)


def _seeded_bytes(targets: Targets, shapes: Shapes, rank: int) -> int:
    """Return the bytes of a seeded adapter's tensors, which are bf16."""
    return sum(2 * rank * sum(shapes[f"{module}.weight"]) for module in targets.modules)


def _file_set(request: BuildRequest, shapes: Shapes, reporter: Reporter) -> AdapterSet:
    paths = [(find_lora(lora.path), lora.strength) for lora in request.loras]
    names = [safe_name(name_lora(path)) + ("" if s == 1.0 else f"-x{s:g}") for path, s in paths]
    stems = {path: safe_name(name_lora(path)) for path, _ in paths}
    found = _resolve(paths, stems, request, shapes, "-".join(names), reporter)
    with reporter.work("looking for NaN in the LoRA"), one_thread():
        for delta in (delta for adapter in found.adapters for delta in adapter.deltas):
            delta.check_values()
    return found


def _resolve(
    paths: list[tuple[Path, float]],
    stems: Mapping[Path, str],
    request: BuildRequest,
    shapes: Shapes,
    name: str,
    reporter: Reporter,
) -> AdapterSet:
    adapters = resolve_adapters(paths, shapes, reporter, _choice(request))
    for adapter in adapters:
        if adapter.strength != 1 and any("magnitude" in d.tensors for d in adapter.deltas):
            reporter.log(f"{adapter.path}, strength {adapter.strength:g}: {DORA_STRENGTH}")
    carried, rest = split_rest(adapters)
    unmerged = [mode for mode in request.modes if mode in ("separate", "swappable")]
    if rest and unmerged and not request.merge_rest:
        parts = [part for adapter in rest for part in adapter.describe_parts()]
        raise AdapterError(
            f"{paths[0][0]}: mode {unmerged[0]} can't carry {first_and_more(parts)}",
            "add --merge-rest to merge that part into the base, or use --mode merged",
        )
    if unmerged and not carried:
        raise AdapterError(
            f"{paths[0][0]} has no low-rank part that mode {unmerged[0]} could carry",
            "use --mode merged",
        )
    digests = hash_files("the LoRA", (path for path, _ in paths), reporter)
    return AdapterSet(
        name,
        stacked_ranks(carried),
        adapters,
        tuple(carried),
        tuple(rest),
        tuple((str(path), digests[path], strength) for path, strength in paths),
        any(adapter.random_weights for adapter in adapters),
        stems,
    )


def _choice(request: BuildRequest) -> Choice:
    expert = None if request.expert == "both" else request.expert
    return Choice(expert, request.skip_image_keys)


def _weights(
    origin: Origin,
    checkpoint: Checkpoint | None,
    prefuse: tuple[Prefuse, ...],
    reporter: Reporter,
) -> Weights:
    if checkpoint is None:
        return Weights(origin, None, (), prefuse)
    held = [layer.tensors.values() for layer in checkpoint.layers]
    paths = [p for refs in held for p in sorted({path for ref in refs for path in ref.paths})]
    digests = hash_files("the checkpoint", paths, reporter)
    files = tuple((str(path), digest) for path, digest in digests.items())
    return Weights(origin, checkpoint, files, prefuse)
