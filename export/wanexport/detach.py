"""`wanexport detach`: an engine folder that shares its bytes with no other file.

onnx (from 1.21), onnx-ir and what stands on them refuse external data in files of several links as
"a potential hardlink attack"; an engine's weights usually are such files. A detached folder holds
what its graphs read, once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from wanexport.build.folder import publish
from wanexport.build.tensorrt_plan import describe_ranges
from wanexport.errors import BuildError
from wanexport.graph.emulate import emulate
from wanexport.storage.disk import check_disk, check_out
from wanexport.storage.drafts import draft_folder, sweep_drafts
from wanexport.storage.dtypes import engine_dtype, itemsize
from wanexport.storage.hashes import sha256_file
from wanexport.storage.links import copy_file
from wanexport.storage.tensor_file import TensorRef
from wanexport.weights.pool import Pool
from wanexport.weights.store import WeightStore
from wanrt.errors import WanrtError
from wanrt.manifest.contents import check_contents
from wanrt.manifest.fields import File
from wanrt.manifest.folder import EngineFolder, check_files, open_folder
from wanrt.manifest.plan import PlanFile, WeightRange
from wanrt.manifest.read import MANIFEST_NAME
from wanrt.manifest.schema import Graph
from wanrt.storage.dtypes import SAFETENSORS
from wanrt.storage.files import real_path
from wanrt.terminal.progress import Reporter

__all__ = ["detach_engine"]

Refs = dict[str, TensorRef]


def detach_engine(engine: Path, output: Path, reporter: Reporter, *, force: bool) -> int:
    """Copy an engine together with the bytes that it reads, and return how many bytes that were.

    Args:
        engine: the folder to read.
        output: the folder to make, whole or not at all; `engine` itself with `force`.
        reporter: receives progress.
        force: an engine that is there makes way.

    Raises:
        BuildError: the engine isn't as recorded, the disk is too small, or the output exists or
            would be inside an engine.
    """
    try:
        folder = open_folder(engine)
        check_files(folder, reporter)
        check_contents(folder)
    except WanrtError as error:
        raise BuildError(str(error), error.hint) from None
    _check_output(output, force=force)
    detached = _Detached(folder)
    check_disk(output.parent, detached.bytes)
    output.parent.mkdir(parents=True, exist_ok=True)
    sweep_drafts(output.parent)
    try:
        with (
            draft_folder(output.parent, output.name) as draft,
            reporter.bytes(f"copying what {engine.name} reads", detached.bytes) as piece,
        ):
            detached.write(draft, piece.advance)
            if not publish(draft, output, replace=force):
                raise BuildError(f"{output} appeared meanwhile", "run again")
    except OSError as error:
        raise BuildError(f"{error.filename or output}: {error.strerror or error}") from None
    return detached.bytes


def _check_output(output: Path, *, force: bool) -> None:
    if os.path.lexists(output) and not force:
        raise BuildError(f"{output} exists", "replace it with --force")
    if any((parent / MANIFEST_NAME).exists() for parent in real_path(output).parents):
        raise BuildError(f"{output} would be inside an engine folder", "name another folder")
    check_out(output.parent)


@dataclass
class _Detached:
    """What a detached engine is made of: graphs, and where the bytes that they read are now."""

    folder: EngineFolder
    models: dict[str, ir.Model] = field(default_factory=dict)
    refs: dict[str, Refs] = field(default_factory=dict)  # by the origin of their files
    base: dict[str, Refs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._origins = {file.file: file.origin for file in self.folder.manifest.weights}
        for key, graph in self.folder.manifest.graphs.items():
            self.models[key] = ir.load(self.folder.path / graph.file)
            self._collect(self.models[key], graph.plan)

    def _collect(self, model: ir.Model, plan: PlanFile | None) -> None:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                assert tensor.offset is not None
                shape = tuple(tensor.shape.numpy())
                dtype = SAFETENSORS[engine_dtype(tensor.dtype)]
                self._add(name, str(tensor.location), dtype, shape, tensor.offset)
                value.const_value = None
        if plan is not None:
            for name, part in plan.weights.items():
                self._add_range(name, part, self.refs)
            for name, part in (plan.swap.base if plan.swap else {}).items():
                self._add_range(name, part, self.base)

    def _add(self, name: str, file: str, dtype: str, shape: tuple[int, ...], offset: int) -> None:
        ref = TensorRef(name, dtype, shape, self.folder.path / file, offset)
        self.refs.setdefault(self._origins[file], {})[name] = ref

    def _add_range(self, name: str, part: WeightRange, refs: dict[str, Refs]) -> None:
        """Add what a plan names; the graph, which knows its shape, may have it already."""
        dtype = SAFETENSORS[part.dtype]
        shape = (part.bytes // itemsize(dtype),)
        ref = TensorRef(name, dtype, shape, self.folder.path / part.file, part.offset)
        refs.setdefault(self._origins[part.file], {}).setdefault(name, ref)

    @property
    def _verbatim(self) -> list[File]:
        """The files that stay as they are: plans, their descriptions, adapters."""
        manifest = self.folder.manifest
        written = {file.file for file in manifest.weights}
        for graph in manifest.graphs.values():
            written |= {part.file for part in (graph, graph.emulated) if part is not None}
        return [file for file in manifest.files if file.file not in written]

    @property
    def bytes(self) -> int:
        """What writing it takes, graphs apart."""
        held = {ref for refs in (self.refs, self.base) for part in refs.values()
                for ref in ((r.path, r.offset, r.nbytes) for r in part.values())}  # fmt: skip
        return sum(size for *_, size in held) + sum(file.bytes for file in self._verbatim)

    def write(self, draft: Path, on_bytes: Callable[[int], None]) -> None:
        """Write the folder.

        Raises:
            BuildError: a file that is copied whole hasn't the recorded bytes.
        """
        for file in self._verbatim:
            (draft / file.file).parent.mkdir(parents=True, exist_ok=True)
            copy_file(self.folder.path / file.file, draft / file.file, on_bytes)
            if sha256_file(draft / file.file) != file.sha256:
                raise BuildError(
                    f"{self.folder.path / file.file}: its bytes are not the recorded ones (sha256)",
                    "rebuild the engine with --force",
                )
        unused = Pool(draft / ".weights")  # copies are written into the folder itself
        store = WeightStore(draft, unused, True, on_bytes, inline_bytes=1 << 62)
        base = self._write_weights(store)
        graphs = {
            key: self._write_graph(store, key, graph, base)
            for key, graph in self.folder.manifest.graphs.items()
        }
        manifest = self.folder.manifest.model_copy(
            update={
                "graphs": graphs,
                "weights": tuple(store.files.values()),
                "inputs": {**self.folder.manifest.inputs, "weights": "copy"},
            }
        )
        (draft / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")

    def _write_weights(self, store: WeightStore) -> Refs:
        """Write a file per origin and return where the values are that a swap starts from."""
        base: Refs = {}
        for origin in sorted({*self.refs, *self.base}, key=lambda origin: origin not in self.base):
            refs, swapped = self.refs.get(origin, {}), self.base.get(origin, {})
            named = {**swapped, **refs}
            dtypes = {name: ref.dtype for name, ref in named.items()}
            changed = [name for name in swapped if name not in refs]
            store.keep_pristine = bool(changed)
            store.reference(named, dtypes, "", origin, changed)  # type: ignore[arg-type]
            base |= {name: store.pristine.get(name) or store.bound[name] for name in swapped}
        return base

    def _write_graph(
        self, store: WeightStore, key: str, graph: Graph, base: Mapping[str, TensorRef]
    ) -> Graph:
        model, folder = self.models[key], store.folder
        store.bind(model)
        ir.save(model, folder / graph.file)
        changes: dict[str, object] = dict(_describe(folder, graph.file))
        if graph.emulated is not None:
            ir.save(emulate(model), folder / graph.emulated.file)
            changes["emulated"] = _describe(folder, graph.emulated.file)
        if graph.plan is not None:
            bound = {name: store.bound[name] for name in graph.plan.weights}
            swap = graph.plan.swap
            if swap is not None:
                own = {name: base[name] for name in swap.base}
                swap = swap.model_copy(update={"base": describe_ranges(folder, own)})
            weights = describe_ranges(folder, bound)
            changes["plan"] = graph.plan.model_copy(update={"weights": weights, "swap": swap})
        return graph.model_copy(update=changes)


def _describe(folder: Path, file: str) -> File:
    path = folder / file
    return File(file=file, bytes=path.stat().st_size, sha256=sha256_file(path))
