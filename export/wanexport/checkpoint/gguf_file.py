"""GGUF files of a DiT, read by the gguf package: every tensor is decoded, none is used in place.

ComfyUI-GGUF's converter keeps the original names, and the shape of what GGUF can't hold (the 5-D
patch embedding) under `comfy.gguf.orig_shape.NAME`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.checkpoint.quantized_ref import QuantizedRef
from wanexport.errors import CheckpointError
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef, open_safetensors

if TYPE_CHECKING:
    import gguf
    import torch

__all__ = ["open_weights"]

MAGIC = b"GGUF"
KINDS = {
    "F32", "F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1",
    "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS",
}  # fmt: skip
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."


def open_weights(path: Path) -> SafetensorsFile:
    """Validate a checkpoint's file, safetensors or GGUF, and return where its tensors lie.

    Raises:
        CheckpointError: it is neither, truncated, or holds a kind of tensor that can't be decoded.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return _open_gguf(path)
    return open_safetensors(path)


def _open_gguf(path: Path) -> SafetensorsFile:
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is not a whole GGUF file: {error}", "download it again"
        ) from None
    size = path.stat().st_size
    tensors: dict[str, TensorRef] = {}
    for tensor in reader.tensors:
        if tensor.tensor_type.name not in KINDS:
            raise CheckpointError(
                f"{path}: {tensor.name} is {tensor.tensor_type.name}; "
                f"{', '.join(sorted(KINDS))} can be decoded",
                "use a file of one of these kinds, or the checkpoint that it was made from",
            )
        if tensor.data_offset + tensor.n_bytes > size:
            raise CheckpointError(f"{path} is cut off in {tensor.name}", "download it again")
        tensors[tensor.name] = _refer(path, tensor, _shape(reader, tensor, path))
    return SafetensorsFile(path, tensors, {})


def _shape(reader: gguf.GGUFReader, tensor: gguf.ReaderTensor, path: Path) -> tuple[int, ...]:
    shape = tuple(int(size) for size in reversed(tensor.shape))
    field = reader.fields.get(f"{ORIGINAL_SHAPE}{tensor.name}")
    original = shape if field is None else tuple(int(field.parts[i][0]) for i in field.data)
    if math.prod(original) != math.prod(shape):
        raise CheckpointError(f"{path}: {tensor.name} is {list(shape)}, said to be {original}")
    return original


def _refer(path: Path, tensor: gguf.ReaderTensor, shape: tuple[int, ...]) -> QuantizedRef:
    """Refer to a tensor by rows of whole blocks; one that has no such rows is a single row."""
    import gguf

    kind = tensor.tensor_type
    block = gguf.GGML_QUANT_SIZES[kind][1]
    rows = shape[0] if shape and tensor.n_bytes % (shape[0] * block) == 0 else 1
    offset = int(tensor.data_offset)
    stored = TensorRef(tensor.name, "U8", (rows, int(tensor.n_bytes) // rows), path, offset)

    def decode(q: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.from_numpy(gguf.dequantize(q.numpy(), kind))

    scheme = f"gguf:{kind.name}"
    return QuantizedRef(tensor.name, "F32", shape, path, offset, stored, None, scheme, decode)
