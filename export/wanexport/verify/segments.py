"""Run a twin on an engine's own bytes: stem, blocks and head one after the other.

So neither side ever holds more than a block, and nothing is written. A graph of several cards is
run as all of them, joined.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from wanexport.errors import VerificationError
from wanexport.graph.cards import count_cards
from wanexport.graph.emulate import emulate
from wanexport.graph.join_cards import join_cards
from wanexport.graph.trace import OUTPUT_NAME
from wanexport.storage.dtypes import engine_dtype, onnx_dtype, torch_dtype
from wanexport.storage.tensor_file import TensorRef
from wanrt.machine.integers import saturates

if TYPE_CHECKING:
    from onnxruntime import OrtValue

__all__ = ["count_bytes", "iterate_segments", "run_segments"]


def run_segments(
    folder: Path,
    twin: ir.Model,
    layers: int,
    bound: Mapping[str, TensorRef],
    values: Sequence[Mapping[str, Tensor]],
    on_bytes: Callable[[int], None],
    *,
    emulated: bool = False,
) -> list[Tensor]:
    """Run stem, blocks and head one after the other and return the samples in fp32.

    Each is read once, and run with all `values`, which are inputs of a forward each. A bf16 graph
    is `emulated`; its inputs, and what passes between its pieces, are fp32 tensors.
    """
    *_, (_, samples) = iterate_segments(
        folder, twin, layers, bound, values, on_bytes, emulated=emulated
    )
    return [sample.float() for sample in samples]


def iterate_segments(
    folder: Path,
    twin: ir.Model,
    layers: int,
    bound: Mapping[str, TensorRef],
    values: Sequence[Mapping[str, Tensor]],
    on_bytes: Callable[[int], None],
    *,
    emulated: bool = False,
) -> Iterator[tuple[str, list[Tensor]]]:
    """Run a graph like `run_segments` and yield each piece's name and its outputs.

    Raises:
        VerificationError: cards return different samples.
    """
    cards = count_cards(twin)
    if cards > 1:
        twin = join_cards(twin)
    known = [dict(one) for one in values]
    run = partial(_run_segment, folder, twin, bound, known, on_bytes, emulated)
    x = _of_cards("stem", cards)
    run([*x, "time", *_block_inputs(twin, x)])
    yield "stem", [torch.cat([one[name] for name in x], -2) for one in known]
    for layer in range(layers):
        block = _of_cards(f"blocks.{layer}", cards)
        run(block)
        for one in known:
            for name in x:
                del one[name]
        x = block
        yield f"blocks.{layer}", [torch.cat([one[name] for name in x], -2) for one in known]
    samples = _of_cards(OUTPUT_NAME, cards)
    run(samples)
    first, *others = samples
    if not all(torch.equal(one[first], one[other]) for one in known for other in others):
        raise VerificationError("cards return different outputs", "this is a bug; report it")
    yield OUTPUT_NAME, [one[first] for one in known]


def _of_cards(name: str, cards: int) -> list[str]:
    """Return what a value is called on each card."""
    return [name] if cards == 1 else [f"{name}.card{index}" for index in range(cards)]


def count_bytes(twin: ir.Model, bound: Mapping[str, TensorRef]) -> int:
    """Return the bytes of all weights that `run_segments` will have run."""
    return sum(bound[name].nbytes for name in _open_values(twin.graph))


def _block_inputs(twin: ir.Model, tokens: Collection[str]) -> list[str]:
    """Name the stem's values, besides the tokens, that blocks read."""
    stem = {v.name for node in twin.graph if _scope(node) == "stem" for v in node.outputs}
    names: dict[str, None] = {}
    for node in twin.graph:
        if _scope(node) == "blocks":
            for value in node.inputs:
                if value is not None and value.name in stem and value.name not in tokens:
                    names[value.name or ""] = None
    return list(names)


def _scope(node: ir.Node) -> str:
    return (node.name or "").split(".")[0]


def _run_segment(
    folder: Path,
    twin: ir.Model,
    bound: Mapping[str, TensorRef],
    known: Sequence[dict[str, Tensor]],
    on_bytes: Callable[[int], None],
    emulated: bool,
    outputs: list[str],
) -> None:
    """Compute outputs of each of the `known` and add them to it."""
    import onnxruntime as ort

    graph = ir.convenience.extract(twin.graph, list(known[0]), outputs)
    model = ir.Model(graph, ir_version=twin.ir_version)
    model.opset_imports.update(twin.opset_imports)
    if emulated:
        model = emulate(model, fp32_edges=True)
    needed = [value.name or "" for value in model.graph.inputs]
    weights = _open_values(model.graph)
    options = ort.SessionOptions()
    if emulated:  # the pairs of casts are the rounding, and would be folded
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    if saturates():  # as the runtimes do
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    cast = _bind_segment(model.graph, folder, bound)
    if cast:
        options.add_external_initializers(list(cast), list(cast.values()))
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for values in known:
        results = session.run(outputs, {name: values[name].numpy() for name in needed})
        for name, result in zip(outputs, results, strict=True):
            values[name] = torch.from_numpy(np.asarray(result))
    on_bytes(sum(bound[name].nbytes for name in weights))


def _open_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return the initializers that the graph itself has no values of: the weights."""
    return {n: v for n, v in graph.initializers.items() if v.const_value is None}


def _bind_segment(
    graph: ir.Graph, folder: Path, bound: Mapping[str, TensorRef]
) -> dict[str, OrtValue]:
    """Bind a segment to the engine's bytes; return the values of those whose dtype differs."""
    from onnxruntime import OrtValue

    cast = {}
    for name, value in _open_values(graph).items():
        ref = bound[name]
        shape = ref.shape
        dtype = value.dtype or ir.DataType.FLOAT
        if onnx_dtype(ref.dtype) != dtype:
            weight = ref.read()
            shape = tuple(weight.shape)  # of a dequantised one
            array = weight.to(torch_dtype(engine_dtype(dtype))).contiguous().numpy()
            cast[name] = OrtValue.ortvalue_from_numpy(array)
        value.const_value = ir.ExternalTensor(
            ref.path.relative_to(folder).as_posix(),
            ref.offset,
            ref.nbytes,
            dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=str(folder),
        )
    return cast
