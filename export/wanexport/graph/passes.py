"""Graph passes over ONNX IR; each checks its own result.

Initializers keep their checkpoint names through all of them: that is how weights are bound, and how
TensorRT's refitter finds them. Values of weights are never looked at; they aren't there.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common

from wanexport.errors import BuildError
from wanexport.graph.cuda_forms import lower_for_cuda
from wanexport.graph.fusible.forms import lower_for_tensorrt
from wanexport.graph.names import stored_name
from wanexport.graph.quantize import quantize_linears
from wanexport.model.quantization import Format
from wanexport.storage.dtypes import onnx_dtype
from wanrt.manifest.schema import Backend

__all__ = [
    "accumulate_branches",
    "allow_decomposition",
    "check_graph",
    "clean",
    "lower_attention",
    "lower_for",
]

HINT = "TRT_"  # attributes that tell TensorRT's builder what it may do, not what to compute
FORBIDDEN = ("ScatterND", "SplitToSequence", "SequenceAt", "SequenceConstruct", "CastLike", "Conv")


def clean(model: ir.Model) -> None:
    """Fold what is constant without the weights, drop dead nodes and the exporter's metadata.

    The metadata holds stack traces with local paths.
    """
    named = {name for name, value in model.graph.initializers.items() if value.const_value is None}
    with quiet("onnx_ir.passes.common.initializer_deduplication"):  # warns of missing values
        onnxscript.optimizer.optimize_ir(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.meta.clear()
    lost = named - set(model.graph.initializers)
    if lost:
        raise BuildError(f"a graph pass lost the parameter {min(lost)}", "this is a bug; report it")


def accumulate_branches(model: ir.Model) -> None:
    """Let the second Gemm of a low-rank branch add to the base's output instead of an Add.

    It needs one node less and no copy of W. `benchmarks/lora_forms.py` measures it against two
    other forms; on a CPU none of the three is clearly ahead.
    """
    expected = sum(name.endswith(".lora_B") for name in model.graph.initializers)
    count = 0
    for node in list(model.graph):
        if node.op_type != "Add":
            continue
        base, branch = (value.producer() if value is not None else None for value in node.inputs)
        if base is None or branch is None or not _is_branch(branch):
            continue
        fused = ir.Node(
            "", "Gemm", [*branch.inputs[:2], base.outputs[0]], [branch.attributes["transB"]]
        )
        fused.outputs[0].name = node.outputs[0].name
        fused.outputs[0].shape, fused.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node, branch], [fused], [node.outputs[0]], [fused.outputs[0]]
        )
        count += 1
    if count != expected:
        raise BuildError(f"{count} of {expected} branches were joined", "this is a bug; report it")


def _is_branch(node: ir.Node) -> bool:
    """Tell whether a Gemm applies a lora_B, cast or not, and adds nothing yet."""
    values = [value for value in node.inputs if value is not None]
    if node.op_type != "Gemm" or len(values) != 2:
        return False
    return stored_name(values[1]).endswith("lora_B")


def lower_for(
    model: ir.Model,
    backend: Backend,
    dtype: str,
    joined: Collection[str] = (),
    quantized: Collection[str] = (),
    form: Format | None = None,
) -> ir.Model:
    """Lower a traced graph for what runs it, and return it.

    ONNX Runtime has its best attention kernels under its own operator: one that stores no scores on
    a CPU, and on a Hopper GPU cuDNN's, twice as fast as what it runs the standard one with. bf16
    never runs on its CPU provider, so such a graph is shaped for CUDA. TensorRT fuses the standard
    operators, if they stand where it looks for them.

    Args:
        model: the graph, or that of its fp32 twin.
        backend: what runs the engine.
        dtype: the engine's.
        joined: for TensorRT, layers whose low-rank branch becomes part of their own product.
        quantized: linear layers that become products of 8 bits.
        form: how they do.
    """
    if backend == "onnxruntime":
        if dtype == "bf16":
            lower_for_cuda(model)
        lower_attention(model)
        quantize_linears(model, quantized)
    elif dtype != "fp32":
        lower_for_tensorrt(model, onnx_dtype(dtype), joined, quantized, form)
    return model


def lower_attention(model: ir.Model) -> None:
    """Turn every ONNX Attention into com.microsoft.MultiHeadAttention.

    On a CPU (ONNX Runtime 1.32, 6,000 tokens, 4 heads of 128, fp32): 185 GFLOP/s and 60 MiB against
    159 GFLOP/s and 605 MiB, because `Attention` stores the scores. On an H200 (1.31, 32,760 tokens,
    40 heads, bf16): 41 ms a layer with cuDNN's kernel against 69 ms with flash-attention 2.
    """
    count = 0
    for node in model.graph:
        if node.op_type != "Attention" or node.domain:
            continue
        heads = node.attributes["q_num_heads"].as_int()
        scale = node.attributes["scale"].as_float()
        node.domain, node.op_type = "com.microsoft", "MultiHeadAttention"
        node.attributes.clear()
        node.attributes["num_heads"] = ir.AttrInt64("num_heads", heads)
        node.attributes["scale"] = ir.AttrFloat32("scale", scale)
        count += 1
    if count:
        model.graph.opset_imports["com.microsoft"] = 1
    if count_ops(model).get("Attention"):
        raise BuildError("an Attention was not lowered", "this is a bug; report it")


def allow_decomposition(model: ir.Model) -> None:
    """Let TensorRT compute an attention with separate kernels where it has no fused one."""
    for node in model.graph:
        if node.op_type == "Attention" and not node.domain:
            name = f"{HINT}decomposable"
            node.attributes[name] = ir.AttrInt64(name, 1)


def check_graph(model: ir.Model, attentions: int) -> None:
    """Check what every traced graph promises.

    One Attention op per attention, no op that TensorRT's parser refuses or that materializes a
    query-sized scatter, no float64, and no local path in the metadata.

    Raises:
        BuildError: a promise doesn't hold; the versions of torch and onnxscript are suspect.
    """
    ops = count_ops(model)
    problems = [op for op in FORBIDDEN if op in ops]
    if ops.get("Attention", 0) != attentions:
        problems.append(f"{ops.get('Attention', 0)} Attention ops instead of {attentions}")
    for value in _values(model.graph):
        if value.dtype in (ir.DataType.DOUBLE, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
            problems.append(f"{value.name} is {value.dtype.name}")
    if problems:
        raise BuildError(
            f"the traced graph has {problems[0]}",
            "this torch or onnxscript isn't supported; see constraints.txt for versions that are",
        )


def count_ops(model: ir.Model) -> dict[str, int]:
    """Return how many nodes of each type the graph has."""
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silence a library's logger and its warnings: they are about itself, not the user's model."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values()]
    return values + [value for node in graph for value in node.outputs]
