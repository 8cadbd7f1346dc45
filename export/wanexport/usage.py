"""Flags that a request would take and never use: refused, so that nobody counts on them."""

from __future__ import annotations

from collections.abc import Collection

from wanexport.errors import UsageError
from wanexport.request import RANDOM, BuildRequest, Mode

__all__ = ["check_usage"]

ADAPTED: tuple[Mode, ...] = ("merged", "separate", "swappable")
FULL: tuple[Mode, ...] = ("full",)
UNMERGED: tuple[Mode, ...] = ("separate", "swappable")


def check_usage(request: BuildRequest) -> None:
    """Refuse a flag that no engine of a request has a use for.

    Raises:
        UsageError: it names the flag and what it needs.
    """
    if request.ranks:
        _need_mode(request, "--rank", ADAPTED)
    if request.loras:
        _need_mode(request, "--lora", ADAPTED)
    if request.finetuned is not None:
        _need_mode(request, "--finetuned", FULL)
    if request.base != RANDOM and not request.needs_base:
        raise UsageError(
            "--base has no effect: the only engine is made of --finetuned",
            "drop it, or add a --mode that has the base in it",
        )
    if request.max_rank is not None:
        swapping = [mode for mode in ADAPTED if mode == "swappable" or request.swaps_in_place(mode)]
        _need_mode(request, "--max-rank", swapping)
    if request.merge_rest:
        if not request.loras:
            raise UsageError("--merge-rest has no effect without a --lora", "add --lora FILE")
        _need_mode(request, "--merge-rest", UNMERGED)
    plans = request.plans
    if plans is not None and not plans.control:
        if plans.backend != "tensorrt":
            raise UsageError(
                f"--no-build-control has no effect with --backend {plans.backend}, which times no "
                "kernels when it builds",
                "drop it",
            )
        _need_mode(request, "--no-build-control", FULL)


def _need_mode(request: BuildRequest, flag: str, users: Collection[Mode]) -> None:
    if not set(users) & set(request.modes):
        wanted = " or ".join(f"--mode {mode}" for mode in users)
        raise UsageError(
            f"{flag} has no effect on mode {' and '.join(request.modes)}",
            f"drop it, or add {wanted}",
        )
