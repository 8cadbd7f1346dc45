"""From architecture and size to the ONNX graph of one forward, without touching a weight.

Stem, block and head are traced once each under FakeTensorMode, cleaned up while they are small, and
instantiated into one graph: the block once per layer, its parameters renamed to the checkpoint's
`blocks.N.*`. Memory and time don't depend on the number of layers or on the model's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeVar

import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import Dim

from wanexport.graph import passes
from wanexport.graph.dit import Block, Head, Stem, TimeEmbedding, attach_adapter, make_model
from wanexport.graph.names import name_graph, sort_initializers
from wanexport.model.config import TEXT_TOKENS, Architecture, Size
from wanexport.storage.dtypes import onnx_dtype, torch_dtype

__all__ = ["GraphSpec", "model_inputs", "trace_graph"]

OPSET = 23
IR_VERSION = 10
IMAGE_INPUT = "encoder_hidden_states_image"
OUTPUT_NAME = "sample"

_T = TypeVar("_T")
_Inputs = dict[str, tuple[tuple[int, ...], str]]  # name -> shape, dtype
_PIECES = {"stem": Stem, "block": Block, "head": Head}
_OPEN = ("batch", "frames", "height", "width", "tokens")  # dimensions that have a name
_STEM_OUTPUTS = ("tokens", "time", "modulation", "text", "cos", "sin", "image")


@dataclass(frozen=True)
class GraphSpec:
    """All that the graph of a forward depends on.

    Args:
        arch: the architecture.
        size: input sizes; of a dynamic graph, sizes to trace with.
        dtype: the engine's dtype: of linear layers, attention and the model's inputs and outputs.
        ranks: per module (diffusers name) the rank of its low-rank branch.
        storage: dtypes of the parameters that aren't stored in the engine's dtype.
        dynamic: whether batch, frames, height and width are left open.
        cards: over how many the finished graph is cut; the trace is of all tokens.
    """

    arch: Architecture
    size: Size
    dtype: str
    ranks: Mapping[str, int] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)
    dynamic: bool = False
    cards: int = 1


@dataclass(frozen=True)
class _PieceSpec:
    """What a traced piece depends on; equal pieces are traced once per process."""

    kind: Literal["stem", "block", "head"]
    arch: Architecture
    size: Size
    dtype: str
    ranks: tuple[tuple[str, int], ...]
    storage: tuple[tuple[str, str], ...]
    dynamic: bool


def trace_graph(spec: GraphSpec) -> ir.Model:
    """Return the graph of one forward; initializers carry checkpoint names and no values.

    Only what no checkpoint holds (shape constants, the rotary table) has a value. The inputs are
    those of `model_inputs`, the output is `sample`.

    Raises:
        BuildError: the exporter made something that `passes.check_graph` refuses.
    """
    graph = ir.Graph([], [], nodes=[], name="forward", opset_imports={"": OPSET})
    for name, (shape, dtype) in model_inputs(spec.arch, spec.size, spec.dtype).items():
        dims = _symbolic(name, shape) if spec.dynamic else shape
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(onnx_dtype(dtype)))
        graph.inputs.append(value)
    piece = _trace_piece(_piece_spec(spec, "stem", ""))
    stem_inputs = dict(zip((v.name or "" for v in piece.inputs), graph.inputs, strict=True))
    stem = _instantiate(graph, piece, "", "stem.", stem_inputs)
    state = dict(zip(_STEM_OUTPUTS, stem, strict=False))
    x = state.pop("tokens")
    x.name = "stem"
    time = state.pop("time")
    time.name = "time"
    for layer in range(spec.arch.num_layers):
        prefix = f"blocks.{layer}."
        piece = _trace_piece(_piece_spec(spec, "block", prefix))
        (x,) = _instantiate(graph, piece, prefix, prefix, {"x": x, **state})
        x.name = prefix.rstrip(".")
    head = {"x": x, "time": time, "hidden_states": graph.inputs[0]}
    piece = _trace_piece(_piece_spec(spec, "head", ""))
    (sample,) = _instantiate(graph, piece, "", "head.", head)
    sample.name = OUTPUT_NAME
    sample.shape = ir.Shape(_output_shape(spec))
    graph.outputs.append(sample)
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="wanexport")
    sort_initializers(graph)
    passes.check_graph(model, attentions=spec.arch.num_layers * (3 if "image" in state else 2))
    return model


def model_inputs(arch: Architecture, size: Size, dtype: str) -> _Inputs:
    """Return the engine's data inputs: name -> shape and dtype, in the graph's order."""
    inputs: _Inputs = {
        "hidden_states": ((size.batch, arch.in_channels, *size.latent), dtype),
        "timestep": ((size.batch,), "fp32"),
        "encoder_hidden_states": ((size.batch, TEXT_TOKENS, arch.text_dim), dtype),
    }
    if arch.image_dim is not None:
        inputs[IMAGE_INPUT] = ((size.batch, arch.image_tokens, arch.image_dim), dtype)
    return inputs


def _piece_spec(spec: GraphSpec, kind: Literal["stem", "block", "head"], prefix: str) -> _PieceSpec:
    ranks, storage = _below(spec.ranks, prefix), _below(spec.storage, prefix)
    if kind != "block":  # what the blocks adapt doesn't tell two stems apart
        ranks = {k: v for k, v in ranks.items() if not k.startswith("blocks.")}
        storage = {k: v for k, v in storage.items() if not k.startswith("blocks.")}
    size = spec.size
    if spec.dynamic and size.batch == 1:  # an example batch of 1 is baked into reshapes
        size = size.model_copy(update={"batch": 2})
    return _PieceSpec(
        kind,
        spec.arch.model_copy(update={"num_layers": 1}),
        size,
        spec.dtype,
        tuple(sorted(ranks.items())),
        tuple(sorted(storage.items())),
        spec.dynamic,
    )


@lru_cache(maxsize=64)
def _trace_piece(spec: _PieceSpec) -> ir.Graph:
    inputs = _piece_inputs(spec)
    rope, time_embedding = _rotary(spec.arch), TimeEmbedding(spec.arch)  # no fake values
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = make_model(spec.arch, layers=1)
        model.rope = rope
        model.condition_embedder.timesteps_proj = time_embedding
        piece = _PIECES[spec.kind](model).eval()
        modules = {name for name, _ in piece.named_modules()}
        attach_adapter(piece, {name: rank for name, rank in spec.ranks if name in modules})
        _set_dtypes(piece, spec.dtype, dict(spec.storage))
        arguments = {
            name: torch.empty(shape, dtype=torch_dtype(dtype))
            for name, (shape, dtype) in inputs.items()
        }
        with passes.quiet("torch.onnx._internal.exporter._registration"):
            program = torch.onnx.export(
                piece,
                (),
                kwargs=arguments,
                dynamic_shapes=_dynamic_shapes(inputs) if spec.dynamic else None,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                verbose=False,
            )
    assert program is not None
    for value in program.model.graph.initializers.values():
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):
            value.const_value = None
    passes.clean(program.model)
    passes.accumulate_branches(program.model)
    name_graph(program.model.graph, _OPEN)
    return program.model.graph


def _piece_inputs(spec: _PieceSpec) -> _Inputs:
    arch, size, dtype = spec.arch, spec.size, spec.dtype
    outer = model_inputs(arch, size, dtype)
    if spec.kind == "stem":
        names = ("hidden_states", "timestep", "text", "image")
        return dict(zip(names, outer.values(), strict=False))
    x = (size.batch, size.tokens, arch.width)
    if spec.kind == "head":
        time = (size.batch, arch.width)
        return {"x": (x, dtype), "time": (time, dtype), "hidden_states": outer["hidden_states"]}
    table = (size.batch, size.tokens, arch.attention_head_dim // 2)
    inputs: _Inputs = {
        "x": (x, dtype),
        "modulation": ((size.batch, 6, arch.width), dtype),
        "text": ((size.batch, TEXT_TOKENS, arch.width), dtype),
        "cos": (table, "fp32"),
        "sin": (table, "fp32"),
    }
    if arch.image_dim is not None:
        inputs["image"] = ((size.batch, arch.image_tokens, arch.width), dtype)
    return inputs


def _set_dtypes(piece: nn.Module, dtype: str, storage: Mapping[str, str]) -> None:
    for name, parameter in list(piece.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        stored = torch_dtype(storage.get(name, dtype))
        empty = nn.Parameter(torch.empty(parameter.shape, dtype=stored), requires_grad=False)
        setattr(piece.get_submodule(owner), attribute, empty)


def _instantiate(
    graph: ir.Graph, piece: ir.Graph, prefix: str, scope: str, inputs: Mapping[str, ir.Value]
) -> list[ir.Value]:
    """Append a copy of `piece` to `graph` and return its outputs.

    Parameters get `prefix`, nodes and their outputs get `scope`, so that names stay unique. A
    constant's name says what it is, so that all pieces share it.
    """
    copy = piece.clone()
    outputs = list(copy.outputs)
    copy.outputs.clear()
    for value in copy.inputs:
        assert value.name is not None
        ir.convenience.replace_all_uses_with(value, inputs[value.name])
    for name, value in list(copy.initializers.items()):
        del copy.initializers[name]
        if value.const_value is None:
            value.name = prefix + name
        elif (known := graph.initializers.get(name)) is not None:
            ir.convenience.replace_all_uses_with(value, known)
            continue
        graph.initializers[value.name or ""] = value
    nodes = list(copy)
    for node in nodes:
        node.name = f"{scope}{node.name}"
        for value in node.outputs:
            value.name = f"{scope}{value.name}"
    copy.remove(nodes)
    graph.extend(nodes)
    return outputs


def _rotary(arch: Architecture) -> nn.Module:
    """Return diffusers' rotary module with its tables as [positions, head_dim / 2] in fp32.

    diffusers repeats every frequency twice, once for each half of its pair.
    """
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    rope: nn.Module = WanRotaryPosEmbed(arch.attention_head_dim, (1, 2, 2), arch.rope_max_seq_len)
    for name, first in (("freqs_cos", 0), ("freqs_sin", 1)):
        setattr(rope, name, rope.get_buffer(name)[:, first::2].clone())
    return rope


def _below(mapping: Mapping[str, _T], prefix: str) -> dict[str, _T]:
    return {k[len(prefix) :]: v for k, v in mapping.items() if k.startswith(prefix)}


def _dynamic_shapes(inputs: _Inputs) -> dict[str, dict[int, object]]:
    batch, frames, rows, columns, tokens = (
        Dim(name, min=1) for name in ("batch", "frames", "rows", "columns", "tokens")
    )
    open_dims: dict[str, dict[int, object]] = {
        "hidden_states": {0: batch, 2: frames, 3: 2 * rows, 4: 2 * columns},
        "x": {0: batch, 1: tokens},
        "cos": {0: batch, 1: tokens},
        "sin": {0: batch, 1: tokens},
    }
    return {name: open_dims.get(name, {0: batch}) for name in inputs}


def _output_shape(spec: GraphSpec) -> tuple[int | str, ...]:
    shape = (spec.size.batch, spec.arch.out_channels, *spec.size.latent)
    return _symbolic("hidden_states", shape) if spec.dynamic else shape


def _symbolic(name: str, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    if name == "hidden_states":
        return ("batch", shape[1], "frames", "height", "width")
    return ("batch", *shape[1:])
