"""What every traced graph promises, at full scale: no weight is ever touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from studies import FLF2V, I2V, I2V_14B, OTHER_SIZES, SIZE, T2V

from wanexport.errors import BuildError
from wanexport.graph import passes
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.lora.targets import select_modules
from wanexport.model.config import Architecture, Size, load_config
from wanexport.model.names import module_shapes
from wanexport.verify.twin import same_structure, small_spec, twin_size, twin_spec

SIZE_480P = Size(width=832, height=480, frames=81)
CUDA_KERNELS = Path(__file__).parent / "data" / "ort-1.31-cuda-kernels.json"


def lower(model: ir.Model, dtype: str) -> ir.Model:
    return passes.lower_for(model, "onnxruntime", dtype)


def spec(arch: Architecture, dtype: str = "bf16", rank: int = 0, **options: object) -> GraphSpec:
    ranks = dict.fromkeys(select_modules(arch, "cross-attention"), rank) if rank else {}
    size = options.pop("size", SIZE_480P)
    return GraphSpec(arch, size, dtype, ranks, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def full_scale() -> ir.Model:
    return trace_graph(spec(I2V_14B, rank=32))


@pytest.mark.parametrize(
    "name",
    ["wan2.1-i2v-demo", "wan2.1-t2v-1.3b-480p", "wan2.1-i2v-14b-480p", "wan2.1-flf2v-14b-720p"],
)
def test_initializers_are_the_checkpoint_by_name_and_shape(name: str) -> None:
    config = load_config(name)
    model = trace_graph(GraphSpec(config.architecture, config.size, config.dtype))
    unbound = {n: v for n, v in model.graph.initializers.items() if v.const_value is None}
    assert {n: v.shape and tuple(v.shape.numpy()) for n, v in unbound.items()} == module_shapes(
        config.architecture
    )


def test_full_scale_graph_has_no_weights_and_safe_ops(full_scale: ir.Model) -> None:
    ops = passes.count_ops(full_scale)
    assert ops["Attention"] == 3 * 40
    assert not {"ScatterND", "SplitToSequence", "SequenceAt", "CastLike", "Conv"} & set(ops)
    assert "MatMul" not in ops  # every Linear is a Gemm
    assert ops["Gemm"] == 40 * (4 + 6 + 2 + 2 * 6) + 8 + 1  # the 6 branches have two each
    constants = [v.const_value for v in full_scale.graph.initializers.values() if v.const_value]
    assert sum(tensor.nbytes for tensor in constants) < 1 << 20
    assert full_scale.ir_version == 10
    assert full_scale.graph.opset_imports == {"": 23}


def test_scale_of_attention_is_one_and_exact(full_scale: ir.Model) -> None:
    scales = {
        node.attributes["scale"].as_float()
        for node in full_scale.graph
        if node.op_type == "Attention"
    }
    assert scales == {1.0}


def test_metadata_holds_no_paths(full_scale: ir.Model) -> None:
    full_scale_proto = ir.serde.serialize_model(_without_parameters(full_scale))
    data = full_scale_proto.SerializeToString()
    assert len(data) < 4 << 20
    for word in (b"site-packages", b"/root", b"/home", b"stack_trace", b"pkg.torch"):
        assert word not in data


def _without_parameters(model: ir.Model) -> ir.Model:
    graph = model.graph.clone()
    for name, value in list(graph.initializers.items()):
        if value.const_value is None:
            del graph.initializers[name]
            graph.inputs.append(value)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_every_node_has_a_cuda_kernel(dtype: str, dynamic: bool) -> None:
    """Against ONNX Runtime 1.31.1's own registry of its CUDA provider."""
    kernels: dict[str, list[dict[str, list[str]]]] = json.loads(CUDA_KERNELS.read_text())
    model = lower(trace_graph(spec(I2V, dtype, 8, size=SIZE, dynamic=dynamic)), dtype)
    missing = set()
    for node in model.graph:
        key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        types = _type_constraints(node)
        if not any(_fits(kernel, types) for kernel in kernels.get(key, [])):
            missing.add((key, tuple(sorted(types.items()))))
    assert not missing


def _type_constraints(node: ir.Node) -> dict[str, str]:
    if node.domain:
        assert node.inputs[0] is not None and node.inputs[0].dtype is not None
        return {"T": _name(node.inputs[0].dtype)}
    schema = onnx.defs.get_schema(node.op_type, 23)
    formal = [(f, v) for f, v in zip(schema.inputs, node.inputs, strict=False) if v is not None]
    formal += list(zip(schema.outputs, node.outputs, strict=False))
    return {f.type_str: _name(v.dtype) for f, v in formal if v.dtype is not None}


def _fits(kernel: dict[str, list[str]], types: dict[str, str]) -> bool:
    return all(types[name] in allowed for name, allowed in kernel.items() if name in types)


def _name(dtype: ir.DataType) -> str:
    return dtype.name.lower()


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [(I2V, "fp32"), (I2V, "fp16"), (I2V, "bf16"), (T2V, "fp16"), (FLF2V, "bf16")],
    ids=["i2v-fp32", "i2v-fp16", "i2v-bf16", "t2v-fp16", "flf2v-bf16"],
)
def test_twin_has_the_engines_structure(arch: Architecture, dtype: str) -> None:
    engine = spec(arch, dtype, 4, size=Size(width=832, height=480, frames=17))
    model = lower(trace_graph(engine), dtype)
    same_structure(model, lower(trace_graph(twin_spec(engine)), dtype))
    same_structure(model, lower(trace_graph(small_spec(engine)), dtype), casts=True)


def test_a_twin_of_other_casts_is_refused_where_they_count() -> None:
    engine, twin = (trace_graph(spec(T2V, dtype, size=SIZE)) for dtype in ("bf16", "fp32"))
    same_structure(engine, twin)
    with pytest.raises(BuildError, match="another graph"):
        same_structure(engine, twin, casts=True)


def test_twin_of_another_structure_is_refused() -> None:
    with pytest.raises(BuildError, match="another graph"):
        same_structure(trace_graph(spec(T2V, size=SIZE)), trace_graph(spec(T2V, rank=4, size=SIZE)))


@pytest.mark.parametrize("size", [SIZE_480P, SIZE, *OTHER_SIZES], ids=lambda s: s.name)
def test_twin_size_is_small(size: Size) -> None:
    assert 0 < twin_size(I2V, size).tokens <= 1024
    twin = twin_size(I2V_14B, size)
    assert 0 < twin.tokens <= 256
    assert twin.width % 16 == twin.height % 16 == 0


def test_tracing_takes_no_memory_for_the_weights() -> None:
    """The 40 layers hold 65 GB in fp32; the trace gets 1.5 GiB of anonymous memory."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (3 << 29, 3 << 29));"
        "from studies import I2V_14B; from test_trace import spec;"
        "from wanexport.graph.trace import trace_graph; trace_graph(spec(I2V_14B, 'fp32', 32))"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PYTHONPATH": ":".join(paths), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
