"""Bind a graph's initializers to byte ranges of safetensors files inside the engine folder.

A tensor whose bytes don't change is never copied: its file is linked into `weights/`. What must
change its dtype, or can't be linked, goes once into a pool beside the engines,
named by the hash of the file it came from, and is linked from there. So does what is quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch

from wanexport.errors import BuildError
from wanexport.storage.dtypes import onnx_dtype
from wanexport.storage.hashes import sha256_file
from wanexport.storage.links import copy_file, place_file
from wanexport.storage.names import safe_name
from wanexport.storage.tensor_file import (
    StoredTensor,
    TensorRef,
    open_safetensors,
    write_safetensors,
)
from wanexport.weights.cast import cast_tensor
from wanexport.weights.pool import Pool
from wanrt.manifest.schema import WeightFile

__all__ = ["WeightStore"]

Origin = Literal["base", "finetuned", "prefused", "adapter", "merged", "constants"]

CONSTANTS_NAME = "constants.safetensors"
INLINE_BYTES = 1024  # smaller constants stay in model.onnx, as onnx's own writers do


@dataclass
class WeightStore:
    """The `weights/` folder of one engine while it is being built.

    Args:
        folder: the engine folder.
        pool: where tensors that need another dtype go.
        copy: write the tensors into the folder instead of linking their files, so that it can be
            moved.
        on_bytes: called with the number of bytes just written.
        inline_bytes: constants smaller than this stay in model.onnx.
        keep_pristine: hold on to the base's values of parameters that the engine changes.
        files: what the folder holds.
        bound: where each initializer's bytes lie.
        pristine: where the base's values lie of those that the engine has its own values for.
    """

    folder: Path
    pool: Pool
    copy: bool = False
    on_bytes: Callable[[int], None] = lambda _: None
    inline_bytes: int = INLINE_BYTES
    keep_pristine: bool = False
    files: dict[str, WeightFile] = field(default_factory=dict)
    bound: dict[str, TensorRef] = field(default_factory=dict)
    pristine: dict[str, TensorRef] = field(default_factory=dict)
    _placed: dict[Path, Path] = field(default_factory=dict)

    def reference(
        self,
        refs: Mapping[str, TensorRef],
        dtypes: Mapping[str, str],
        dtype: str,
        origin: Origin,
        changed: Collection[str] = (),
        hidden: Collection[str] = (),
    ) -> None:
        """Bind parameters to tensors of a checkpoint, decoded or cast where the graph needs that.

        Args:
            refs: parameter name -> the checkpoint's tensor.
            dtypes: parameter name -> the safetensors dtype that the graph wants.
            dtype: the engine's, which names what is pooled.
            origin: what the manifest calls the files.
            changed: parameters that the engine has values of its own for.
            hidden: parameters that another checkpoint is laid over. They count only where a file
                is pooled, so that every engine finds the same file there.
        """
        unused = {*hidden} if self.keep_pristine else {*hidden, *changed}
        if self.copy:
            kept = {name: ref for name, ref in refs.items() if name not in unused}
            self._copy(kept, dtypes, origin)
            self.pristine |= {n: self.bound.pop(n) for n in changed if n in kept}
            return
        by_file: dict[Path, dict[str, TensorRef]] = {}
        for name, ref in refs.items():
            by_file.setdefault(ref.path, {})[name] = ref
        for source, named in by_file.items():
            if set(named) <= unused:
                continue
            pooled = any(
                ref.dtype != dtypes[name] or not ref.as_it_lies for name, ref in named.items()
            )
            if pooled:
                specs = {
                    n: StoredTensor(ref.name, dtypes[n], ref.shape) for n, ref in named.items()
                }
                held_refs = self.pool.cast(named, specs, dtype, self.on_bytes)
                named = {name: held_refs[ref.name] for name, ref in named.items()}
            held = next(iter(named.values())).path
            file = f"{origin}-{safe_name(source.stem)}.safetensors"
            path = self._place(held, file, origin, pooled=pooled)
            for name, ref in named.items():
                if name in hidden:
                    continue
                home = self.pristine if name in changed else self.bound
                home[name] = TensorRef(ref.name, ref.dtype, ref.shape, path, ref.offset)

    def write(
        self,
        origin: Origin,
        specs: Sequence[StoredTensor],
        tensors: Iterable[torch.Tensor],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write a file of the engine's own, one tensor at a time, and bind what it holds."""
        path = self.folder / "weights" / f"{origin}.safetensors"
        path.parent.mkdir(exist_ok=True)
        digest = write_safetensors(path, specs, tensors, metadata, self.on_bytes)
        self._record(path, origin, "copy" if self.copy else "own", digest)
        self.bound.update(open_safetensors(path).tensors)

    def _copy(
        self, refs: Mapping[str, TensorRef], dtypes: Mapping[str, str], origin: Origin
    ) -> None:
        specs = [StoredTensor(name, dtypes[name], ref.shape) for name, ref in refs.items()]
        tensors = (
            cast_tensor(block, dtypes[name], f"{ref.path}: {name}")
            for name, ref in refs.items()
            for block in ref.read_blocks()
        )
        self.write(origin, specs, tensors)

    def bind(self, model: ir.Model) -> None:
        """Give every initializer without a value its byte range.

        Constants that no checkpoint holds (the rotary table) get a file of their own, so that
        model.onnx holds no weights.
        """
        constants = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None
            and value.dtype == ir.DataType.FLOAT
            and value.const_value.nbytes >= self.inline_bytes
        }
        if constants:
            arrays = {name: torch.from_numpy(t.numpy().copy()) for name, t in constants.items()}
            specs = [StoredTensor(name, "F32", tuple(t.shape)) for name, t in arrays.items()]
            self.write("constants", specs, arrays.values())
        for name, value in model.graph.initializers.items():
            if value.const_value is not None and name not in constants:
                continue
            ref = self.bound.get(name)
            if ref is None:
                raise BuildError(f"nothing to bind to {name}", "this is a bug; report it")
            value.const_value = self._external(name, value, ref)

    def _external(self, name: str, value: ir.Value, ref: TensorRef) -> ir.ExternalTensor:
        assert value.shape is not None
        shape = tuple(value.shape.numpy())
        if shape != ref.shape or value.dtype != onnx_dtype(ref.dtype):
            raise BuildError(
                f"{name} is {value.dtype} {list(shape)} in the graph, "
                f"{ref.dtype} {list(ref.shape)} in {ref.path}",
                "this is a bug; report it",
            )
        return ir.ExternalTensor(
            ref.path.relative_to(self.folder).as_posix(),
            ref.offset,
            ref.nbytes,
            onnx_dtype(ref.dtype),
            shape=ir.Shape(shape),
            name=name,
            base_dir=str(self.folder),
        )

    def _place(self, source: Path, name: str, origin: Origin, *, pooled: bool) -> Path:
        source = source.resolve(strict=True)
        if source in self._placed:
            return self._placed[source]
        folder = self.folder / "weights"
        folder.mkdir(exist_ok=True)
        target = _free_path(folder / name)
        origin_path = source
        storage: Literal["reflink", "hardlink", "pool", "copy"] | None
        storage = place_file(source, target, clone=not pooled)
        if storage is None:
            pooled, source = True, self.pool.copy(source, self.on_bytes)
            storage = place_file(source, target, clone=False)
        if storage is None:
            storage = "copy"
            copy_file(source, target, self.on_bytes)
        if pooled and storage == "hardlink":
            storage = "pool"
        self._record(target, origin, storage, sha256_file(source))
        self._placed[origin_path] = target
        return target

    def _record(
        self,
        path: Path,
        origin: Origin,
        storage: Literal["reflink", "hardlink", "pool", "copy", "own"],
        digest: str,
    ) -> None:
        stat = path.stat()
        file = path.relative_to(self.folder).as_posix()
        self.files[file] = WeightFile(
            file=file,
            bytes=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            sha256=digest,
            origin=origin,
            storage=storage,
        )


def _free_path(path: Path) -> Path:
    """Return the path, or the first free one beside it where two sources have one name."""
    taken, count = path, 1
    while taken.exists():
        count += 1
        taken = path.with_stem(f"{path.stem}-{count}")
    return taken
