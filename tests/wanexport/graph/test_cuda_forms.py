"""The forms that a bf16 graph has for ONNX Runtime's CUDA provider."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from emulated import run_emulated
from studies import I2V, SIZE, build

from wanexport.graph import passes
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.lora.targets import select_modules
from wanexport.model.config import Size
from wanexport.rivals import load_eager
from wanrt.bench.loading.jobs import LoadJob
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.fields import Dtype
from wanrt.manifest.folder import open_folder

BATCH = SIZE.model_copy(update={"batch": 2})


@cache
def lowered(dtype: str = "bf16", batch: int = 1, rank: int = 4) -> ir.Model:
    ranks = dict.fromkeys(select_modules(I2V, "cross-attention"), rank)
    size = SIZE if batch == 1 else BATCH
    return passes.lower_for(trace_graph(GraphSpec(I2V, size, dtype, ranks)), "onnxruntime", dtype)


def nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op_type]


def inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


@pytest.mark.parametrize("batch", [1, 2])
def test_nothing_as_large_as_the_tokens_is_fp32(batch: int) -> None:
    model = lowered(batch=batch)
    shape = [batch, SIZE.tokens, I2V.width]
    wide = [v.name for n in model.graph for v in n.outputs
            if v.dtype == ir.DataType.FLOAT and list(v.shape or ()) == shape]  # fmt: skip
    assert not wide


def test_modulation_is_the_layernorms_scale_and_bias() -> None:
    norms = [
        n for n in nodes(lowered(), "LayerNormalization") if (n.name or "").startswith("blocks.")
    ]
    assert len(norms) == 3 * I2V.num_layers
    assert all(len(norm.inputs) == 3 for norm in norms)
    assert len(nodes(lowered(), "Mul")) == len(nodes(lowered(batch=2), "Mul")) - 2 * 2 - 1


def test_the_query_norms_weight_is_the_checkpoints() -> None:
    model = lowered()
    scales = {n.attributes["scale"].as_float() for n in nodes(model, "MultiHeadAttention")}
    assert list(scales) == [pytest.approx(I2V.attention_head_dim**-0.5)]
    weights = {inputs(norm)[1].name for norm in nodes(model, "RMSNormalization")}
    assert {f"blocks.{i}.attn1.norm_q.weight" for i in range(I2V.num_layers)} <= weights


def test_names_stay_unique_and_parameters_keep_theirs() -> None:
    plain = trace_graph(GraphSpec(I2V, SIZE, "bf16"))
    model = passes.lower_for(trace_graph(GraphSpec(I2V, SIZE, "bf16")), "onnxruntime", "bf16")
    unbound = [{n for n, v in m.graph.initializers.items() if v.const_value is None}
               for m in (plain, model)]  # fmt: skip
    assert unbound[0] == unbound[1]
    names = [v.name for node in model.graph for v in node.outputs]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_other_dtypes_stay_as_traced(dtype: str) -> None:
    norms = nodes(lowered(dtype), "LayerNormalization")
    assert {inputs(norm)[0].dtype for norm in norms} == {ir.DataType.FLOAT}


@pytest.mark.parametrize("size", [SIZE, BATCH], ids=["one video", "two"])
def test_a_bf16_graph_is_as_near_fp32_as_torch_is(tmp_path: Path, size: Size) -> None:
    """diffusers' model with the engine's weights is the reference, in fp32 and in bf16."""
    (built,) = build(tmp_path, modes=("full",), dtype="bf16", size=size, verify=False)
    engine = open_folder(built.path)
    (workload,) = engine.manifest.workloads
    feeds = make_inputs(engine.manifest, engine.manifest.workloads[workload], seed=0)

    def diffusers(dtype: Dtype) -> np.ndarray:
        rival = load_eager(LoadJob(engine, workload), dtype=dtype)
        rival.time_forward()
        assert rival.sample is not None
        return rival.sample.double().numpy()

    expected, own = diffusers("fp32"), diffusers("bf16")
    error = np.linalg.norm(run_emulated(built.path, feeds) - expected)
    assert error <= 1.25 * np.linalg.norm(own - expected)
