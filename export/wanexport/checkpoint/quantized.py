"""Quantised checkpoints: which scale belongs to which weight. No scale is ever dropped.

ComfyUI's fp8_scaled of both years, LightX2V's and musubi's, and bare casts; the formats are found
apart by keys, dtypes and shapes, never by a file's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wanexport.checkpoint.quantized_ref import QuantizedRef
from wanexport.errors import CheckpointError
from wanexport.storage.dtypes import ENGINE_DTYPES
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef
from wanrt.terminal.text import first_three

__all__ = ["is_scale", "pair_scales", "read_formats"]

QUANTIZED = {"F8_E4M3": "fp8", "F8_E5M2": "fp8_e5m2", "I8": "int8"}
WEIGHT_SCALES = ("weight_scale", "scale_weight")
INPUT_SCALES = ("input_scale", "scale_input")  # of activations: nothing of the weights
LAYER_FORMAT = "comfy_quant"
MARKER = "scaled_fp8"
MAX_FORMAT_BYTES = 4096
# comfy_quant's and _quantization_metadata's formats that are q x weight_scale, and q's dtype there
FORMATS = {
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8_tensorwise": "I8",
    "int8_rowwise": "I8",
}
HARMLESS = {"format", "full_precision_matrix_mult"}  # a format's keys that leave the values alone
# last part of a key -> whose format it is of, of those that can't be decoded here
OTHER_FORMATS = {
    r"weight_scale_2": "NVFP4",
    r"weight_scale_inv": "fp8 in blocks of 128 x 128",
    r"absmax|quant_map|nested_.*|bitsandbytes__.*": "bitsandbytes",
    r"qweight|qzeros|scales|g_idx": "GPTQ or AWQ",
    r"wscales|wtscale|wcscales|smooth_factor.*|proj_down|proj_up": "SVDQuant (Nunchaku)",
    r"weight_s_rel|weight_s_channel|weight_codebook": "ComfyUI's 4-bit codebooks",
}
_SCALE = re.compile(r"scale(?!_shift_table)|quant|zero_point|absmax|codebook")
_HINT = "use the checkpoint that this one was quantised from, or an fp8, int8 or GGUF one"


def is_scale(name: str) -> bool:
    """Tell whether a key says how others are quantised."""
    return bool(_SCALE.search(name.rpartition(".")[2])) or _other_format(name) != ""


@dataclass
class _Layer:
    """What a file says of one module's weight besides its values."""

    scale: TensorRef | None = None
    inputs: list[TensorRef] = field(default_factory=list)
    format: TensorRef | None = None


def read_formats(files: Iterable[SafetensorsFile], where: str) -> dict[str, dict[str, object]]:
    """Return the formats that headers state for layers, by the layers' own names."""
    formats: dict[str, dict[str, object]] = {}
    for file in files:
        text = file.metadata.get("_quantization_metadata")
        if text is None:
            continue
        layers = _parse(text.encode(), f"{where}: _quantization_metadata").get("layers")
        if not isinstance(layers, dict) or not all(isinstance(v, dict) for v in layers.values()):
            raise CheckpointError(f"{where}: _quantization_metadata names no layers", _HINT)
        formats |= layers
    return formats


def pair_scales(
    stored: Mapping[str, TensorRef], formats: Mapping[str, Mapping[str, object]], where: str
) -> dict[str, TensorRef]:
    """Return a DiT's tensors, each quantised one together with its scale.

    Args:
        stored: name -> tensor, without what wrappers stand around them.
        formats: module -> what the header says of it, by the same names.
        where: names the file in errors.

    Raises:
        CheckpointError: a scale has no weight, a weight lacks its scale, or either is of a kind
            that isn't known.
    """
    layers: dict[str, _Layer] = {}
    tensors: dict[str, TensorRef] = {}
    for name, ref in stored.items():
        if name != MARKER and not _take(name, ref, layers, where):
            tensors[name] = ref
    for module in formats:
        layers.setdefault(module, _Layer())
    for module, layer in layers.items():
        weight = tensors.get(f"{module}.weight")
        keys = [ref.name for ref in (layer.scale, layer.format, *layer.inputs) if ref]
        if weight is None or weight.dtype not in QUANTIZED:
            kind = "isn't in the file" if weight is None else f"is {weight.dtype}, not quantised"
            raise CheckpointError(
                f"{where}: {first_three(keys or [module])} belongs to {module}.weight, which {kind}"
            )
        if layer.format is not None:
            said = _parse(layer.format.read_bytes(MAX_FORMAT_BYTES), f"{where}: {keys[0]}")
            _check_format(said, weight, where)
        if module in formats:
            _check_format(formats[module], weight, where)
    scaled = MARKER in stored or any(layer.scale for layer in layers.values())
    return {
        name: _decoded(name, ref, layers.get(name.removesuffix(".weight")), where, scaled=scaled)
        for name, ref in tensors.items()
    }


