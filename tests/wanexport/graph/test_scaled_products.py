"""Products of 8 bits in a graph for TensorRT, against fake quantisation by torch, written apart."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from emulated import emulate
from studies import I2V, SIZE
from torch import Tensor

from wanexport.errors import BuildError
from wanexport.graph.fusible.forms import lower_for_tensorrt
from wanexport.graph.fusible.scaled_products import scale_products
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.lora.targets import select_modules
from wanexport.model.quantization import Format, find_format, select_quantized
from wanexport.weights.quantize import quantize

FP8, INT8 = (find_format(scheme, "tensorrt-rtx") for scheme in ("fp8", "int8"))
FORMS = [form for form in (FP8, INT8) if form]
BF16 = ir.DataType.BFLOAT16
ROWS, IN, OUT = 33, 640, 96


def round_to(scheme: str, x: Tensor) -> Tensor:
    """Round values of at most 448 or 127 to fp8 or to whole numbers."""
    if scheme == "int8":
        return x.round()
    small = 2.0 ** (torch.floor(torch.log2(x.abs().clamp(min=2.0**-6))) - 3)  # 3 bits of fraction
    return (x / small).round() * small


def oracle(x: Tensor, weight: Tensor, bias: Tensor, scheme: str) -> Tensor:
    """Quantise both sides by rows, in fp64, and multiply."""
    top = {"fp8": 448.0, "int8": 127.0}[scheme]
    sides = []
    for side in (x, weight):
        largest = side.abs().amax(1, keepdim=True).double()
        largest[largest == 0] = 1
        sides.append(round_to(scheme, side.double() / largest * top) * largest / top)
    return sides[0] @ sides[1].T + bias.double()


def one_product(x: Tensor, weight: Tensor, bias: Tensor, form: Format) -> ir.Model:
    """Return the graph of one linear layer, lowered, with what the product makes of its weight."""

    def value(name: str, shape: tuple[int, ...]) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    held = {"l.weight": weight, "l.bias": bias}
    inputs = [value("x", tuple(x.shape)), *(value(n, tuple(t.shape)) for n, t in held.items())]
    gemm = ir.node("Gemm", inputs, {"transB": 1}, name="blocks.0.l")
    behind = ir.node("Identity", gemm.outputs, name="behind")
    for node, name in ((gemm, "product"), (behind, "y")):
        node.outputs[0].name = name
        node.outputs[0].shape, node.outputs[0].type = ir.Shape((ROWS, OUT)), inputs[0].type
    graph = ir.Graph(
        inputs[:1],
        behind.outputs,
        nodes=[gemm, behind],
        initializers=inputs[1:],
        opset_imports={"": 23},
    )
    model = ir.Model(graph, ir_version=10)
    scale_products(model, BF16, ("l",), form)
    q, scale = quantize(weight, form)
    stored = {"l.weight": q, "l.weight_scale": scale, "l.bias": bias}
    for name, tensor in stored.items():
        initializer = model.graph.initializers[name]
        array = (
            tensor.view(torch.uint8).numpy().view(initializer.dtype.numpy())  # type: ignore[union-attr]
            if tensor.itemsize == 1
            else tensor.numpy()
        )
        initializer.const_value = ir.tensor(array, dtype=initializer.dtype, name=name)
    return model


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.scheme)
@pytest.mark.parametrize("case", ["normal", "outliers", "a row of zeros", "large values"])
def test_one_product_is_fake_quantisation_by_rows(case: str, form: Format) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(ROWS, IN, generator=generator)
    weight = torch.randn(OUT, IN, generator=generator) / IN**0.5
    bias = torch.randn(OUT, generator=generator)
    if case == "outliers":
        x[:, 7] *= 100
    elif case == "a row of zeros":
        x[3], weight[4] = 0, 0
    elif case == "large values":
        x, weight = torch.full_like(x, 6e4), torch.ones_like(weight)
    model = one_product(x, weight, bias, form)
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.numpy()})
    expected = oracle(x, weight, bias, form.scheme).numpy()
    assert np.linalg.norm(y - expected) <= 2e-4 * np.linalg.norm(expected)  # ties, rounded in fp32
    if case == "normal":
        exact = (x @ weight.T + bias).numpy()
        cost = np.linalg.norm(y - exact) / np.linalg.norm(exact)
        assert cost < {"fp8": 4e-2, "int8": 1.2e-2}[form.scheme]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_every_product_but_the_branches_is_of_8_bits(dtype: str) -> None:
    """Scales of Q and DQ are constant, and none feeds an attention: both builders' silent traps."""
    assert FP8 is not None
    cross = select_modules(I2V, "cross-attention")
    model = trace_graph(GraphSpec(I2V, SIZE, dtype, dict.fromkeys(cross, 4)))
    low = {"bf16": BF16, "fp16": ir.DataType.FLOAT16}[dtype]
    lower_for_tensorrt(model, low, (), select_quantized(I2V), FP8)
    layers = set(select_quantized(I2V))
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            step = node.inputs[1]
            assert step is not None
            assert step.const_value is not None
            assert (float(step.const_value.numpy()), step.dtype) == (2.0**-9, low)
            readers = {user.node.op_type for user in node.outputs[0].uses()}
            assert readers <= {"Gemm", "DequantizeLinear"}
        if node.op_type == "Gemm":
            narrow = {v.producer() and v.producer().op_type for v in node.inputs[:2] if v}  # type: ignore[union-attr]
            assert (narrow == {"DequantizeLinear"}) == (node.name in layers)
            layers.discard(node.name or "")
    assert not layers
    for names in (
        [node.name for node in model.graph],
        [value.name for node in model.graph for value in node.outputs],
    ):
        assert len(names) == len(set(names))


def test_what_reads_one_input_quantises_it_once() -> None:
    assert FP8 is not None
    model = trace_graph(GraphSpec(I2V, SIZE, "bf16"))
    lower_for_tensorrt(model, BF16, (), select_quantized(I2V), FP8)
    count = sum(node.op_type == "QuantizeLinear" for node in model.graph)
    # per block: q, k, v; out; q; k, v of text; of image; out; up; down. Text and image are one each
    assert count == I2V.num_layers * 6 + 2
    emulate(model)


def test_a_layer_without_a_product_is_a_bug_and_says_so() -> None:
    assert FP8 is not None
    model = trace_graph(GraphSpec(I2V, SIZE, "bf16"))
    with pytest.raises(BuildError, match=r"no product of blocks\.9"):
        lower_for_tensorrt(model, BF16, (), ("blocks.9.attn1.to_q",), FP8)
