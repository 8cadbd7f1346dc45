"""The kernels of a TensorRT engine, read from its inspector's account of it as data.

The words are those of TensorRT's documentation and samples: 10.x has `Format/Datatype`, 11.x has
`DataType` (NVIDIA's page "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x").
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from wanrt.errors import EngineError
from wanrt.explain.kernel import Kernel, Operand
from wanrt.storage.strict_json import parse_json

__all__ = ["read_layers"]

DTYPES: Final = {
    "BFloat16": "bf16", "Half": "fp16", "Float": "fp32", "FP8": "fp8", "FP4": "fp4", "Int8": "int8",
    "Int32": "int32", "Int64": "int64", "UInt8": "uint8", "Bool": "bool",
}  # fmt: skip
WAITING: Final = ("signal", "wait")  # of one stream for another: nothing is moved
VIEW: Final = "NoOp"
LAYER: Final = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
MAX_BYTES: Final = 256 << 20

Size = Annotated[int, Field(ge=-1, lt=1 << 63)]


class _Tensor(BaseModel):
    """An operand; -1 stands for a size that is chosen at run time."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: Annotated[str, Field(alias="Name")]
    shape: Annotated[tuple[Size, ...], Field(alias="Dimensions", strict=False)]
    dtype: Annotated[
        str, Field(validation_alias=AliasChoices("Format/Datatype", "DataType", "Datatype"))
    ]


class _Layer(BaseModel):
    """What of a layer is read."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: Annotated[str, Field(alias="Name")]
    kind: Annotated[str, Field(alias="LayerType")]
    inputs: Annotated[tuple[_Tensor, ...], Field(alias="Inputs", strict=False)] = ()
    outputs: Annotated[tuple[_Tensor, ...], Field(alias="Outputs", strict=False)] = ()
    stream: Annotated[int, Field(alias="StreamId", ge=0)] = 0
    metadata: Annotated[str, Field(alias="Metadata")] = ""


class _Engine(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    layers: Annotated[tuple[_Layer, ...], Field(alias="Layers", strict=False)]


class _Account(BaseModel):
    """`layers.json`: the engine's part is null where the build had no GPU of the plan's."""

    model_config = ConfigDict(frozen=True, strict=True)

    engine: _Engine | None


def read_layers(path: Path) -> tuple[Kernel, ...]:
    """Return the kernels of `layers.json` in the order in which they are listed.

    Raises:
        EngineError: TensorRT left no account, or it isn't in words that are known.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unreadable(path, "it is too large")
        account = _Account.model_validate(parse_json(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise _unreadable(path, str(error)) from None
    if account.engine is None:
        raise EngineError(
            f"{path}: TensorRT gave no account of this engine",
            "build it on a GPU that its plan is for: the inspector needs one",
        )
    layers = [layer for layer in account.engine.layers if layer.kind not in WAITING]
    if not layers:
        raise _unreadable(path, "it lists no kernels")
    return tuple(_kernel(path, layer) for layer in layers)


def _kernel(path: Path, layer: _Layer) -> Kernel:
    if not layer.outputs:
        raise _unreadable(path, f"layer {layer.name!r} has no output")
    inputs, outputs = (
        tuple(_operand(path, layer.name, tensor) for tensor in side)
        for side in (layer.inputs, layer.outputs)
    )
    nodes = tuple(LAYER.findall(layer.metadata))
    return Kernel(
        layer.kind, layer.name, inputs, outputs, nodes, layer.stream, is_view=layer.kind == VIEW
    )


def _operand(path: Path, layer: str, tensor: _Tensor) -> Operand:
    if tensor.dtype not in DTYPES or -1 in tensor.shape:
        raise _unreadable(
            path,
            f"layer {layer!r} has an operand {tensor.name!r} of {tensor.dtype!r} and dimensions "
            f"{list(tensor.shape)}",
        )
    return Operand(tensor.name, DTYPES[tensor.dtype], tensor.shape, (tensor.name, ""))


def _unreadable(path: Path, why: str) -> EngineError:
    return EngineError(f"{path}: its kernels can't be read: {why}", "nothing is guessed from it")
