"""What a probe finds out about an engine."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from folders import engines, sources, study  # noqa: F401 (fixtures)
from tinyengines import Tiny, make_engine

from wanrt.bench.loading.jobs import LoadJob
from wanrt.bench.probe import probe_job
from wanrt.errors import ManifestError
from wanrt.manifest.folder import open_folder
from wanrt.manifest.read import read_manifest

SIZE = "96x64x5"


def test_a_full_engine(study: Path) -> None:  # noqa: F811
    folder = engines(study)["full"]
    manifest = read_manifest(folder)
    probe = probe_job(LoadJob(open_folder(folder), SIZE, threads=1), None)
    assert probe.warm_load_s is not None and 0 < probe.warm_load_s < 10
    assert probe.first_forward_s is not None and 0 < probe.first_forward_s < 10
    # repacked weights, and an interpreter beside them
    assert probe.memory_bytes is not None
    assert manifest.weight_bytes < probe.memory_bytes < manifest.weight_bytes + (400 << 20)
    assert probe.disk_bytes == sum(file.bytes for file in manifest.files)
    assert (probe.shared_bytes, probe.device_bytes) == (None, None)


def test_what_a_separate_engine_shares_with_its_full_one(study: Path) -> None:  # noqa: F811
    found = engines(study)
    probe = probe_job(
        LoadJob(open_folder(found["separate"]), SIZE, threads=1), open_folder(found["full"])
    )
    base = sum((found["full"] / f.file).stat().st_size
               for f in read_manifest(found["full"]).weights if f.origin == "base")  # fmt: skip
    assert probe.shared_bytes == base > 0
    assert probe.disk_bytes is not None and probe.disk_bytes > base


def test_a_cold_load_is_claimed_of_cold_files_alone(study: Path) -> None:  # noqa: F811
    folder = engines(study)["full"]
    weights = max((folder / "weights").iterdir(), key=lambda path: path.stat().st_size)
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        assert held[-1] >= 0  # a mapped page can't be dropped
        assert probe_job(LoadJob(open_folder(folder), SIZE, threads=1), None).cold_load_s is None


def test_a_file_system_that_cannot_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.posix_fadvise", refuse)
    probe = probe_job(LoadJob(open_folder(make_engine(tmp_path / "e", Tiny())), "64x32x1"), None)
    assert probe.cold_load_s is None
    assert probe.warm_load_s is not None


def test_an_engine_that_lost_a_file(tmp_path: Path) -> None:
    engine = open_folder(make_engine(tmp_path / "e", Tiny()))
    (engine.path / "model.onnx").unlink()
    with pytest.raises(ManifestError, match=r"model\.onnx is missing"):
        probe_job(LoadJob(engine, "64x32x1"), None)
