"""Known models and files that engines can't be built from: each is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

from wanexport.errors import CheckpointError
from wanexport.model.unsupported import (
    FUSED,
    OTHER_INPUTS,
    TI2V,
    TI2V_CHANNELS,
    TI2V_REASON,
    TI2V_WIDTH,
    UNFUSE,
)
from wanexport.storage.tensor_file import TensorRef
from wanrt.terminal.text import first_three

__all__ = ["has_base", "refuse_class", "refuse_foreign", "refuse_lora", "refuse_other_part"]

CLASSES = ("WanTransformer3DModel", "WanModel")
LORA_KEY = re.compile(r"\.(lora_|lokr_|hada_|dora_scale|diff$|diff_[bm]$)|^lora_unet_|^lycoris_")
# keys -> which model has them, and why that isn't the model it grew out of
MODELS = (
    (r"(^|\.)vace_", "a VACE model", OTHER_INPUTS),
    (r"\.to_gate_compress\.", "a VSA model (FastVideo's video sparse attention)",
     "its attention is sparse: the same weights in full attention are another model"),
    (r"(^|\.)control_adapter\.", "a Fun-Control-Camera model", OTHER_INPUTS),
    (r"(^|\.)ref_conv\.", "a Fun-Control model with a reference image", OTHER_INPUTS),
    (r"(^|\.)fps_(embedding|projection)\.", "a SkyReels-V2 diffusion-forcing model", OTHER_INPUTS),
    (r"(^|\.)(casual_audio_encoder|audio_injector)\.", "Wan2.2-S2V", OTHER_INPUTS),
    (r"(^|\.)(face_adapter|motion_encoder|pose_patch_embedding)\.", "Wan2.2-Animate",
     OTHER_INPUTS),
    (r"(^|\.)(audio_cross_attn|audio_proj|audio_model)\.",
     "a model of speech (MultiTalk, InfiniteTalk, HuMo)", OTHER_INPUTS),
    (r"\.cross_attn\.processor\.[kv]_proj\.", "FantasyTalking", OTHER_INPUTS),
    (r"(^|\.)(dwpose_embedding|randomref_embedding_pose)\.", "UniAnimate-DiT", OTHER_INPUTS),
    (r"\.(cam_encoder|projector)\.", "ReCamMaster", OTHER_INPUTS),
    (FUSED, "a model with q, k and v fused into one layer (fuse_qkv_projections)", UNFUSE),
)  # fmt: skip
CHANNELS = {
    48: "a Fun-Control model (48 input channels: video, control video and reference)",
    52: "a Wan2.2-Fun-Control model (52 input channels)",
}
NAME_DIT = "name the transformer's file or folder"
OTHER_PARTS = (  # of a pipeline, given where its DiT is meant
    (r"(token_embedding|shared|encoder\.embed_tokens)\.weight$", "a text encoder", NAME_DIT),
    (r"^(encoder|decoder)\.(conv1|conv_in|downsamples|upsamples|middle|mid_block|up_blocks)\b",
     "a VAE", NAME_DIT),
    (r"^(visual|vision_model)\.", "an image encoder", NAME_DIT),
    (r"(^|\.)_flat_param", "of FSDP's flattened parameters",
     "save it again with FSDP's StateDictType.FULL_STATE_DICT"),
)  # fmt: skip


def refuse_class(config: Mapping[str, object], where: str) -> None:
    """Refuse a checkpoint whose config.json says that it is of another class."""
    name, kind = str(config.get("_class_name", CLASSES[0])), config.get("model_type")
    if "VACE" in name.upper() or kind == "vace":
        raise CheckpointError(f"{where} is a VACE model, which isn't supported", OTHER_INPUTS)
    if kind == "ti2v":
        raise CheckpointError(f"{where} is {TI2V}, which isn't supported", TI2V_REASON)
    if "CAUSAL" in name.upper():
        raise CheckpointError(
            f"{where} is a causal Wan ({name}), which isn't supported",
            "it makes a video block by block with a cache of keys and values",
        )
    if name not in CLASSES:
        raise CheckpointError(
            f"{where}: config.json says {name}; a Wan DiT is a {CLASSES[0]}",
            "name the folder of the transformer",
        )


def refuse_foreign(stored: Mapping[str, TensorRef], where: str) -> None:
    """Refuse what its keys or sizes show to be another model."""
    for keys, model, why in MODELS:
        found = [name for name in stored if re.search(keys, name)]
        if found:
            raise CheckpointError(
                f"{where} is {model}, which isn't supported: {first_three(found)}", why
            )
    stems = [ref for name, ref in stored.items() if name.endswith("patch_embedding.weight")]
    for width, channels in (ref.shape[:2] for ref in stems if len(ref.shape) == 5):
        if (width, channels) == (TI2V_WIDTH, TI2V_CHANNELS):
            raise CheckpointError(f"{where} is {TI2V}, which isn't supported", TI2V_REASON)
        if channels in CHANNELS:
            raise CheckpointError(
                f"{where} is {CHANNELS[channels]}, which isn't supported", OTHER_INPUTS
            )


def refuse_other_part(stored: Mapping[str, TensorRef], where: str) -> NoReturn:
    """Refuse a file that holds no tensor of a DiT, and say what it is."""
    for keys, part, hint in OTHER_PARTS:
        found = [name for name in stored if re.search(keys, name)]
        if found:
            raise CheckpointError(f"{where} is {part}, not a DiT: {first_three(found)}", hint)
    raise CheckpointError(
        f"{where} has no tensor of a Wan DiT; it holds {first_three(sorted(stored)) or 'none'}"
    )


def has_base(names: Iterable[str]) -> bool:
    """Tell whether a model's own weights are among names, and not only those of a LoRA."""
    held = list(names)
    return any(".base_layer.weight" in name for name in held) or all(
        any(re.search(rf"(^|\.)({part})$", name) for name in held)
        for part in (r"patch_embedding\.weight", r"head\.modulation|scale_shift_table")
    )


def refuse_lora(stored: Mapping[str, TensorRef], where: str) -> None:
    """Refuse a LoRA, and a checkpoint that was saved with one attached."""
    lora = [name for name in stored if LORA_KEY.search(name)]
    if not lora:
        return
    if has_base(stored):
        raise CheckpointError(
            f"{where} was saved with a LoRA attached: {first_three(lora)}",
            "save it again after fuse_lora() and unload_lora_weights(), or after PEFT's "
            "merge_and_unload()",
        )
    raise CheckpointError(
        f"{where} is a LoRA, or has one attached: {first_three(lora)}",
        f"give it with --lora {where}",
    )
