from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wanexport.errors import WanExportError
from wanexport.storage.hashes import remember_sha256, sha256_file, sha256_text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wanexport" / "sha256.json"


def settled(path: Path, content: bytes, age_s: float = 60) -> Path:
    """Write a file that looks as if it had been there for a while."""
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_hashes_text() -> None:
    # FIPS 180-2, appendix B.1
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("size", [0, 1, 8 << 20, (8 << 20) + 1])
def test_hashes_a_file_and_counts_its_bytes(size: int, tmp_path: Path) -> None:
    path = settled(tmp_path / "file", os.urandom(size))
    for _ in range(2):  # read, then remembered
        counts: list[int] = []
        assert sha256_file(path, counts.append) == digest(path.read_bytes())
        assert sum(counts) == size


def test_a_known_file_is_not_read_again(tmp_path: Path, cache: Path) -> None:
    path = settled(tmp_path / "file", b"content")
    sha256_file(path)
    assert cache.is_file()
    stat = path.stat()
    path.write_bytes(b"CONTENT")  # in place, of the same size, and the mtime restored
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    link = tmp_path / "link"
    os.link(path, link)
    assert sha256_file(path) == sha256_file(link) == digest(b"content")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"one")
    sha256_file(path)
    settled(path, b"two", age_s=30)
    assert sha256_file(path) == digest(b"two")


def test_a_file_just_written_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    sha256_file(path)
    assert not cache.exists()


def test_a_file_hashed_while_it_was_written_is_not_read_again(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    remember_sha256(path, digest(b"as it was written"))
    assert cache.exists()
    assert sha256_file(path) == digest(b"as it was written")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 3}', b"\xff", b"[" * 100_000])
def test_a_damaged_cache_knows_nothing(damage: bytes, tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(damage)
    path = settled(tmp_path / "file", b"content")
    assert sha256_file(path) == digest(b"content")
    assert sha256_file(path) == digest(b"content")


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, cache: Path) -> None:
    cache.parent.parent.write_text("a file where the folder should be")
    path = settled(tmp_path / "file", b"content")
    assert sha256_file(path) == digest(b"content")


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path, cache: Path) -> None:
    paths = [settled(tmp_path / f"file{i}", b"%d" % i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sha256_file, paths))
    text = cache.read_text()
    assert all(digest(path.read_bytes()) in text for path in paths)


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WanExportError, match=r"missing can't be read: No such file"):
        sha256_file(tmp_path / "missing")


def test_refuses_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"content")

    def append(_: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(WanExportError, match="changed while it was read"):
        sha256_file(path, lambda n: append(n) if path.stat().st_size < 1000 else None)
