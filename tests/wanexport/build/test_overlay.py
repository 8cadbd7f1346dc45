"""A fine-tune of some parameters alone is laid over the base; both stay where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from commands import Outcome, wanexport, wanrt, write_config
from folders import sample, stored
from safetensors.torch import load_file, save_file
from studies import I2V, build, config

from wanexport.model.names import module_shapes
from wanrt.manifest.read import read_manifest

sources = folders.sources  # fixture

TRAINED = ".cross_attn."


@pytest.fixture(scope="module")
def trained(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cross-attention alone, as DiffSynth saves it, under the name that the base's file has."""
    (original,) = (sources / "original").glob("*.safetensors")
    folder = tmp_path_factory.mktemp("trained")
    part = {n: t * 2 for n, t in load_file(original).items() if TRAINED in n}
    save_file(part, folder / original.name)
    return folder / original.name


def base_of(sources: Path) -> Path:
    (original,) = (sources / "original").glob("*.safetensors")
    return original


@pytest.mark.parametrize("options", [{}, {"copy": True}], ids=["linked", "copied"])
def test_it_is_the_base_with_what_was_trained(
    options: dict[str, Any], sources: Path, trained: Path, tmp_path: Path
) -> None:
    whole = load_file(base_of(sources)) | load_file(trained)
    save_file(whole, tmp_path / "whole.safetensors")
    folders = [
        build(tmp_path / name, modes=("full",), finetuned=str(file), base=base, verify=False,
              **options)[0].path
        for name, file, base in (
            ("laid", trained, str(base_of(sources))),
            ("whole", tmp_path / "whole.safetensors", None),
        )
    ]  # fmt: skip
    assert torch.equal(*(torch.from_numpy(sample(folder)) for folder in folders))
    manifest = read_manifest(folders[0])
    assert {file.origin for file in manifest.weights} >= {"base", "finetuned"}
    assert [source.path for source in manifest.sources] == [str(base_of(sources)), str(trained)]
    assert "trained parameters laid over the base" in " ".join(
        wanrt("info", folders[0]).out.split()
    )


def test_both_files_are_linked_or_pooled_as_their_other_engines_have_them(
    sources: Path, trained: Path, tmp_path: Path
) -> None:
    for dtype in ("fp32", "bf16"):
        made = build(tmp_path, modes=("full",), finetuned=str(trained), dtype=dtype,
                     base=str(base_of(sources)), verify=False)  # fmt: skip
        made += build(tmp_path, modes=("merged",), ranks=(2,), dtype=dtype,
                      base=str(base_of(sources)), verify=False)  # fmt: skip
        inodes = [
            {(engine.path / file.file).stat().st_ino
             for file in read_manifest(engine.path).weights if file.origin == "base"}
            for engine in made
        ]  # fmt: skip
        assert inodes[0] == inodes[1]
    laid = stored(made[0].path)
    assert torch.equal(
        laid["blocks.0.cross_attn.q.weight"],
        load_file(trained)["blocks.0.cross_attn.q.weight"].bfloat16(),
    )


def build_full(tmp_path: Path, *options: object) -> Outcome:
    written = write_config(tmp_path / "tiny.toml", config(I2V))
    return wanexport(
        "build", "--config", written, "--mode", "full", "--out", tmp_path / "out", *options
    )


def test_build_says_whose_tensors_it_takes(sources: Path, trained: Path, tmp_path: Path) -> None:
    count = len(load_file(trained))
    options = ("--dry-run", "--finetuned", trained)
    said = build_full(tmp_path, *options, "--base", base_of(sources)).out
    assert f"holds {count} of {len(module_shapes(I2V))} tensors; they are laid over" in said
    alone = build_full(tmp_path, *options)
    assert alone.code == 1
    assert "--base" in alone.err


def test_a_base_beside_a_whole_fine_tune_is_refused(sources: Path, tmp_path: Path) -> None:
    whole = sources / "finetuned"
    refused = build_full(tmp_path, "--base", base_of(sources), "--finetuned", whole)
    assert refused.code == 2
    assert "--base has no effect" in refused.err
