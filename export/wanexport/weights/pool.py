"""Files of weights that several engines share and no checkpoint has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wanexport.storage.hashes import join_digests, remember_sha256, sha256_file, sha256_text
from wanexport.storage.links import copy_file, pool_path
from wanexport.storage.locks import locked
from wanexport.storage.tensor_file import (
    StoredTensor,
    TensorRef,
    open_safetensors,
    write_safetensors,
)
from wanexport.storage.values import one_thread
from wanexport.weights.cast import cast_tensor
from wanrt.storage.files import atomic_path

__all__ = ["Pool"]


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
        """Return the tensors of one file as the graph wants them, decoded or cast once, streamed.

        What needs no cast goes along: it is little, and the engine then doesn't hold on to a file
        twice the size of what it reads.

        Args:
            refs: all of the file that the model has, whichever of it one engine needs, so that
                every engine finds the same file here.
            specs: under the same keys, the names, dtypes and shapes to write.
            dtype: the engine's, which with the hash of what is read names the result.
            on_bytes: called with the number of bytes just written.
        """
        source = next(iter(refs.values())).path
        read = {path for ref in refs.values() for path in ref.paths}
        made_by = {sha256_text(ref.made_by) for ref in refs.values() if ref.made_by}
        key = join_digests([*map(sha256_file, read), *made_by])
        path = pool_path(self.folder, key, dtype)
        with self._alone(), one_thread():
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
        """Return a copy, made once, of a file that can't be linked."""
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
