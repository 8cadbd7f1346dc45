"""Engine folders that people copied: they run as they are, once their bytes were compared."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import wanrt
from rich.console import Console
from tinyengines import Tiny, make_engine, read_raw, touch_ns

from wanrt import load_engine
from wanrt.backends.load import check_engine
from wanrt.errors import ManifestError
from wanrt.manifest import copies
from wanrt.manifest.folder import open_folder
from wanrt.terminal.progress import Reporter

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    made = make_engine(tmp_path / "engine", Tiny(storage="hardlink"))
    os.link(made / "weights" / "tiny.safetensors", tmp_path / "checkpoint.safetensors")
    return made


def _cp(engine: Path, copy: Path) -> None:
    shutil.copytree(engine, copy, copy_function=shutil.copyfile)
    touch_ns(copy / "weights" / "tiny.safetensors", 10**9)  # a clock's ticks are milliseconds


def _tar(engine: Path, copy: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(engine, "engine")  # whole seconds
    data.seek(0)
    with tarfile.open(fileobj=data) as archive:
        archive.extractall(copy.parent / "unpacked", filter="data")
    (copy.parent / "unpacked" / "engine").rename(copy)


def _zip(engine: Path, copy: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in engine.rglob("*"):
            archive.write(path, path.relative_to(engine))
    with zipfile.ZipFile(data) as archive:
        archive.extractall(copy)


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "cp -r": _cp,
    "GNU tar": _tar,
    "zip": _zip,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_engine_runs(engine: Path, tmp_path: Path, way: str) -> None:
    copy = tmp_path / "copy"
    WAYS[way](engine, copy)
    with load_engine(copy):
        pass
    weights = read_raw(copy)["weights"][0]
    assert (copy / weights["file"]).stat().st_mtime_ns == weights["mtime_ns"]


def test_it_is_rehashed_once_with_progress(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    WAYS["cp -r"](engine, copy)
    text = io.StringIO()
    monkeypatch.setattr("wanrt.terminal.progress.LONG_S", 2.0)
    ticks = iter(range(0, 1000, 5))
    reporter = Reporter(console=Console(file=text), clock=lambda: float(next(ticks)))
    check_engine(open_folder(copy), reporter=reporter)
    assert text.getvalue().startswith("comparing copied weights: 1.2 KiB in ")
    monkeypatch.setattr(copies, "_rehash", None)
    check_engine(open_folder(copy))


def test_a_copy_of_other_bytes_is_refused(engine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    WAYS["cp -r"](engine, copy)
    path = copy / "weights" / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    before = path.stat().st_mtime_ns
    with pytest.raises(ManifestError, match="its bytes are not the recorded ones"):
        load_engine(copy)
    assert path.stat().st_mtime_ns == before
    outcome = wanrt("verify", copy)
    assert (outcome.code, "sha256" in outcome.out) == (1, True)


def test_where_times_cannot_be_set_every_process_compares_and_says_so(
    engine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "copy"
    WAYS["cp -r"](engine, copy)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    for _ in range(2):  # once in this process
        with load_engine(copy):
            pass
    assert capsys.readouterr().err == (
        f"warning: {copy} was copied and its times can't be set (Read-only file system): its "
        "weights are rehashed whenever it is loaded\n"
    )
    assert wanrt("verify", copy).code == 0


def test_written_over_through_the_checkpoint(engine: Path, tmp_path: Path) -> None:
    touch_ns(tmp_path / "checkpoint.safetensors", 1)
    with pytest.raises(ManifestError, match="somebody wrote over them") as caught:
        load_engine(engine)
    assert "--restore-mtime" in caught.value.hint


def test_a_bench_takes_copies(engine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    WAYS["cp -r"](engine, copy)
    outcome = wanrt("bench", copy, "--loads", 1, "--rounds", 1, "--no-probe", "--threads", 1)
    assert (outcome.code, "stale" in outcome.err) == (0, False)
