"""Which engines a request comes to, what each is made from, and whether one that exists is it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from wanexport import __version__
from wanexport.build.request import BuildRequest
from wanexport.build.sources import AdapterSet, Sources
from wanexport.checkpoint.locate import own_path
from wanexport.checkpoint.open import Checkpoint
from wanexport.errors import BuildError, ConfigError
from wanexport.lora.adapter import touched_parameters
from wanexport.model.names import computes_in_fp32, module_shapes
from wanexport.storage.disk import check_disk
from wanexport.storage.dtypes import itemsize
from wanexport.storage.hashes import sha256_text
from wanexport.storage.links import pool_path
from wanexport.storage.source_hash import hash_packages
from wanrt.errors import WanrtError
from wanrt.manifest.read import check_times, read_manifest
from wanrt.manifest.schema import Manifest, Mode
from wanrt.storage.dtypes import SAFETENSORS

__all__ = ["Target", "appeared_meanwhile", "check_targets", "resolve_targets"]

Action = Literal["build", "reuse", "replace", "conflict"]

# What shapes an artefact besides its sources; a new release of one means a new engine.
TOOLS = ("torch", "diffusers", "onnx", "onnx-ir", "onnxscript")
# The packages whose code shapes every engine; `lora` does where there is an adapter, `tensorrt`
# where there is a plan (`PlanSettings.shaping`). The others only look at what was made.
SHAPING = ("build", "checkpoint", "graph", "model", "storage", "weights")
TRACE_BYTES = 450 << 20  # peak of the trace, whatever the model's size
SAME = "made from the same"
PLAN_BYTES = 4 << 20  # of a layer in a TensorRT plan, weights apart


@dataclass(frozen=True)
class Target:
    """One engine of a request.

    Args:
        name: its folder's name.
        mode: full, merged, separate or swappable.
        adapters: none (full), the one it carries, or those that ship with a swappable engine.
        ranks: module -> rank of the low-rank branch in its graph.
        max_rank: of a swappable engine.
        inputs: all that decides whether an existing engine is this one.
        action: what a build does with the folder, and why.
        write_bytes: about what a build writes.
        memory_bytes: about the build's peak of anonymous memory, with its verification.
        control: `full` built once more, its TensorRT plan without the timing cache.
        plan_bytes: of what a build writes, the TensorRT plan.
    """

    name: str
    mode: Mode
    adapters: tuple[AdapterSet, ...]
    ranks: Mapping[str, int]
    max_rank: int | None
    inputs: Mapping[str, str]
    action: Action
    reason: str
    write_bytes: int
    memory_bytes: int
    control: bool = False
    plan_bytes: int = 0

    @property
    def carried(self) -> tuple[AdapterSet | None, ...]:
        """The adapters that the engine can run with, one at a time."""
        return self.adapters or (None,)

    @property
    def branch_names(self) -> list[str]:
        """The names of the low-rank branches' matrices, in the graph's order."""
        return [f"{module}.{part}" for module in self.ranks for part in ("lora_A", "lora_B")]

    @property
    def rank(self) -> int | None:
        """The adapter's rank, where the engine is bound to one."""
        return self.adapters[0].rank if self.mode in ("merged", "separate") else None


def resolve_targets(request: BuildRequest, sources: Sources) -> list[Target]:
    """Return the engines of a request in the order of its modes and ranks."""
    wanted: list[tuple[Mode, tuple[AdapterSet, ...]]] = []
    for mode in request.modes:
        if mode == "full":
            wanted.append((mode, ()))
        elif mode == "swappable":
            wanted.append((mode, sources.adapter_sets))
        else:
            wanted += [(mode, (adapters,)) for adapters in sources.adapter_sets]
    pooled: set[Path] = set()
    targets = [_target(request, sources, mode, adapters, pooled) for mode, adapters in wanted]
    if request.times_tactics and "full" in request.modes:
        targets.append(_target(request, sources, "full", (), pooled, control=True))
    return targets


def check_targets(out: Path, targets: Sequence[Target], also_bytes: int = 0) -> None:
    """Refuse targets that can't be carried out.

    Args:
        out: where the engines go.
        targets: all engines of a request.
        also_bytes: what is written besides them.

    Raises:
        BuildError: an engine of that name was made from something else, or the disk is too small.
    """
    for target in targets:
        if target.action == "conflict":
            raise BuildError(
                f"engine {target.name} is there already, and {target.reason}",
                "replace it with --force, or build into another folder with --out",
            )
    check_disk(out, also_bytes + sum(target.write_bytes for target in targets))


def appeared_meanwhile(request: BuildRequest, target: Target) -> bool:
    """Whether another build has made, since it was planned, exactly the engine that is to be."""
    if target.action != "build":
        return False
    return _decide(request, request.out / target.name, target.inputs)[1] == SAME


