"""What an engine folder holds besides its graph: weights, and the adapters that ship with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from wanexport.build.sources import AdapterSet
from wanexport.build.targets import Target
from wanexport.graph.trace import GraphSpec
from wanexport.lora.adapter import at_full_strength, touched_parameters
from wanexport.lora.canonical import write_adapter
from wanexport.model.names import computes_in_fp32
from wanexport.model.quantization import scale_name
from wanexport.storage.dtypes import ENGINE_DTYPES
from wanexport.storage.hashes import sha256_file
from wanexport.storage.tensor_file import StoredTensor
from wanexport.storage.values import one_thread
from wanexport.weights.parameters import EngineParameters
from wanexport.weights.quantize import is_quantized, quantize, quantize_refs, specify
from wanexport.weights.store import WeightStore
from wanrt.manifest.schema import AdapterFile
from wanrt.storage.dtypes import SAFETENSORS

__all__ = ["list_parameters", "ship_adapters", "specify_graph", "write_weights"]


def specify_graph(target: Target) -> GraphSpec:
    """Say what to trace: what the graph reads in fp32 is stored as the checkpoint has it."""
    config = target.config
    storage = {
        name: ENGINE_DTYPES[ref.dtype]
        for name, ref in target.weights.made.tensors.items()
        if computes_in_fp32(name) and ENGINE_DTYPES[ref.dtype] != config.dtype
    }
    return GraphSpec(
        config.architecture, config.size, config.dtype, target.ranks, storage, target.dynamic,
        target.cards,
    )  # fmt: skip


def list_parameters(target: Target, spec: GraphSpec) -> list[EngineParameters]:
    """Return what an engine computes with, for each adapter that it can run with."""
    return [_parameters(target, spec, adapters) for adapters in target.carried]


def _parameters(target: Target, spec: GraphSpec, adapters: AdapterSet | None) -> EngineParameters:
    checkpoint = target.weights.made
    dtypes = {name: SAFETENSORS[spec.storage.get(name, spec.dtype)] for name in checkpoint.tensors}
    quantized, form = frozenset(target.quantized), target.form
    dtypes |= {f"{module}.weight": "F32" for module in quantized}  # rounded once, to 8 bits
    if adapters is None or target.mode == "merged":
        merged = adapters.adapters if adapters else ()
        return EngineParameters(checkpoint.tensors, dtypes, merged, quantized=quantized, form=form)
    branch_dtype = SAFETENSORS[spec.dtype]
    carried, strengths = adapters.carried, None
    if target.mode == "swappable":  # strengths are given at run time
        strengths = tuple(adapter.strength for adapter in carried)
        carried = tuple(at_full_strength(adapter) for adapter in carried)
    return EngineParameters(
        checkpoint.tensors, dtypes, adapters.rest, carried, branch_dtype, strengths, quantized, form
    )


def write_weights(store: WeightStore, target: Target, parameters: EngineParameters) -> None:
    """Reference what doesn't change, and write what does, one tensor at a time."""
    changed = touched_parameters(parameters.merged)
    _reference_layers(store, target, changed)
    if changed:
        names = [name for name in parameters.refs if name in changed]
        shapes = {name: parameters.refs[name].shape for name in names}
        specs: list[StoredTensor] = []
        for name in names:
            if parameters.form and is_quantized(name, parameters.quantized):
                specs += specify(name, shapes[name], parameters.form)
            else:
                specs.append(StoredTensor(name, parameters.dtypes[name], shapes[name]))
        store.write("merged", specs, _merged(parameters, names))
    if target.mode == "separate":
        branch_specs = list(chain.from_iterable(parameters.branch_specs(target.ranks)))
        store.write("adapter", branch_specs, _branches(target, parameters))


def _reference_layers(store: WeightStore, target: Target, changed: Collection[str]) -> None:
    """Bind each layer's tensors to its own files, so that the layers below stay the base's."""
    dtype = SAFETENSORS[target.config.dtype]
    layers = target.weights.made.layers
    trained = [layer for layer in layers if layer.origin is None][-1]
    for layer in layers:
        quantized = set(target.quantized)
        refs = quantize_refs(layer.tensors, quantized, target.form)
        dtypes = {
            name: ref.dtype if computes_in_fp32(name) or name not in layer.tensors else dtype
            for name, ref in refs.items()
        }
        dtypes |= {name: refs[name].dtype for name in refs if is_quantized(name, quantized)}
        origin = layer.origin or (target.weights.origin if layer is trained else "base")
        store.reference(
            refs, dtypes, dtype, origin, _with_scales(changed), _with_scales(layer.hidden)
        )


def _with_scales(names: Collection[str]) -> set[str]:
    """Return parameters' names and those of their scales, whether they have any or not."""
    return {*names, *(scale_name(name) for name in names)}


def _merged(parameters: EngineParameters, names: list[str]) -> Iterator[Tensor]:
    with one_thread():
        for name in names:
            if parameters.form and is_quantized(name, parameters.quantized):
                blocks = [block.clone() for block in parameters.stored(name)]
                yield from quantize(torch.cat(blocks), parameters.form)
            else:
                yield from parameters.stored(name)


def _branches(target: Target, parameters: EngineParameters) -> Iterator[Tensor]:
    for module, rank in target.ranks.items():
        branch = parameters.branch(module)
        assert branch is not None
        down, up = branch
        more = rank - len(down)
        yield pad(down, (0, 0, 0, more))
        yield pad(up, (0, more))


def ship_adapters(
    draft: Path, target: Target, on_bytes: Callable[[int], None]
) -> tuple[AdapterFile, ...]:
    """Write the adapters a swappable engine was asked with into its folder, canonically."""
    if target.mode != "swappable":
        return ()
    files = []
    (draft / "adapters").mkdir()
    for stack, adapters in enumerate(target.adapters):
        for file, adapter in adapters.files:
            path = draft / file
            rank = write_adapter(
                [adapter],
                path,
                target.config.dtype,
                max_rank=target.max_rank,
                targets=list(target.ranks),
                on_bytes=on_bytes,
            )
            files.append(
                AdapterFile(
                    file=file,
                    rank=rank,
                    bytes=path.stat().st_size,
                    sha256=sha256_file(path),
                    strength=adapter.strength,
                    stack=stack,
                )
            )
    return tuple(files)
