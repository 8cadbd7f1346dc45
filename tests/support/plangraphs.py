"""Graphs of the real architecture for TensorRT's parser: weights are holes in a sparse file."""

from __future__ import annotations

import math
from pathlib import Path

import onnx_ir as ir

from wanexport.graph import passes
from wanexport.graph.passes import count_ops
from wanexport.graph.swappable import make_swappable
from wanexport.graph.trace import GraphSpec, model_inputs, trace_graph
from wanexport.lora.targets import select_modules
from wanexport.model.config import Architecture, Size
from wanexport.tensorrt.protocol import BuilderJob

DTYPES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}


def save_graph(
    folder: Path,
    arch: Architecture,
    size: Size,
    dtype: str,
    mode: str,
    *,
    rank: int = 8,
    also: tuple[Size, ...] = (),
) -> tuple[BuilderJob, ir.Model]:
    """Save a graph as `wanexport build` does and return the job of parsing it.

    Every initializer is to be refittable, by its name. `also` makes the graph dynamic, with a
    profile for each size.
    """
    ranks = dict.fromkeys(select_modules(arch, "cross-attention"), rank)
    adapted = ranks if mode in ("separate", "swappable") else {}
    spec = GraphSpec(arch, size, dtype, adapted, dynamic=bool(also))
    model = passes.lower_for(trace_graph(spec), "tensorrt-rtx", dtype)
    if mode == "swappable":
        halves = ("lora_A", "lora_B")
        names = [f"{module}.{half}" for module in adapted for half in halves]
        make_swappable(model, names, rank, "tensorrt-rtx", dtype)
    names = _bind_to_holes(model, folder)
    ir.save(model, folder / "model.onnx")
    shapes = [model_inputs(arch, s, "fp32") for s in (size, *also)] if also else []
    io = (*model.graph.inputs, *model.graph.outputs)
    job = BuilderJob(
        backend="tensorrt-rtx",
        model=str(folder / "model.onnx"),
        plan=None,
        refit="all",
        refittable=tuple(names),
        capabilities=("8.9",),
        profiles=tuple({name: shape for name, (shape, _) in i.items()} for i in shapes),
        dtypes={v.name: DTYPES[v.dtype] for v in io},  # type: ignore[index,misc]
        attentions=count_ops(model)["Attention"],
    )
    return job, model


def _bind_to_holes(model: ir.Model, folder: Path) -> list[str]:
    """Give every parameter bytes of a file that takes no disk, and return their names."""
    names, offset = [], 0
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            continue
        assert value.shape is not None
        assert value.dtype is not None
        length = math.prod(value.shape.numpy()) * int(value.dtype.itemsize)
        value.const_value = ir.ExternalTensor(
            "weights.bin",
            offset,
            length,
            value.dtype,
            shape=value.shape,
            name=name,
            base_dir=str(folder),
        )
        names.append(name)
        offset += length
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(offset)
    return names
