"""Which layers of a TensorRT engine have their low-rank branch inside their own product."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from wanexport.errors import ConfigError
from wanexport.model.config import Architecture
from wanexport.model.formulas import count_branch, module_rows
from wanexport.tensorrt.settings import PlanSettings
from wanrt.manifest.schema import Mode

__all__ = ["choose_joined"]


def choose_joined(
    arch: Architecture,
    tokens: int,
    ranks: Mapping[str, int],
    mode: Mode,
    settings: PlanSettings | None,
    shapes: Mapping[str, tuple[int, ...]],
    quantized: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the layers to compute as one product over [x, x A^T] and [W, B].

    Every layer that moves fewer bytes so. Where B is an input (swappable), [W, B] is put together
    in every forward, which pays for layers with more rows than inputs. Weights that a refit may
    change stay apart, each under its own name; so do those that are quantised.

    Args:
        arch: the architecture.
        tokens: of the smallest forward that the engine computes, on one of its cards.
        ranks: of the branches, by layer.
        mode: the engine's.
        settings: None for ONNX Runtime.
        shapes: of the model's parameters.
        quantized: layers whose product is in 8 bits.

    Raises:
        ConfigError: `--lora-form fused` with weights that may be refitted.
    """
    if settings is None or not ranks or settings.lora_form == "branch":
        return ()
    refitted = settings.refit in ("targets", "all")
    if refitted:
        if settings.lora_form == "fused":
            raise ConfigError(
                f"--lora-form fused has no weights of its own to refit (--refit {settings.refit})",
                "drop one of the two, or --refit none",
            )
        return ()
    if settings.lora_form == "fused":
        return tuple(ranks)
    return tuple(
        module
        for module, rank in ranks.items()
        if module not in quantized
        and _pays(
            module_rows(module, tokens, arch.dims),
            rank,
            shapes[f"{module}.weight"],
            swappable=mode == "swappable",
        )
    )


def _pays(rows: int, rank: int, weight: tuple[int, ...], *, swappable: bool) -> bool:
    sizes = (rows, rank, math.prod(weight[1:]), weight[0])
    fused = count_branch(*sizes, form="fused", swappable=swappable)
    return fused < count_branch(*sizes, form="branch")
