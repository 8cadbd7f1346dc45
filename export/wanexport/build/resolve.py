"""Resolve a request and its sources into engines; later stages don't read the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wanexport.build.estimate import count_memory, count_plan_bytes, count_written
from wanexport.build.request import BuildRequest
from wanexport.build.reuse import decide_action, describe_inputs
from wanexport.build.sources import AdapterSet, Sources, Weights
from wanexport.build.targets import Target
from wanexport.errors import AdapterError, BuildError, ConfigError
from wanexport.lora.targets import Targets, choose_targets, name_smallest
from wanexport.model.quantization import find_format, select_quantized
from wanexport.storage.hashes import sha256_text
from wanexport.storage.names import safe_name
from wanexport.tensorrt.lora_form import choose_joined
from wanrt.manifest.schema import Mode
from wanrt.terminal.text import first_and_more

__all__ = ["resolve_targets"]

MOST_BYTES = 200  # of a folder's name: drafts have longer ones, and 255 is the limit


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
    targets = [_make_target(request, sources, mode, adapters) for mode, adapters in wanted]
    if request.times_tactics and "full" in request.modes:
        targets.append(_make_target(request, sources, "full", (), control=True))
    pooled: set[Path] = set()
    return [_decide(target, pooled) for target in targets]


def _make_target(
    request: BuildRequest,
    sources: Sources,
    mode: Mode,
    adapters: tuple[AdapterSet, ...],
    *,
    control: bool = False,
) -> Target:
    config, settings = request.config, request.tensorrt
    targets = _choose_targets(request, mode)
    modules = targets.modules if targets and request.loras else None
    if modules is not None:
        _check_within(modules, adapters)
    ranks, max_rank = _size_branches(mode, adapters, request.max_rank, modules)
    if settings:
        ranks = {module: settings.pad(rank) for module, rank in ranks.items()}
        max_rank = max_rank and settings.pad(max_rank)
    weights = sources.weights_of(mode)
    quantized, excluded = _choose_quantized(request, weights)
    swaps = request.swaps_in_place(mode)
    tokens = min(size.tokens for size in request.sizes) // request.cards
    target = Target(
        name="",
        out=request.out,
        config=config,
        mode=mode,
        weights=weights,
        shapes=sources.shapes,
        adapters=adapters,
        ranks=ranks,
        joined=choose_joined(
            config.architecture, tokens, ranks, mode, settings, sources.shapes, quantized
        ),
        quantized=quantized,
        form=find_format(request.quantize, request.backend),
        excluded=excluded,
        span=sources.span,
        max_rank=max_rank,
        swap_rank=request.swap_rank(adapters[0].rank) if swaps else None,
        expert=request.expert if request.expert != "both" else None,
        target_set=targets.name if targets else None,
        dynamic=request.dynamic,
        split=request.split,
        cards=request.cards,
        copy=request.copy,
        verify=request.verify,
        force=request.force,
        tensorrt=settings,
        control=control,
        command=request.command,
    )
    return replace(target, name=safe_name(_name(request, target, targets), MOST_BYTES))


def _name(request: BuildRequest, target: Target, targets: Targets | None) -> str:
    """Return an engine's name: all that tells it from others of its request."""
    config, settings = target.config, target.tensorrt
    size = "dynamic" if target.dynamic else config.size.name
    label = ""
    if target.mode == "swappable":
        on = targets.label if targets and request.loras else ""
        label = "-".join(filter(None, (f"-r{target.max_rank}", target.adapters[0].name, on)))
    elif target.mode != "full":
        label = f"-{target.adapters[0].label}"
    of = f"-{target.expert}" if target.expert else ""
    scheme = f"-{request.quantize}" if target.quantized else ""
    if target.excluded:
        scheme += f"-but-{sha256_text(' '.join(target.quantized))[:8]}"
    fused = "".join(f"-pre-{one.label}" for one in target.weights.prefuse)
    name = f"{config.name}{of}-{size}-{config.dtype}{scheme}{fused}-{target.mode}{label}"
    if target.split:
        name += "-split"
    if target.cards > 1:
        name += f"-cards{target.cards}"
    if settings:
        if settings.lora_form and target.ranks:
            name += f"-{settings.lora_form}"
        if settings.pad_rank > 1 and target.mode == "separate":
            name += f"-pad{settings.pad_rank}"
        name += f"-{settings.label}{'-control' if target.control else ''}"
    return name


def _choose_quantized(
    request: BuildRequest, weights: Weights
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers to quantise, and the patterns that leave some out.

    Raises:
        BuildError: the checkpoint is quantised already.
    """
    if request.quantize == "none":
        return (), ()
    scheme = weights.checkpoint.scheme() if weights.checkpoint else None
    if scheme is not None:
        raise BuildError(
            f"{weights.made.path} is quantised already ({scheme}), so --quantize "
            f"{request.quantize} would round its weights a second time, and a small adapter merged "
            "into them is lost: of one that changes W by 0.3 %, 0 to 11 % survives",
            "quantise the pristine checkpoint, or build with --quantize none",
        )
    chosen = select_quantized(request.config.architecture, request.quantize_exclude)
    return chosen, request.quantize_exclude


def _choose_targets(request: BuildRequest, mode: Mode) -> Targets | None:
    """Return the layers that were asked for, if an engine's aren't those of its LoRA."""
    if mode == "full" or (request.loras and not (request.targets and mode == "swappable")):
        return None
    return choose_targets(request.config.architecture, request.targets)


def _check_within(modules: Sequence[str], adapters: Sequence[AdapterSet]) -> None:
    """Refuse LoRAs that change layers outside of those which the engine adapts."""
    outside = [module for s in adapters for module in s.ranks if module not in modules]
    if outside:
        fitting = name_smallest([*modules, *outside])
        raise AdapterError(
            f"{adapters[0].sources[0][0]} changes {first_and_more(outside)}, outside of --targets",
            f"add --targets {fitting}" if fitting else f"add --targets {outside[0]}",
        )


def _size_branches(
    mode: Mode,
    adapters: Sequence[AdapterSet],
    asked: int | None,
    modules: Sequence[str] | None,
) -> tuple[dict[str, int], int | None]:
    """Return the rank of every low-rank branch, and the largest that a swappable engine takes.

    A swappable engine has branches at `modules`; by default where its adapters have.
    """
    if mode == "separate":
        return dict(adapters[0].ranks), None
    if mode != "swappable":
        return {}, None
    _refuse_rest(adapters)
    largest = max(s.slots for s in adapters)
    max_rank = asked or largest
    if max_rank < largest:
        raise ConfigError(
            f"--max-rank {max_rank} is below the adapter's rank, {largest}", "raise --max-rank"
        )
    modules = modules or [module for s in adapters for module in s.ranks]
    return dict.fromkeys(sorted(set(modules)), max_rank), max_rank


def _refuse_rest(adapters: Sequence[AdapterSet]) -> None:
    if len(adapters) > 1 and any(s.rest for s in adapters):
        raise BuildError(
            "a swappable engine has one base, so adapters with parts to merge can't share it",
            "build one adapter at a time",
        )


def _decide(target: Target, pooled: set[Path]) -> Target:
    """Say what becomes of a target, and what that takes; what it pools is added to `pooled`."""
    target = replace(target, inputs=describe_inputs(target))
    action, reason = decide_action(target)
    target = replace(target, action=action, reason=reason)
    if action not in ("build", "replace"):
        return target
    plan_bytes = count_plan_bytes(target)
    return replace(
        target,
        write_bytes=plan_bytes + count_written(target, pooled),
        plan_bytes=plan_bytes,
        memory_bytes=count_memory(target),
    )
