"""An engine makes way for another without a moment in which both could be lost."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from wanexport.build.folder import publish
from wanexport.errors import BuildError
from wanexport.storage import drafts
from wanexport.storage.drafts import draft_folder, sweep_drafts

NAME = "tiny-full"


@pytest.fixture
def out(family: Path, tmp_path: Path) -> Path:
    shutil.copytree(family / NAME, tmp_path / "out" / NAME)
    return tmp_path / "out"


def replace(out: Path) -> None:
    with draft_folder(out, NAME) as draft:
        (draft / "new").write_text("new")
        assert publish(draft, out / NAME, replace=True)


def never(*_: object) -> bool:
    return False


@pytest.mark.parametrize("exchanged", [True, False])
def test_the_new_engine_takes_the_name(
    exchanged: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanged:
        monkeypatch.setattr(drafts, "exchange", never)
    replace(out)
    assert [p.name for p in out.iterdir()] == [NAME]
    assert [p.name for p in (out / NAME).iterdir()] == ["new"]


def test_a_build_killed_between_the_renames_loses_nothing(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(p.name for p in (out / NAME).iterdir())
    monkeypatch.setattr(drafts, "exchange", never)
    child = os.fork()
    if child == 0:  # dies at the rename after the one that moves the old engine aside
        rename = Path.rename

        def rename_once(path: Path, target: Path) -> Path:
            if path.name != NAME:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", rename_once)
        replace(out)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (out / NAME).exists()
    sweep_drafts(out)
    assert [p.name for p in out.iterdir()] == [NAME]
    assert sorted(p.name for p in (out / NAME).iterdir()) == before


def test_what_came_meanwhile_is_not_replaced(out: Path) -> None:
    (out / NAME / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match=r"notes\.txt"):
        replace(out)
    assert (out / NAME / "notes.txt").read_text() == "mine"
    assert [p.name for p in out.iterdir()] == [NAME]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EXDEV])
def test_where_names_cant_be_exchanged(
    code: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: _Refusing())
    monkeypatch.setattr(ctypes, "get_errno", lambda: code)
    replace(out)
    assert [p.name for p in (out / NAME).iterdir()] == ["new"]


class _Refusing:
    def renameat2(self, *_: object) -> int:
        return -1
