"""Which of a file's tensors are the DiT's, under which names, and what is left aside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from wanexport.checkpoint.foreign import refuse_other_part
from wanexport.checkpoint.quantized import is_scale
from wanexport.errors import CheckpointError
from wanexport.model.names import is_known
from wanexport.model.wrappers import find_roots, is_stray, strip_wrappers, unwrap
from wanexport.storage.foreign_file import show_rewrite
from wanexport.storage.tensor_file import TensorRef
from wanrt.terminal.text import first_three

__all__ = ["Selection", "select_dit"]

# the first words of names in files that hold a whole pipeline, or a training's state
ASIDE = (
    "audio_encoder", "clip", "clip_vision", "cond_stage_model", "conditioner", "discriminator",
    "fake_score", "first_stage_model", "image_encoder", "lr_scheduler", "optimizer", "real_score",
    "scheduler", "t5", "text_encoder", "text_encoders", "text_model", "tokenizer", "umt5", "vae",
    "vision_model",
)  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """The DiT of a file.

    Args:
        tensors: its tensors by bare names, diffusers' or the original ones.
        stripped: what stood before those names or in them, sorted.
        left_aside: the first words of all other names -> how many tensors they have.
    """

    tensors: dict[str, TensorRef]
    stripped: tuple[str, ...]
    left_aside: dict[str, int]

    def bare(self, name: str) -> str:
        """Return a name of the file without what was stripped."""
        rest = unwrap(name)
        root = next((r for r in self.stripped if rest.startswith(r)), "")
        return rest.removeprefix(root)


def select_dit(stored: Mapping[str, TensorRef], where: str) -> Selection:
    """Find the one DiT among a file's tensors, whatever its names are wrapped in.

    Raises:
        CheckpointError: there is none, there are several, or a key beside it says how weights are
            quantised.
    """
    named = {name: unwrap(name) for name in stored}
    roots = find_roots(named.values())
    if not roots:
        refuse_other_part(stored, where)
    if len(roots) > 1:
        names = [root or "(no prefix)" for root in roots]
        raise CheckpointError(
            f"{where} holds {len(roots)} models: {first_three(names)}",
            "write the one you mean alone: "
            + show_rewrite(next(iter(stored.values())).path, "k", f"k.startswith({roots[-1]!r})"),
        )
    (root,) = roots
    tensors: dict[str, TensorRef] = {}
    aside: Counter[str] = Counter()
    for name, unwrapped in named.items():
        bare = unwrapped.removeprefix(root)
        if not unwrapped.startswith(root) or _is_aside(bare, stored[name]):
            _refuse_to_leave(name, unwrapped, root, where)
            aside[unwrapped.split(".", 1)[0]] += 1
        elif bare in tensors:
            raise CheckpointError(f"{where}: {tensors[bare].name} and {name} are both {bare}")
        else:
            tensors[bare] = stored[name]
    wrappers = {root} | {part for name, rest in named.items() for part in _wrappers(name, rest)}
    return Selection(tensors, tuple(sorted(wrappers - {""})), dict(sorted(aside.items())))


def _wrappers(name: str, rest: str) -> set[str]:
    """Return the inner wrappers of one name."""
    if name == rest:
        return set()
    kept = set(rest.split("."))
    return {f"{word}." for word in name.split(".") if word not in kept}


def _is_aside(bare: str, ref: TensorRef) -> bool:
    """Tell whether a name at the DiT's place is that of another part, or a stray marker's."""
    if bare.partition(".")[0] in ASIDE:
        return True
    return is_stray(bare, math.prod(ref.shape)) and not is_scale(bare)


def _refuse_to_leave(name: str, unwrapped: str, root: str, where: str) -> None:
    """Refuse what looks like the DiT's own and stands beside it."""
    rest = strip_wrappers(unwrapped)[1]
    if unwrapped.split(".", 1)[0] in ASIDE or rest.split(".", 1)[0] in ASIDE:
        return
    if is_known(rest) or (is_scale(rest) and unwrapped != "scaled_fp8"):
        raise CheckpointError(
            f"{where}: {name} stands beside the model's tensors, which begin with {root!r}",
            "save the model into a file of its own",
        )
