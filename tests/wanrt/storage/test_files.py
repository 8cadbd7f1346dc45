"""Files appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from wanrt.errors import ResultsError
from wanrt.storage.files import (
    atomic_file,
    atomic_path,
    check_writable,
    sweep_temporaries,
    temporary_name,
    write_text,
)


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


def test_what_a_killed_process_left_is_swept_by_the_next_that_writes_it(tmp_path: Path) -> None:
    path, other = tmp_path / "x.json", tmp_path / ".y.json.1.tmp"
    left = [path.with_name(".x.json.1.tmp"), path.with_name(".x.json.22.tmp")]
    for file in (*left, other):
        file.write_text("half")
    with atomic_path(left[1].with_name("x.json")) as under_way:
        sweep_temporaries(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [under_way.name]
        under_way.write_text("whole")
    assert path.read_text() == "whole"


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    left = path.with_name(".x.json.1.tmp")
    left.write_text("half")
    with left.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_text(path, "{}")
        assert left.read_text() == "half"
    write_text(path, "{}")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, kind in (("pipe", "not a file but a pipe"), ("link", "a link")):
        with pytest.raises(ResultsError, match=f"can't be replaced: it is {kind}"):
            write_text(tmp_path / name, "x")


def test_an_engine_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{}")
    (tmp_path / "weights").mkdir()
    with pytest.raises(ResultsError, match="inside an engine folder"):
        write_text(tmp_path / "weights" / "x", "x")


def test_an_input_is_not_replaced_under_another_name(tmp_path: Path) -> None:
    given, other = tmp_path / "in", tmp_path / "out"
    given.write_text("mine")
    other.hardlink_to(given)
    with pytest.raises(ResultsError, match="it is an input"):
        check_writable(other, [given])


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<!doctype html>mine")
    check_writable(path, kind=b"<!doctype html>")
    with pytest.raises(ResultsError, match="doesn't write such files"):
        check_writable(path, kind=b"{")
