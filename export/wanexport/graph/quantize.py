"""Linear layers as integer products: what ONNX Runtime's CPU has a kernel for."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from wanexport.errors import BuildError
from wanexport.model.quantization import scale_name

__all__ = ["quantize_linears"]

SUFFIX = ".weight"
ORT = "com.microsoft"


def quantize_linears(model: ir.Model, modules: Collection[str]) -> None:
    """Turn the Gemms of linear layers into DynamicQuantizeMatMul, in place.

    It quantises its input to u8 with one scale a forward, multiplies by the weight as s8 [in, out]
    with one scale per output feature, and scales and adds the bias in fp32. The weight keeps its
    name; its scales are `NAME_scale` [out].
    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md

    Raises:
        BuildError: a module has no Gemm of its own.
    """
    left = set(modules)
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "Gemm" else None
        module = (weight.name or "").removesuffix(SUFFIX) if weight is not None else ""
        if module not in left:
            continue
        _replace(model.graph, node)
        left.remove(module)
    if left:
        raise BuildError(f"no product of {min(left)} was quantised", "this is a bug; report it")
    if modules:
        model.graph.opset_imports[ORT] = 1


def _replace(graph: ir.Graph, gemm: ir.Node) -> None:
    x, weight, bias = (*gemm.inputs, None)[:3]
    assert weight is not None and weight.name is not None and weight.shape is not None
    fan_out, fan_in = weight.shape.numpy()
    int8, fp32 = ir.TensorType(ir.DataType.INT8), ir.TensorType(ir.DataType.FLOAT)
    q = ir.Value(name=weight.name, shape=ir.Shape((fan_in, fan_out)), type=int8)
    scale = ir.Value(name=scale_name(weight.name), shape=ir.Shape((fan_out,)), type=fp32)
    node = ir.Node(ORT, "DynamicQuantizeMatMul", [x, q, scale, None, bias], name=gemm.name)
    was, now = gemm.outputs[0], node.outputs[0]
    now.name, now.shape, now.type = was.name, was.shape, was.type
    ir.convenience.replace_nodes_and_values(graph, gemm, [gemm], [node], [was], [now])
    del graph.initializers[weight.name]
    graph.initializers.update({weight.name: q, scale_name(weight.name): scale})
