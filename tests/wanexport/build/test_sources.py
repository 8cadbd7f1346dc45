"""What an engine was made from, by names: in its folder, its manifest and `wanrt info`."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import folders
import hubcache
import pytest
from commands import wanrt
from folders import Q
from hubcache import REVISION, add_files
from safetensors.torch import load_file, save_file
from studies import build, config
from tinyengines import Tiny, make_engine, read_raw, write_manifest

from wanexport.build.experts import gather_targets
from wanexport.build.recipe import Built
from wanexport.build.request import BuildRequest
from wanexport.errors import AdapterError
from wanexport.lora.find import LoraArgument
from wanrt.bench.stale import find_stale
from wanrt.manifest.folder import open_folder
from wanrt.manifest.read import read_manifest
from wanrt.terminal.progress import Reporter

sources, hub = folders.sources, hubcache.hub  # fixtures

REPO = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"


@pytest.fixture
def cache(sources: Path, tmp_path: Path, hub: Path) -> Path:
    """The snapshot of a repository whose transformer has several shards."""
    shutil.copytree(sources / "base", tmp_path / "base")
    files = sorted((tmp_path / "base").iterdir(), reverse=True)  # blobs are ordered otherwise
    return add_files(hub, REPO, {f"transformer/{file.name}": file for file in files})


def make(out: Path, base: str, **options: Any) -> Built:
    (built,) = build(out, modes=("full",), base=base, verify=False, **options)
    return built


class TestHub:
    def test_files_keep_their_names(self, cache: Path, tmp_path: Path) -> None:
        engine = make(tmp_path / "out", REPO).path
        manifest = read_manifest(engine)
        shards = sorted(cache.glob("transformer/*.safetensors"))
        assert len(shards) > 1
        assert [source.path for source in manifest.sources] == [str(path) for path in shards]
        taken = [file for file in manifest.weights if file.origin == "base"]
        assert [Path(f.file).name for f in taken] == [f"base-{path.name}" for path in shards]
        for file, shard in zip(taken, shards, strict=True):
            assert not (engine / file.file).is_symlink()
            assert (engine / file.file).samefile(shard) == (file.storage == "hardlink")

    @pytest.mark.parametrize("dtype", ["fp32", "fp16"])
    def test_where_a_checkpoint_lies_makes_no_other_engine(
        self, cache: Path, sources: Path, tmp_path: Path, dtype: str
    ) -> None:
        assert cache.is_dir()
        cached = make(tmp_path / "out", REPO, dtype=dtype)
        local = make(tmp_path / "out", str(sources / "base"), dtype=dtype)
        assert cached.path == local.path
        assert (cached.target.action, local.target.action) == ("build", "reuse")

    def test_info_names_the_repository(self, cache: Path, sources: Path, tmp_path: Path) -> None:
        assert cache.is_dir()
        lora = LoraArgument(str(sources / "style.safetensors"), 0.5)
        (built,) = build(
            tmp_path / "out", modes=("separate",), base=REPO, loras=(lora,), verify=False
        )
        out = wanrt("info", built.path).out
        told = [line for line in out.splitlines() if line.startswith(("source", "file"))]
        heading = f"{REPO}/transformer, revision {REVISION[:12]}:"
        assert heading in " ".join(out.split())
        shard, digest = told[-2].split()[1:]
        assert shard.startswith("diffusion_pytorch_model-000")
        assert digest == read_manifest(built.path).sources[-2].sha256[:12]
        assert told[-1].split()[1] == lora.path
        assert "strength 0.5" in out
        assert "blobs" not in out

    def test_what_a_link_of_the_cache_leads_to_makes_engines_stale(
        self, cache: Path, tmp_path: Path
    ) -> None:
        engine = make(tmp_path / "out", REPO).path
        assert find_stale(open_folder(engine)) is None
        later = time.time() + 60  # what a link leads to counts, not the link
        os.utime(next(cache.glob("transformer/*.safetensors")).resolve(), (later, later))
        assert find_stale(open_folder(engine)) is not None


def test_values_that_are_not_finite_are_refused_before_anything_is_made(
    sources: Path, tmp_path: Path
) -> None:
    tensors = load_file(sources / "style.safetensors")
    tensors[f"transformer.{Q}.lora_B.weight"][3, 1] = float("nan")
    path = tmp_path / "nan.safetensors"
    save_file(tensors, path)
    request = BuildRequest(
        config=config(), modes=("merged",), base=str(sources / "base"), out=tmp_path / "out",
        loras=(LoraArgument(str(path)),),
    )  # fmt: skip
    for dry_run in (True, False):
        with pytest.raises(AdapterError, match=r"lora_B\.weight holds values that aren't finite"):
            gather_targets(request, Reporter(quiet=True), dry_run=dry_run)
    assert not (tmp_path / "out").exists()


CACHE = "/home/me/hub/models--Wan-AI--Wan2.1"
SHOWN = {
    "a file": (["/data/wan.safetensors"], ["/data/wan.safetensors 000000000000"]),
    "files of a folder": (
        ["/data/a.safetensors", "/data/b.safetensors", "style.safetensors"],
        ["/data:", "  a.safetensors 000000000000", "  b.safetensors 000000000000",
         "style.safetensors 000000000000"],
    ),
    "a file of the hub's": (
        [f"{CACHE}/snapshots/{REVISION}/x/a.safetensors"],
        ["Wan-AI/Wan2.1/x/a.safetensors 000000000000, revision 000000000000"],
    ),
    "files of the hub's": (
        [f"{CACHE}/snapshots/{REVISION}/{name}.safetensors" for name in "ab"],
        ["Wan-AI/Wan2.1, revision 000000000000:", "  a.safetensors 000000000000",
         "  b.safetensors 000000000000"],
    ),
    "a blob": ([f"{CACHE}/blobs/0a1b"], ["Wan-AI/Wan2.1 000000000000"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SHOWN)
def test_info_shows(case: str, tmp_path: Path) -> None:
    paths, shown = SHOWN[case]
    folder = make_engine(tmp_path / "e", Tiny())
    manifest = read_raw(folder)
    manifest["sources"] = [{"path": path, "sha256": "0" * 64} for path in paths]
    write_manifest(folder, manifest)
    lines = wanrt("info", folder).out.splitlines()
    assert [line[14:] for line in lines if line.startswith("source")] == shown


def test_info_breaks_no_name(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny())
    manifest = read_raw(folder)
    path = f"/data/{'long-' * 20}name.safetensors"
    manifest["sources"] = [{"path": path, "sha256": "0" * 64}]
    write_manifest(folder, manifest)
    assert path in wanrt("info", folder).out