def _take(name: str, ref: TensorRef, layers: dict[str, _Layer], where: str) -> bool:
    """Put a key that says how a weight is quantised to its layer; refuse an unknown one."""
    module, _, last = name.rpartition(".")
    if not is_scale(name):
        return False
    layer = layers.setdefault(module, _Layer())
    if last in WEIGHT_SCALES and layer.scale is None:
        layer.scale = ref
    elif last in INPUT_SCALES:
        layer.inputs.append(ref)
    elif last == LAYER_FORMAT:
        layer.format = ref
    elif last in WEIGHT_SCALES:
        raise CheckpointError(f"{where}: {module}.weight has two scales")
    else:
        kind = _other_format(name)
        says = f"is quantised as {kind}" if kind else "says how weights are quantised, in a way"
        raise CheckpointError(
            f"{where}: {ref.name} {says}, which isn't supported"
            if kind
            else f"{where}: {ref.name} {says} that isn't known",
            _HINT,
        )
    return True


def _decoded(
    name: str, ref: TensorRef, layer: _Layer | None, where: str, *, scaled: bool
) -> TensorRef:
    """Return a tensor as it is, or with what decodes it."""
    if ref.dtype in ENGINE_DTYPES:
        return ref
    kind = QUANTIZED.get(ref.dtype)
    if kind is None:
        known = ", ".join([*ENGINE_DTYPES, *QUANTIZED])
        raise CheckpointError(f"{where}: {name} is {ref.dtype}; {known} can be read", _HINT)
    scale = layer.scale if layer and name.endswith(".weight") else None
    if scale is None and (kind == "int8" or (scaled and name.endswith(".weight"))):
        raise CheckpointError(f"{where}: {name} is {ref.dtype} and lacks its scale", _HINT)
    suffix = "" if scale is None else f"_{_granularity(ref, scale, where)}"
    return QuantizedRef(
        ref.name, "F32", ref.shape, ref.path, ref.offset, ref, scale, f"{kind}{suffix}"
    )


def _granularity(weight: TensorRef, scale: TensorRef, where: str) -> str:
    """Return what shares a scale: the tensor (scaled), a channel or a block of one."""
    if scale.dtype not in ENGINE_DTYPES:
        raise CheckpointError(f"{where}: {scale.name} is {scale.dtype}, not a float", _HINT)
    out, *fan_in = weight.shape or (1,)
    if scale.shape in ((), (1,), (1, 1)):
        return "scaled"
    if scale.shape in ((out,), (out, 1), (out, *(1 for _ in fan_in))):
        return "channel"
    rank = len(scale.shape)
    groups = scale.shape[1] if rank in (2, 3) and scale.shape[2:] in ((), (1,)) else 0
    if scale.shape[:1] == (out,) and len(fan_in) == 1 and groups and fan_in[0] % groups == 0:
        return "block"
    raise CheckpointError(
        f"{where}: {scale.name} is {list(scale.shape)}; a scale of {weight.name}, "
        f"{list(weight.shape)}, has one value, [{out}, 1] or [{out}, blocks, 1]",
        _HINT,
    )


def _check_format(said: Mapping[str, object], weight: TensorRef, where: str) -> None:
    name = said.get("format")
    unknown = [f"{key} {value!r}" for key, value in said.items() if value and key not in HARMLESS]
    if not isinstance(name, str) or name not in FORMATS or unknown:
        kind = " with ".join([str(name), *unknown])
        raise CheckpointError(
            f"{where}: {weight.name} is quantised as {kind}, which isn't supported", _HINT
        )
    if FORMATS[name] != weight.dtype:
        raise CheckpointError(f"{where}: {weight.name} is {weight.dtype}; its format says {name}")


def _other_format(name: str) -> str:
    last = name.rpartition(".")[2]
    return next((kind for keys, kind in OTHER_FORMATS.items() if re.fullmatch(keys, last)), "")


def _parse(text: bytes, where: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{where} is not a JSON object", _HINT)
    return content
