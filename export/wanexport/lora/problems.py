"""Why keys of a LoRA file can't be applied: kinds that are known by name, and near misses."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wanexport.lora.choose import IMAGE_KEY, SKIP_FLAG
from wanexport.lora.keys import Key, ModuleIndex, find_unsupported, split_key, split_whole
from wanexport.model.names import is_known
from wanexport.model.unsupported import FUSED, OTHER_INPUTS, TI2V, TI2V_REASON, TI2V_WIDTH, UNFUSE
from wanexport.storage.foreign_file import show_rewrite
from wanexport.storage.tensor_file import TensorRef
from wanrt.terminal.text import first_three

__all__ = ["LoraProblem", "explain_unmatched", "find_foreign", "find_not_lora"]

Refs = Mapping[str, TensorRef]

_OTHER_MODELS = {
    r"^(text_encoder|lora_te)": ("the text encoder", ""),
    r"^transformer_2\.|^low_noise_model\.": (
        "Wan2.2's second transformer, the low-noise expert",
        "a file of Wan2.2's experts: --expert high, or low, names one, with a --config of Wan2.2",
    ),
    r"^high_noise_model\.": (
        "Wan2.2's high-noise expert",
        "a file of Wan2.2's experts: --expert high, or low, names one, with a --config of Wan2.2",
    ),
    r"vace_": ("VACE's blocks", ""),
    FUSED: ("q, k and v fused into one layer (fuse_qkv_projections)", UNFUSE),
}
# A new name for a whole parameter, which says that it replaces the model's own.
_AS_SET = (
    r'k if re.search("lora|lokr|hada|dora", k) else '
    r're.sub(r"(?:\.(weight|bias))?$", lambda m: ".set_" + (m[1] or "weight"), k, count=1)'
)
_UNIANIMATE = re.compile(r"(^|\.)(dwpose_embedding|randomref_embedding_pose)\.")
# What of a file shows how many channels its model's input has: the last axis but the patch's.
_STEM = re.compile(
    r"(^|.*[._])patch_embedding\.(lora_A(\.[^.]+)?\.weight|lora_down\.weight|diff|weight|set_weight)"
)
_RESHAPED = re.compile(r"(^|.*[._])patch_embedding\.reshape_weight")
CHANNELS = (16, 36)  # of Wan's text- and image-to-video models


@dataclass(frozen=True)
class LoraProblem:
    """Keys that can't be applied, and why."""

    keys: tuple[str, ...]
    message: str
    hint: str = ""


def find_foreign(refs: Refs, index: ModuleIndex) -> list[LoraProblem]:
    """Return why the whole file belongs to another model than Wan's own, by that one's name."""
    stand_in = [name for name in refs if find_unsupported(name) == "Stand-In"]
    pose = [name for name in refs if _UNIANIMATE.search(name)]
    channels = {*CHANNELS, index.shapes["patch_embedding.weight"][1]}
    control = [name for name, ref in refs.items() if _takes_control(name, ref, channels)]
    found = []
    if stand_in:
        why = "it acts on reference tokens alone, which no merged weight can do"
        hint = "run it where its own code is, ComfyUI or Stand-In's repository"
        found.append(
            LoraProblem(tuple(stand_in), f"is Stand-In ({first_three(stand_in)}): {why}", hint)
        )
    if pose:
        why = "beside a LoRA it holds networks that read poses, which Wan's graph has no input for"
        hint = "run it where its own code is, UniAnimate-DiT's repository or WanVideoWrapper"
        found.append(
            LoraProblem(tuple(pose), f"is UniAnimate-DiT's ({first_three(pose)}): {why}", hint)
        )
    if control:
        found.append(
            LoraProblem(
                tuple(control),
                f"is a control LoRA ({first_three(control)}): it widens the model's input for a "
                "control video",
                OTHER_INPUTS,
            )
        )
    width = index.shapes["patch_embedding.bias"][0]
    if not found and width != TI2V_WIDTH and _is_ti2v(refs):
        message = f"is of width {TI2V_WIDTH}, as {TI2V} is, which isn't supported"
        found.append(LoraProblem(tuple(refs), message, TI2V_REASON))
    return found


def _takes_control(name: str, ref: TensorRef, known: Collection[int]) -> bool:
    """Tell whether a tensor is of a patch embedding that reads more than the `known` channels."""
    if _RESHAPED.fullmatch(name):
        return True
    if not _STEM.fullmatch(name) or len(ref.shape) not in (2, 5):
        return False
    channels = ref.shape[1] if len(ref.shape) == 5 else ref.shape[1] / 4
    return channels not in known


