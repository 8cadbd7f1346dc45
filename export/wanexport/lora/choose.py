"""Which keys of a LoRA file are meant: one expert's, and those of layers that the model has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from wanexport.errors import AdapterError
from wanexport.lora.scales import DIFFUSERS_KEY
from wanexport.storage.tensor_file import SafetensorsFile
from wanrt.manifest.schema import Expert
from wanrt.terminal.text import first_three

__all__ = ["IMAGE_KEY", "SKIP_FLAG", "Choice", "choose_keys"]

IMAGE_KEY = re.compile(r"[kv]_img|img_emb|add_[kv]_proj|image_embedder|norm_added_k")
SKIP_FLAG = "--skip-image-keys"
LOW_ROOTS = ("transformer_2.", "low_noise_model.")
HIGH_ROOTS = ("transformer.", "high_noise_model.")
ROOT = HIGH_ROOTS[0]  # what either expert's keys begin with once they are alone


@dataclass(frozen=True)
class Choice:
    """What is taken of a LoRA file.

    Args:
        expert: of a file that holds LoRAs of both experts, whose keys.
        skip_image_keys: leave out keys of layers for an image, where the model has none.
    """

    expert: Expert | None = None
    skip_image_keys: bool = False


def choose_keys(
    file: SafetensorsFile, shapes: Mapping[str, tuple[int, ...]], choice: Choice
) -> tuple[SafetensorsFile, tuple[str, ...]]:
    """Return the file with the chosen keys alone, and the names that were skipped.

    Raises:
        AdapterError: it is of the other expert.
    """
    file, others = _choose_expert(file, choice.expert)
    skipped: tuple[str, ...] = ()
    if choice.skip_image_keys and not any("add_k_proj" in name for name in shapes):
        skipped = tuple(name for name in file.tensors if IMAGE_KEY.search(name))
    kept = {name: ref for name, ref in file.tensors.items() if name not in skipped}
    return replace(file, tensors=kept), (*others, *skipped)


def _choose_expert(
    file: SafetensorsFile, expert: Expert | None
) -> tuple[SafetensorsFile, tuple[str, ...]]:
    low = [name for name in file.tensors if name.startswith(LOW_ROOTS)]
    if expert is None or not (low or any(n.startswith(HIGH_ROOTS[1]) for n in file.tensors)):
        return file, ()
    mine, other = (LOW_ROOTS, HIGH_ROOTS) if expert == "low" else (HIGH_ROOTS, LOW_ROOTS)
    kept = {
        _rename(name, mine): ref for name, ref in file.tensors.items() if not name.startswith(other)
    }
    if not kept:
        whose = "high" if expert == "low" else "low"
        raise AdapterError(
            f"{file.path} holds no LoRA of the {expert}-noise expert, but "
            f"{first_three(list(file.tensors))}",
            f"it is the {whose}-noise expert's: give it with build's --lora-{whose}, or inspect it "
            f"with --expert {whose}",
        )
    metadata = dict(file.metadata)
    if DIFFUSERS_KEY in metadata:
        metadata[DIFFUSERS_KEY] = _choose_settings(metadata[DIFFUSERS_KEY], mine, other)
    left = tuple(name for name in file.tensors if name.startswith(other))
    return replace(file, tensors=kept, metadata=metadata), left


def _choose_settings(text: str, mine: tuple[str, ...], other: tuple[str, ...]) -> str:
    """Return the settings of one expert; what isn't JSON is refused where it is read."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(settings, dict):
        return text
    return json.dumps(
        {_rename(k, mine): value for k, value in settings.items() if not k.startswith(other)}
    )


def _rename(name: str, roots: tuple[str, ...]) -> str:
    root = next((root for root in roots if name.startswith(root)), None)
    return name if root is None else ROOT + name.removeprefix(root)