def _target(
    request: BuildRequest,
    sources: Sources,
    mode: Mode,
    adapters: tuple[AdapterSet, ...],
    pooled: set[Path],
    *,
    control: bool = False,
) -> Target:
    max_rank = None
    ranks: dict[str, int] = {}
    if mode == "separate":
        ranks = dict(adapters[0].ranks)
    elif mode == "swappable":
        _refuse_rest(adapters)
        largest = max(s.rank or 1 for s in adapters)
        max_rank = request.max_rank or largest
        if max_rank < largest:
            raise ConfigError(
                f"--max-rank {max_rank} is below the adapter's rank, {largest}", "raise --max-rank"
            )
        targets = sorted({module for s in adapters for module in s.ranks})
        ranks = dict.fromkeys(targets, max_rank)
    size = "dynamic" if request.dynamic else request.config.size.name
    label = ""
    if mode == "swappable":
        label = "-".join(filter(None, (f"-r{max_rank}", adapters[0].name)))
    elif mode != "full":
        label = f"-{adapters[0].label}"
    name = f"{request.config.name}-{size}-{request.config.dtype}-{mode}{label}"
    inputs = _inputs(request, sources, mode, adapters, ranks)
    if request.tensorrt:
        name += f"-{request.tensorrt.label}{'-control' if control else ''}"
        if request.swaps_in_place(mode):
            inputs["swap rank"] = str(request.swap_rank(adapters[0].rank))
        inputs["backend"] = json.dumps(
            request.tensorrt.shaping | {"control": control}, sort_keys=True
        )
    action, reason = _decide(request, request.out / name, inputs)
    written = plan_bytes = memory = 0
    if action in ("build", "replace"):
        memory = _memory(request, sources, mode, adapters)
        plan_bytes = _plan_bytes(request, mode, adapters)
        written = plan_bytes + _written(request, sources, mode, adapters, ranks, pooled)
    return Target(
        name,
        mode,
        adapters,
        ranks,
        max_rank,
        inputs,
        action,
        reason,
        written,
        memory,
        control,
        plan_bytes,
    )


def _refuse_rest(adapters: Sequence[AdapterSet]) -> None:
    if len(adapters) > 1 and any(s.rest for s in adapters):
        raise BuildError(
            "a swappable engine has one base, so adapters with parts to merge can't share it",
            "build one adapter at a time",
        )


def _inputs(
    request: BuildRequest,
    sources: Sources,
    mode: Mode,
    adapters: Sequence[AdapterSet],
    ranks: Mapping[str, int],
) -> dict[str, str]:
    finetuned = mode == "full" and sources.finetuned is not None
    files = sources.finetuned_sources if finetuned else sources.base_sources
    config = request.config.model_dump(mode="json", exclude={"name"})
    if not request.dynamic:
        del config["dynamic_sizes"]
    inputs = {
        "config": json.dumps(config, sort_keys=True),
        "mode": mode,
        "dynamic": str(request.dynamic),
        "weights": "copy" if request.copy else "link",
        "verified": str(request.verify),
        "base": ",".join(digest for _, digest in files) or "not made yet",
        "adapter": ",".join(
            f"{sha}@{strength!r}" for s in adapters for _, sha, strength in s.sources
        ),
        "ranks": sha256_text(json.dumps(dict(ranks), sort_keys=True)),
        "wanexport": f"{__version__}+{code_hash(mode)}",
    }
    return inputs | {tool: _version(tool) for tool in TOOLS}


def _decide(request: BuildRequest, folder: Path, inputs: Mapping[str, str]) -> tuple[Action, str]:
    """Compare what an existing folder was made from with what it would be made from now."""
    if not os.path.lexists(folder):
        return "build", "new"
    try:
        manifest = read_manifest(folder)
        check_times(folder, manifest)
        reason = _difference(manifest, inputs)
    except WanrtError as error:
        reason = str(error)
    if not reason:
        if request.force:
            return "replace", "--force"
        return "reuse", SAME
    return ("replace" if request.force else "conflict"), reason


def _difference(manifest: Manifest, inputs: Mapping[str, str]) -> str:
    """Name the first input that differs, or nothing."""
    for key, value in inputs.items():
        was = manifest.inputs.get(key)
        if was == value:
            continue
        if key == "verified" and was == "True":
            continue  # more than was asked for
        short = len(value) < 24 and len(was or "") < 24
        return f"{key} was {was}, is {value}" if short else f"made from another {key}"
    return ""


