"""Bind a graph's initializers to byte ranges of safetensors files inside the engine folder.

A tensor whose bytes don't change is never copied: its file is linked into `weights/`. What must
change its dtype, or can't be linked from where it lies, goes once into a pool beside the engines,
named by the hash of the file it came from, and is linked from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch

from wanexport.errors import BuildError, CheckpointError
from wanexport.hashing import sha256_file
from wanexport.links import place_file
from wanexport.tensors import (
    SAFETENSORS_DTYPE,
    TensorRef,
    TensorSpec,
    open_safetensors,
    write_safetensors,
)
from wanrt.manifest import WeightFile

__all__ = ["Pool", "WeightStore", "cast_tensor"]

Origin = Literal["base", "finetuned", "adapter", "merged", "constants"]

IR_DTYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}
TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INLINE_BYTES = 1024  # smaller constants stay in model.onnx, as onnx's own writers do


@dataclass(frozen=True)
class Pool:
    """Files that several engines share and no checkpoint has, by content: `engines/.weights`."""

    folder: Path

    def cast(
        self, refs: Sequence[TensorRef], dtype: str, on_bytes: Callable[[int], None]
    ) -> dict[str, TensorRef]:
        """Return the tensors of one file in another dtype, written once and streamed."""
        source = refs[0].path
        path = self.folder / f"{sha256_file(source)}-{dtype.lower()}.safetensors"
        specs = [TensorSpec(ref.name, dtype, ref.shape) for ref in refs]
        if not self._holds(path, specs):
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = (cast_tensor(ref.read(), dtype, ref.name) for ref in refs)
            write_safetensors(path, specs, tensors, on_bytes=on_bytes)
        held = open_safetensors(path).tensors
        return {ref.name: held[ref.name] for ref in refs}

    def copy(self, source: Path) -> Path:
        """Return a copy of a file that can't be linked from where it lies, made once."""
        path = self.folder / f"{sha256_file(source)}.safetensors"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with _temporary(path) as temporary:
                shutil.copyfile(source, temporary)
        return path

    def sweep(self) -> int:
        """Delete files that no engine links to any more and return how many bytes that freed."""
        freed = 0
        for path in self.folder.glob("*.safetensors"):
            if path.stat().st_nlink == 1:
                freed += path.stat().st_size
                path.unlink(missing_ok=True)
        return freed

    @staticmethod
    def _holds(path: Path, specs: Sequence[TensorSpec]) -> bool:
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
        copy: copy files into the folder instead of linking them, so that it can be moved.
        on_bytes: called with the number of bytes just written.
    """

    folder: Path
    pool: Pool
    copy: bool = False
    on_bytes: Callable[[int], None] = lambda _: None
    files: dict[str, WeightFile] = field(default_factory=dict)
    bound: dict[str, TensorRef] = field(default_factory=dict)
    _placed: dict[Path, Path] = field(default_factory=dict)

    def reference(
        self, refs: Mapping[str, TensorRef], dtypes: Mapping[str, str], origin: Origin
    ) -> None:
        """Bind parameters to tensors of a checkpoint, cast where the stored dtype differs.

        Args:
            refs: parameter name -> the checkpoint's tensor.
            dtypes: parameter name -> the safetensors dtype that the graph wants.
            origin: what the manifest calls the files.
        """
        by_file: dict[tuple[Path, str], list[tuple[str, TensorRef]]] = {}
        for name, ref in refs.items():
            key = (ref.path, "" if ref.dtype == dtypes[name] else dtypes[name])
            by_file.setdefault(key, []).append((name, ref))
        for (_, dtype), pairs in by_file.items():
            if dtype:
                cast = self.pool.cast([ref for _, ref in pairs], dtype, self.on_bytes)
                pairs = [(name, cast[ref.name]) for name, ref in pairs]
            path = self._place(pairs[0][1].path, origin, pooled=bool(dtype))
            for name, ref in pairs:
                self.bound[name] = TensorRef(ref.name, ref.dtype, ref.shape, path, ref.offset)

    def write(
        self,
        origin: Origin,
        specs: Sequence[TensorSpec],
        tensors: Iterable[torch.Tensor],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write a file of the engine's own, one tensor at a time, and bind what it holds."""
        path = self.folder / "weights" / f"{origin}.safetensors"
        path.parent.mkdir(exist_ok=True)
        digest = write_safetensors(path, specs, tensors, metadata, self.on_bytes)
        self._record(path, origin, "own", digest)
        self.bound.update(open_safetensors(path).tensors)

    def bind(self, model: ir.Model) -> None:
        """Give every initializer without a value its byte range.

        Constants that no checkpoint holds (the rotary table) get a file of their own, so that
        model.onnx holds no weights.
        """
        constants = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None and value.const_value.nbytes >= INLINE_BYTES
        }
        if constants:
            arrays = {name: torch.from_numpy(t.numpy().copy()) for name, t in constants.items()}
            specs = [TensorSpec(name, "F32", tuple(t.shape)) for name, t in arrays.items()]
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
        if shape != ref.shape or value.dtype != IR_DTYPES[ref.dtype]:
            raise BuildError(
                f"{name} is {value.dtype} {list(shape)} in the graph, "
                f"{ref.dtype} {list(ref.shape)} in {ref.path}",
                "this is a bug; report it",
            )
        return ir.ExternalTensor(
            ref.path.relative_to(self.folder).as_posix(),
            ref.offset,
            ref.nbytes,
            IR_DTYPES[ref.dtype],
            shape=ir.Shape(shape),
            name=name,
            base_dir=str(self.folder),
        )

    def _place(self, source: Path, origin: Origin, *, pooled: bool) -> Path:
        source = source.resolve(strict=True)
        if source in self._placed:
            return self._placed[source]
        folder = self.folder / "weights"
        folder.mkdir(exist_ok=True)
        target = folder / f"{origin}-{source.name}"
        storage: Literal["reflink", "hardlink", "pool", "copy"] | None = None
        if not self.copy:
            storage = place_file(source, target)
            if storage is None:
                pooled, source = True, self.pool.copy(source)
                storage = place_file(source, target)
        if storage is None:
            storage = "copy"
            shutil.copyfile(source, target)
            self.on_bytes(target.stat().st_size)
        digest = sha256_file(source)
        self._record(
            target, origin, "pool" if pooled and storage == "hardlink" else storage, digest
        )
        self._placed[source] = target
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
    result = tensor.to(TORCH_DTYPES[dtype])
    if not torch.isfinite(result).all():
        if torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} overflows {dtype.lower()}", "build with --dtype bf16")
        raise CheckpointError(f"{name} holds NaN or infinity")
    return result


def engine_dtype(dtype: str) -> str:
    """Return the safetensors name of an engine's dtype."""
    return SAFETENSORS_DTYPE[dtype]


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    import os

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
