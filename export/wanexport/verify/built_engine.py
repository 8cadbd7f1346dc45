"""A finished engine folder, read back: its architecture, graph, weights, and a twin of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from pydantic import ValidationError
from torch import Tensor

from wanexport.errors import BuildError
from wanexport.graph import passes
from wanexport.graph.cards import cut_for_cards
from wanexport.graph.fusible.joined_branches import joined_modules
from wanexport.graph.join import join_graphs
from wanexport.graph.split import split_graph
from wanexport.graph.swappable import STRENGTHS, make_swappable
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.model.config import Architecture, Size
from wanexport.model.names import computes_in_fp32
from wanexport.model.quantization import Format, find_format, scale_name
from wanexport.storage.dtypes import ENGINE_DTYPES, NARROW, onnx_dtype, torch_dtype
from wanexport.storage.tensor_file import TensorRef
from wanexport.verify.twin import same_structure, twin_spec
from wanexport.weights.quantize import dequantize
from wanrt.engine.stack import Stack, read_stack
from wanrt.errors import EngineError
from wanrt.manifest.fields import ADAPTER_ROLES
from wanrt.manifest.folder import EngineFolder
from wanrt.manifest.schema import Workload

__all__ = ["BuiltEngine", "open_built", "size_of"]


@dataclass(frozen=True)
class BuiltEngine:
    """A finished engine.

    Args:
        folder: its folder.
        arch: the architecture that engine.json names.
        graph: its graph; of a split engine both, joined.
        weights: where the bytes of the graph's weights are, by name.
        adapter: values of a swappable engine's inputs, padded, and its strengths; zeros without an
            adapter.
    """

    folder: EngineFolder
    arch: Architecture
    graph: ir.Model
    weights: Mapping[str, TensorRef]
    adapter: Mapping[str, Tensor] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """Return a parameter as it is stored.

        Raises:
            EngineError: the graph doesn't have it.
        """
        if name not in self.weights:
            raise EngineError(
                f"{self.folder.path}: the graph has no weights {name}", "rebuild the engine"
            )
        value = self.weights[name].read()
        if name in self._quantized:
            assert self._form is not None
            return dequantize(value, self.weights[scale_name(name)].read(), self._form)
        return value

    @property
    def _form(self) -> Format | None:
        manifest = self.folder.manifest
        quantization = manifest.quantization
        return find_format(quantization.scheme, manifest.backend) if quantization else None

    @property
    def _quantized(self) -> list[str]:
        return [name for name in self.weights if scale_name(name) in self.weights]

    def effective(self, name: str) -> Tensor:
        """Return a parameter in fp32 with its branch folded in: W + B A."""
        weight = self.read(name).float()
        module = name.removesuffix(".weight")
        down, up = (self._branch(f"{module}.{role}") for role in ("lora_A", "lora_B"))
        if name.endswith(".weight") and down is not None and up is not None:
            strengths = self.adapter.get(STRENGTHS)
            if strengths is not None:
                down = down * strengths[:, None]
            weight = weight + (up @ down).reshape(weight.shape)
        return weight

    def _branch(self, name: str) -> Tensor | None:
        if name in self.weights:
            return self.weights[name].read().float()
        return self.adapter[name].float() if name in self.adapter else None

    def spec(self, size: Size) -> GraphSpec:
        """Return what the engine's graph was traced from, at another size."""
        manifest = self.folder.manifest
        branches = {name: ref.shape for name, ref in self.weights.items()}
        branches |= {name: tuple(value.shape) for name, value in self.adapter.items()}
        ranks = {
            name.removesuffix(".lora_A"): shape[0]
            for name, shape in branches.items()
            if name.endswith(".lora_A")
        }
        storage = {
            name: ENGINE_DTYPES[ref.dtype]
            for name, ref in self.weights.items()
            if computes_in_fp32(name) and ENGINE_DTYPES[ref.dtype] != manifest.dtype
        }
        dynamic = any(
            isinstance(dim, str) for spec in manifest.forward.inputs for dim in spec.shape
        )
        return GraphSpec(self.arch, size, manifest.dtype, ranks, storage, dynamic, manifest.cards)

    def make_twin(self, size: Size) -> ir.Model:
        """Trace the engine's graph again at a size that a CPU can run, in fp32 or fp16.

        Raises:
            EngineError: this release of wanexport makes another graph.
        """
        manifest, spec = self.folder.manifest, self.spec(size)
        joined = joined_modules(self.graph)
        traced = trace_graph(twin_spec(spec))
        quantized = [name.removesuffix(".weight") for name in self._quantized]
        twin = passes.lower_for(
            traced, manifest.backend, manifest.dtype, joined, quantized, self._form
        )
        if manifest.max_rank is not None:
            names = [name for name in self.adapter if name != STRENGTHS]
            make_swappable(twin, names, manifest.max_rank, manifest.backend, manifest.dtype)
        if manifest.cards > 1:
            cut_for_cards(twin, manifest.cards)
        if manifest.is_split:
            split_graph(twin)  # which reads the batch where the engine's graphs do
        try:
            same_structure(self.graph, twin)
        except BuildError:
            raise EngineError(
                f"{self.folder.path}: this release of wanexport makes another graph of it, so its "
                "blocks can't be run one by one",
                f"leave out --blocks, or rebuild it: {manifest.rebuild_command}",
            ) from None
        return twin