def _written(
    request: BuildRequest,
    sources: Sources,
    mode: Mode,
    adapters: Sequence[AdapterSet],
    ranks: Mapping[str, int],
    pooled: set[Path],
) -> int:
    """Estimate the bytes that building one engine writes, a TensorRT plan apart.

    What it pools is added to `pooled`.
    """
    arch, dtype = request.config.architecture, SAFETENSORS[request.config.dtype]
    shapes = module_shapes(arch)
    width = itemsize(dtype)
    nbytes = {name: math.prod(shape) * width for name, shape in shapes.items()}
    written = 64_000 * arch.num_layers + 600_000  # model.onnx and the rotary table
    if request.copy:
        written += sum(nbytes.values())
    else:
        finetuned = mode == "full" and sources.finetuned is not None
        checkpoint = sources.finetuned if finetuned else sources.base
        files = sources.finetuned_sources if finetuned else sources.base_sources
        cast = _pooled(request.out, checkpoint, dict(files), dtype)
        written += sum(n for path, n in cast.items() if path not in pooled and not path.exists())
        pooled.update(cast)
        written += sum(nbytes[name] for name in _rewritten(mode, adapters))
    per_rank = {m: sum(shapes[f"{m}.weight"][:2]) * width for m in ranks}
    if mode == "separate":
        written += sum(per_rank[m] * r for m, r in ranks.items())
    if mode == "swappable":
        written += sum(per_rank[m] * r for s in adapters for m, r in s.ranks.items())
    return written


def _plan_bytes(request: BuildRequest, mode: Mode, adapters: Sequence[AdapterSet]) -> int:
    """Estimate the bytes of a TensorRT plan."""
    if not request.tensorrt:
        return 0
    arch = request.config.architecture
    size = PLAN_BYTES * arch.num_layers
    if request.tensorrt.refit in ("baked", "targets"):  # `targets` strips the adapter's alone
        free = _rewritten(mode, adapters) if request.swaps_in_place(mode) else set()
        values = sum(math.prod(s) for name, s in module_shapes(arch).items() if name not in free)
        size += values * itemsize(request.config.dtype) * 5 // 4
    return size


def _memory(
    request: BuildRequest, sources: Sources, mode: Mode, adapters: Sequence[AdapterSet]
) -> int:
    """Estimate the peak of anonymous memory: tracing's, and that of the largest work after it."""
    sizes = {k: math.prod(shape) for k, shape in module_shapes(request.config.architecture).items()}
    dtype = SAFETENSORS[request.config.dtype]
    finetuned = mode == "full" and sources.finetuned is not None
    checkpoint = sources.finetuned if finetuned else sources.base
    # what is read goes by in blocks; random weights are made a tensor at a time
    work = itemsize(dtype) * max(sizes.values()) if checkpoint is None else 0
    for delta in (d for s in adapters for part in s.adapters for d in part.deltas):
        if not delta.is_low_rank:
            work = max(work, 20 * sizes[delta.parameter])  # DoRA: five times in fp32
    if request.verify:  # a block of diffusers' model beside the engine's, in fp32
        block = sum(size for name, size in sizes.items() if name.startswith("blocks.0."))
        work = max(work, 8 * block)
    return TRACE_BYTES + work


def _rewritten(mode: Mode, adapters: Sequence[AdapterSet]) -> set[str]:
    """Return the parameters that an engine has values of its own for."""
    if mode == "merged" and not adapters[0].adapters:  # not made yet
        return {f"{module}.weight" for module in adapters[0].ranks}
    if mode == "merged":
        return touched_parameters(adapters[0].adapters)
    return touched_parameters(part for s in adapters for part in s.rest)


def _pooled(
    out: Path, checkpoint: Checkpoint | None, digests: Mapping[str, str], dtype: str
) -> dict[Path, int]:
    """Return the files of the pool that a checkpoint comes to, and their sizes.

    A file that holds anything to cast goes there as a whole; so does one on another file system.
    """
    if checkpoint is None:
        return {}
    device = next(path for path in (out, *out.resolve().parents) if path.exists()).stat().st_dev
    sizes: dict[Path, int] = {}
    for file in checkpoint.files:
        path = own_path(file.path)
        refs = [(n, ref) for n, ref in checkpoint.tensors.items() if ref.path == path]
        stored = {name: ref.dtype if computes_in_fp32(name) else dtype for name, ref in refs}
        if any(ref.dtype != stored[name] for name, ref in refs):
            size = sum(math.prod(ref.shape) * itemsize(stored[name]) for name, ref in refs)
            sizes[pool_path(out / ".weights", digests[str(path)], dtype)] = size
        elif path.stat().st_dev != device:
            sizes[pool_path(out / ".weights", digests[str(path)])] = path.stat().st_size
    return sizes


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def code_hash(mode: Mode, root: Path = Path(__file__).parents[1]) -> str:
    """Hash the packages on an engine's path, so that no engine outlives the code that made it."""
    packages = SHAPING if mode == "full" else (*SHAPING, "lora")
    return hash_packages(root, packages)[:12]
