"""Wan2.2's two experts: which checkpoint is whose, and a request of both as one of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wanexport.build.request import RANDOM, BuildRequest
from wanexport.build.resolve import resolve_targets
from wanexport.build.sources import gather
from wanexport.build.targets import Target
from wanexport.checkpoint.locate import find_expert
from wanexport.errors import CheckpointError, UsageError
from wanrt.manifest.schema import Expert
from wanrt.terminal.progress import Reporter

__all__ = ["gather_targets"]

PAIR: tuple[Expert, ...] = ("high", "low")


def gather_targets(
    request: BuildRequest, reporter: Reporter, *, dry_run: bool
) -> tuple[list[Target], int]:
    """Read what a request names and resolve it into engines, those of each expert in turn.

    Returns:
        The engines, and the bytes that are written before them.

    Raises:
        WanExportError: a source can't be used.
    """
    targets, to_make = [], 0
    for one in _split(request):
        sources = gather(one, reporter, dry_run=dry_run)
        targets += resolve_targets(one, sources)
        to_make = max(to_make, sources.to_make_bytes)  # random weights are shared
    return targets, to_make


def _split(request: BuildRequest) -> list[BuildRequest]:
    if request.config.experts is None:
        return [request]
    if request.expert is None:
        raise UsageError(
            f"{request.config.name} is a pair of experts", "add --expert high, low or both"
        )
    if request.expert != "both":
        return [_of(request, request.expert)]
    for checkpoint in (request.base, request.finetuned):
        if checkpoint not in (None, RANDOM) and find_expert(str(checkpoint), "low") is None:
            raise CheckpointError(
                f"{checkpoint} isn't a folder of two experts",
                "give the folder that holds both, or build one with --expert high or low",
            )
    return [_of(request, expert) for expert in PAIR]


def _of(request: BuildRequest, expert: Expert) -> BuildRequest:
    loras = tuple(lora for lora in request.loras if lora.expert in (None, expert))
    if request.loras and not loras and set(request.modes) != {"full"}:
        (other,) = set(PAIR) - {expert}
        raise UsageError(
            f"the {expert}-noise expert has no LoRA for its mode",
            f"add --lora-{expert} FILE, or build the other one alone: --expert {other}",
        )
    return replace(
        request,
        expert=expert,
        base=_checkpoint(request.base, expert),
        finetuned=_checkpoint(request.finetuned, expert),
        loras=loras,
    )


def _checkpoint(path_or_id: str | None, expert: Expert) -> str | None:
    if path_or_id is None or path_or_id == RANDOM:
        return path_or_id
    found: Path | None = find_expert(path_or_id, expert)
    return path_or_id if found is None else str(found)
