"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanrt.storage.files import atomic_file, atomic_path, temporary_name


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        assert [p.name for p in tmp_path.iterdir()] == [temporary_name(path).name]
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_name_is_hidden_and_swept(tmp_path: Path) -> None:
    name = temporary_name(tmp_path / "x.json")
    assert name.parent == tmp_path
    assert name.match(".*.tmp")
