from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from wanexport.storage.links import place_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"weights" * 1000)
    return path


def fail_with(code: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_places_the_bytes_without_a_copy(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    how = place_file(source, target)
    assert how in ("reflink", "hardlink")
    assert target.read_bytes() == source.read_bytes()
    assert not target.is_symlink()
    assert source.samefile(target) == (how == "hardlink")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "target"]


def test_prefers_a_reflink(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clone(target: int, _: int, origin: int) -> int:
        os.write(target, os.pread(origin, 1 << 20, 0))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    target = tmp_path / "target"
    assert place_file(source, target) == "reflink"
    assert target.read_bytes() == source.read_bytes()
    assert not source.samefile(target)


def test_follows_the_sources_symbolic_link(source: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(source)
    target = tmp_path / "target"
    assert place_file(link, target) is not None
    assert not target.is_symlink()
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "code", [errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS]
)
def test_leaves_nothing_where_neither_works(
    code: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", fail_with(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "link", fail_with(code))
    assert place_file(source, tmp_path / "target") is None
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_is_no_reason_to_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", fail_with(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "link", fail_with(errno.ENOSPC))
    with pytest.raises(OSError, match="space"):
        place_file(source, tmp_path / "target")


def test_never_replaces_a_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    with pytest.raises(FileExistsError):
        place_file(source, target)
    assert target.read_text() == "mine"


def test_never_replaces_a_dangling_link(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        place_file(source, target)


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place_file(tmp_path / "missing", tmp_path / "target")


def test_a_missing_folder_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place_file(source, tmp_path / "missing" / "target")
