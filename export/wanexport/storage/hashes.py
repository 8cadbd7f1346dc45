"""Content hashes with a cache, since reading 33 GB again takes 20 s or more.

A file's hash is cached under its (device, inode, size, mtime). What writes over a file in place
and restores its mtime deceives the cache; `wanrt verify` rehashes and doesn't use it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from wanexport.errors import WanExportError
from wanexport.storage.locks import locked
from wanrt.storage.files import atomic_file
from wanrt.terminal.progress import Reporter

__all__ = [
    "cache_path",
    "hash_files",
    "join_digests",
    "remember_sha256",
    "sha256_file",
    "sha256_text",
]

log = logging.getLogger(__name__)

BLOCK_BYTES = 8 << 20
MAX_ENTRIES = 4096
# A file written less than this ago may be written again within the same tick of its mtime.
SETTLED_S = 2.0


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def join_digests(digests: Iterable[str]) -> str:
    """Return one hash for several files, in whatever order; of one file its own."""
    found = sorted(set(digests))
    return found[0] if len(found) == 1 else sha256_text(",".join(found))


def sha256_file(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file's bytes in hex, from the cache if the file is known.

    Args:
        path: which file; symbolic links are followed.
        on_bytes: called with the number of bytes just accounted for; they sum to the file's size.

    Raises:
        WanExportError: the file can't be read, or changed while it was read.
    """
    cache = cache_path()
    try:
        before = path.stat()
        key = _key(before)
        known = _read_cache(cache).get(key)
        if known is not None:
            on_bytes(before.st_size)
            return known
        digest = _hash(path, on_bytes)
        after = path.stat()
    except OSError as error:
        raise WanExportError(f"{path} can't be read: {error.strerror or error}") from None
    if _key(after) != key:
        raise WanExportError(f"{path} changed while it was read", "run again once it is written")
    if time.time() - after.st_mtime >= SETTLED_S:
        _remember(cache, key, digest)
    return digest


def remember_sha256(path: Path, digest: str) -> None:
    """Spare a file that was hashed while it was written, and is complete, from being read again."""
    _remember(cache_path(), _key(path.stat()), digest)


def _hash(path: Path, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            on_bytes(count)
    return digest.hexdigest()


def _key(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"


def cache_path() -> Path | None:
    """Return where hashes are kept, or None for a user without a home."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():  # the XDG specification: ignore relative paths
        try:
            home = Path.home() / ".cache"
        except RuntimeError:
            return None
    return home / "wanexport" / "sha256.json"


def _read_cache(cache: Path | None) -> dict[str, str]:
    """Return what is known; an unreadable or damaged cache knows nothing."""
    try:
        raw = json.loads(cache.read_bytes()) if cache is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(raw, dict):
        return {}
    sound = re.compile(r"[0-9a-f]{64}").fullmatch
    return {key: value for key, value in raw.items() if isinstance(value, str) and sound(value)}


def _remember(cache: Path | None, key: str, digest: str) -> None:
    """Add a hash to the cache; a cache that can't be written costs time, not the build."""
    if cache is None:
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache.with_suffix(".lock")), atomic_file(cache) as file:
            entries = {**_read_cache(cache), key: digest}
            newest = dict(list(entries.items())[-MAX_ENTRIES:])
            file.write(json.dumps(newest, indent=0).encode())
    except OSError as error:
        log.debug("the hash cache %s can't be written: %s", cache, error)


def hash_files(what: str, paths: Iterable[Path], reporter: Reporter) -> dict[Path, str]:
    """Return the files' SHA-256."""
    sizes = {path: path.stat().st_size for path in paths}
    with reporter.bytes(f"hashing {what}", sum(sizes.values())) as piece:
        return {path: sha256_file(path, piece.advance) for path in sizes}