def open_built(folder: EngineFolder, adapter: Path | None = None) -> BuiltEngine:
    """Read a finished engine's graph, without its weights.

    Args:
        folder: the engine folder.
        adapter: a canonical adapter; an engine that can't swap ignores it.

    Raises:
        EngineError: engine.json's architecture isn't one of this release's, or the graph reads
            bytes from outside the recorded files.
        AdapterError: the engine can't take the adapter.
    """
    manifest = folder.manifest
    try:
        arch = Architecture.model_validate(manifest.config.get("architecture"))
    except ValidationError:
        raise EngineError(
            f"{folder.path}: engine.json's config has no architecture of this release's",
            "rebuild the engine with this release's wanexport",
        ) from None
    graph = _load_graph(folder)
    stack = Stack()
    if adapter is not None and manifest.adapter_inputs:
        stack = read_stack(adapter, folder.path, manifest)
    values = {}
    fed = {spec.name: spec for graph in manifest.graphs.values() for spec in graph.inputs}
    for spec in fed.values():
        if spec.role in (*ADAPTER_ROLES, STRENGTHS):
            array = np.zeros([dim for dim in spec.shape if isinstance(dim, int)], np.float32)
            stack.write(spec, array)
            values[spec.name] = torch.from_numpy(array).to(torch_dtype(spec.dtype))
    weights = _locate_weights(folder, graph.graph)
    _read_constants(folder, graph.graph, weights)
    return BuiltEngine(folder, arch, graph, weights, values)


def _load_graph(folder: EngineFolder) -> ir.Model:
    graphs = folder.manifest.graphs
    names = ("context", "denoise") if folder.manifest.is_split else ("forward",)
    first, *others = (ir.load(folder.path / graphs[name].file) for name in names)
    return join_graphs(first, others[0]) if others else first


def size_of(workload: Workload) -> Size:
    """Return a workload's size."""
    return Size(
        width=workload.width,
        height=workload.height,
        frames=workload.frames,
        batch=workload.batch,
    )


def _read_constants(
    folder: EngineFolder, graph: ir.Graph, weights: Mapping[str, TensorRef]
) -> None:
    """Put the constants' values into a graph; onnx-ir reads no file that has several hard links."""
    constants = {f.file for f in folder.manifest.weights if f.origin == "constants"}
    for name, ref in weights.items():
        if ref.path.relative_to(folder.path).as_posix() in constants:
            values = ref.read().numpy()
            graph.initializers[name].const_value = ir.tensor(values, name=name)


def _locate_weights(folder: EngineFolder, graph: ir.Graph) -> dict[str, TensorRef]:
    """Return the byte range of every weight that a graph reads, by its name."""
    stored = {onnx_dtype(name): name for name in (*ENGINE_DTYPES, *NARROW)}
    files = {file.file: file.bytes for file in folder.manifest.weights}
    found = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        offset, length = tensor.offset or 0, tensor.length or 0
        shape = tuple(tensor.shape.numpy())
        path = folder.path / str(tensor.location)
        dtype = stored.get(tensor.dtype)
        ref = TensorRef(name, dtype or "U8", shape, path, offset)
        within = offset + length <= files.get(str(tensor.location), -1)
        if dtype is None or length != ref.nbytes or not within:
            raise EngineError(
                f"{folder.path}: the graph reads {name} from outside the recorded weight files",
                "rebuild the engine",
            )
        found[name] = ref
    return found
