"""What training and saving wrap around a DiT's parameter names, and how it comes off again.

Checkpoints and LoRA files have the same wrappers; this is their one home.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from wanexport.model.names import is_known

__all__ = ["WRAPPERS", "find_roots", "is_stray", "strip_wrappers", "unwrap"]

# Wrapper modules that stand in front of a whole model: DDP and DeepSpeed, Lightning, DiffSynth,
# diffusers' pipelines, Cosmos, ComfyUI.
WRAPPERS = (
    "model.diffusion_model.",
    "diffusion_model.",
    "base_model.model.",
    "pipe.dit.",
    "transformer.",
    "generator.",
    "module.",
    "model.",
    "dit.",
    "net.",
)
# Wrapper modules that may stand anywhere in a name: torch.compile, activation checkpointing, FSDP,
# fairscale's, Lightning's.
_INNER = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_fpw_module"
    r"|_forward_module)\."
)
_STEM = "patch_embedding.weight"
MARKER_VALUES = 16  # a tensor that says something of its file, not a weight, is at most so large


def unwrap(name: str) -> str:
    """Return a name without the wrapper modules that may stand anywhere in it."""
    return _INNER.sub("", name)


def strip_wrappers(name: str) -> tuple[str, str]:
    """Split a name into its wrappers and the rest; only what is known to be a wrapper comes off."""
    rest = unwrap(name)
    stripped = "" if rest == name else "".join(_INNER.findall(name))
    while wrapper := next((w for w in WRAPPERS if rest.startswith(w)), ""):
        rest, stripped = rest.removeprefix(wrapper), stripped + wrapper
    return stripped, rest


def is_stray(name: str, values: int) -> bool:
    """Tell whether a tensor of this name and size is a stray marker: `iteration`, `version`."""
    return "." not in name and not is_known(name) and values <= MARKER_VALUES


def find_roots(names: Iterable[str]) -> list[str]:
    """Return what stands before the names of each DiT among them, whatever it is called.

    A whole DiT has `patch_embedding.weight` and `blocks.0.` behind one root; of parts of one every
    name that is a DiT's says its root.

    Args:
        names: parameter names without inner wrappers (`unwrap`).
    """
    held = list(names)
    stems = {n.removesuffix(_STEM) for n in held if n == _STEM or n.endswith(f".{_STEM}")}
    whole = {stem for stem in stems if any(n.startswith(f"{stem}blocks.0.") for n in held)}
    return sorted(whole or {root for n in held if (root := _root_of(n)) is not None})


def _root_of(name: str) -> str | None:
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
    return next((name[:start] for start in starts if is_known(name[start:])), None)