def _is_ti2v(refs: Refs) -> bool:
    """Tell whether every query's lower half has the width that TI2V-5B alone has."""
    keys = [key for name in refs if (key := split_key(name)) and key.role == "A"]
    queries = [key for key in keys if re.search(r"(to_q|attn[._]q)$", key.module)]
    return bool(queries) and all(refs[key.text].shape[1:] == (TI2V_WIDTH,) for key in queries)


def find_not_lora(
    not_lora: Iterable[str], keys: Mapping[str, Key | None], path: Path
) -> list[LoraProblem]:
    """Return the problems of keys that aren't LoRA's.

    Args:
        not_lora: those keys.
        keys: all of the file's.
        path: the file.
    """
    left, total = list(not_lora), len(keys)
    if not keys:
        return [LoraProblem((), "holds no tensors")]
    known = {name: kind for name in left if (kind := find_unsupported(name))}
    if len(left) == total and not known:
        return [
            LoraProblem(
                tuple(left),
                f"holds no LoRA tensors, but {first_three(left)}: it looks like a checkpoint",
                "give a checkpoint with --base or --finetuned",
            )
        ]
    problems = [
        LoraProblem((name,), f"{name} is {kind}, not supported") for name, kind in known.items()
    ]
    whole = [name for name in left if name not in known]
    if any(".base_layer." in name for name in whole):
        problems.append(
            LoraProblem(
                tuple(whole),
                f"holds the model's own weights beside the LoRA: {first_three(whole)}",
                "save the LoRA alone (save_lora_adapter, save_pretrained), or the model after "
                "merge_and_unload() for --finetuned",
            )
        )
    elif whole:
        may_replace = all(is_known(split_whole(name)[0].module) for name in whole)
        replace = f"if they replace the model's own, say so: {show_rewrite(path, _AS_SET)}"
        problems.append(
            LoraProblem(
                tuple(whole),
                f"{len(whole)} of {total} keys aren't LoRA tensors: {first_three(whole)}",
                replace
                if may_replace
                else "they name no parameter of the model's: its trainer's "
                "own loader knows what they mean, and may write the LoRA in another format",
            )
        )
    return problems


def explain_unmatched(
    unmatched: list[str], index: ModuleIndex, total: int, path: Path
) -> list[LoraProblem]:
    """Sort keys that match no module by what is the matter with them.

    Args:
        unmatched: those keys.
        index: the model's modules.
        total: how many keys the file has.
        path: the file.
    """
    problems, left = [], list(unmatched)

    def take(test: Callable[[str], object], message: str, hint: str) -> None:
        taken = [name for name in left if test(name)]
        if taken:
            left[:] = [name for name in left if not test(name)]
            count = f"{len(taken)} of {total} keys"
            problems.append(
                LoraProblem(tuple(taken), f"{count} {message}: {first_three(taken)}", hint)
            )

    for pattern, (what, hint) in _OTHER_MODELS.items():
        keep = show_rewrite(path, "k", f"not re.search({json.dumps(pattern)}, k)")
        message = f"are for {what}, which isn't part of this model"
        take(re.compile(pattern).search, message, hint or f"write the others alone: {keep}")
    if not index.has_image_conditioning:
        take(
            IMAGE_KEY.search,
            "are for image conditioning by CLIP, which this model lacks",
            "it is a LoRA of Wan2.1's image-to-video models; text-to-video models and Wan2.2 have "
            f"no such layers: choose a --config that has, or apply the rest with {SKIP_FLAG}",
        )
    take(
        lambda name: _block(name) >= index.blocks,
        f"are for blocks that the model, of {index.blocks} blocks, doesn't have",
        f"the LoRA is of a model with at least {max(map(_block, left), default=0) + 1} blocks",
    )
    if left:
        hint = "; ".join(f"{name}: nearest is {_nearest(name, index)}" for name in left[:3])
        message = f"{len(left)} of {total} keys match no module of the model: {first_three(left)}"
        problems.append(LoraProblem(tuple(left), message, hint))
    return problems


def _block(name: str) -> int:
    match = re.search(r"blocks[._](\d{1,6})[._]", name)
    return int(match[1]) if match else -1


def _nearest(name: str, index: ModuleIndex) -> str:
    key = split_key(name)
    module = key.module if key else name
    known = [name for name in index.names if name != module]  # norm2 of the wrong naming
    if key and key.prefix.endswith("_"):
        known = [known_name.replace(".", "_") for known_name in known]
    return next(iter(difflib.get_close_matches(module, known, n=1, cutoff=0.3)), "none")
