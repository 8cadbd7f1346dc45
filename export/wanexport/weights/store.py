"""Bind a graph's initializers to byte ranges of safetensors files inside the engine folder.

A tensor whose bytes don't change is never copied: its file is linked into `weights/`. What must
change its dtype, or can't be linked from where it lies, goes once into a pool beside the engines,
named by the hash of the file it came from, and is linked from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch

from wanexport.errors import BuildError, CheckpointError
from wanexport.storage.dtypes import onnx_dtype, torch_dtype
from wanexport.storage.hashes import remember_sha256, sha256_file
from wanexport.storage.links import copy_file, place_file, pool_path
from wanexport.storage.locks import locked
from wanexport.storage.tensor_file import (
    StoredTensor,
    TensorRef,
    open_safetensors,
    write_safetensors,
)
from wanrt.manifest.schema import WeightFile
from wanrt.storage.files import atomic_path

__all__ = ["Pool", "WeightStore", "cast_tensor"]

Origin = Literal["base", "finetuned", "adapter", "merged", "constants"]

CONSTANTS_NAME = "constants.safetensors"
INLINE_BYTES = 1024  # smaller constants stay in model.onnx, as onnx's own writers do


@dataclass(frozen=True)
class Pool:
    """Files that several engines share and no checkpoint has, by content: `engines/.weights`."""

    folder: Path

    def cast(
        self,
        refs: Mapping[str, TensorRef],
        specs: Mapping[str, StoredTensor],
        dtype: str,
        on_bytes: Callable[[int], None],
    ) -> dict[str, TensorRef]:
        """Return the tensors of one file as the graph wants them, written once and streamed.

        What needs no cast goes along: it is little, and the engine then doesn't hold on to a file
        twice the size of what it reads.

        Args:
            refs: all of the file that the model has, whichever of it one engine needs, so that
                every engine finds the same file here.
            specs: under the same keys, the names, dtypes and shapes to write.
            dtype: the engine's, which with the file's hash names the result.
            on_bytes: called with the number of bytes just written.
        """
        source = next(iter(refs.values())).path
        path = pool_path(self.folder, sha256_file(source), dtype)
        with self._alone():
            if not self._holds(path, list(specs.values())):
                tensors = (
                    cast_tensor(block, specs[name].dtype, f"{source}: {ref.name}")
                    for name, ref in refs.items()
                    for block in ref.read_blocks()
                )
                digest = write_safetensors(path, list(specs.values()), tensors, on_bytes=on_bytes)
                remember_sha256(path, digest)
        return open_safetensors(path).tensors

    def copy(self, source: Path, on_bytes: Callable[[int], None]) -> Path:
        """Return a copy of a file that can't be linked from where it lies, made once."""
        digest = sha256_file(source)
        path = pool_path(self.folder, digest)
        with self._alone():
            if not path.exists():
                with atomic_path(path) as temporary:
                    copy_file(source, temporary, on_bytes)
                remember_sha256(path, digest)
        return path

    def sweep(self) -> int:
        """Delete what no engine links to any more and return how many bytes that freed."""
        freed = 0
        for path in self.folder.glob("*.safetensors"):
            if path.stat().st_nlink == 1:
                freed += path.stat().st_size
                path.unlink(missing_ok=True)
        return freed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one build write here at a time; another one then finds what it would have written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".writing.lock"):
            yield

    @staticmethod
    def _holds(path: Path, specs: Sequence[StoredTensor]) -> bool:
        if not path.exists():
            return False
        held = open_safetensors(path).tensors
        return all(
            spec.name in held
            and (held[spec.name].dtype, held[spec.name].shape) == (spec.dtype, spec.shape)
            for spec in specs
        )


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
        origin: Origin,
        changed: Collection[str] = (),
    ) -> None:
        """Bind parameters to tensors of a checkpoint, cast where the stored dtype differs.

        Args:
            refs: parameter name -> the checkpoint's tensor.
            dtypes: parameter name -> the safetensors dtype that the graph wants.
            origin: what the manifest calls the files.
            changed: parameters that the engine has values of its own for.
        """
        if self.copy:
            kept = {n: r for n, r in refs.items() if self.keep_pristine or n not in changed}
            self._copy(kept, dtypes, origin)
            self.pristine = {n: self.bound.pop(n) for n in changed if n in kept}
            return
        by_file: dict[Path, dict[str, TensorRef]] = {}
        for name, ref in refs.items():
            by_file.setdefault(ref.path, {})[name] = ref
        for source, named in by_file.items():
            if changed and set(named) <= set(changed) and not self.keep_pristine:
                continue
            casts = {dtypes[name] for name, ref in named.items() if ref.dtype != dtypes[name]}
            for dtype in casts:  # one at most: what isn't cast to the engine's dtype isn't cast
                specs = {
                    n: StoredTensor(ref.name, dtypes[n], ref.shape) for n, ref in named.items()
                }
                pooled = self.pool.cast(named, specs, dtype, self.on_bytes)
                named = {name: pooled[ref.name] for name, ref in named.items()}
            held = next(iter(named.values())).path
            path = self._place(held, f"{origin}-{source.name}", origin, pooled=bool(casts))
            for name, ref in named.items():
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
        target = folder / name
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


def cast_tensor(tensor: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """Return a tensor in another dtype, rounded once.

    Raises:
        CheckpointError: it holds NaN or infinity, or overflows the dtype.
    """
    result = tensor.to(torch_dtype(dtype))
    if not _all_finite(result):
        if _all_finite(tensor):
            raise CheckpointError(f"{name} overflows {dtype.lower()}", "build with --dtype bf16")
        raise CheckpointError(f"{name} holds NaN or infinity")
    return result


def _all_finite(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor has neither NaN nor infinity; 25 times as fast as isfinite().all()."""
    if not tensor.numel():
        return True
    return all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))
