"""A study's file and its grid: what is refused by name, which cells come of it, the dry run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import wanexport
from safetensors.numpy import save_file

from wanexport.errors import ConfigError
from wanexport.study.cells import list_groups
from wanexport.study.file import list_studies, load_study
from wanexport.study.forecast import forecast_build
from wanexport.study.units import Places, build_unit

HEAD = 'name = "mine"\nconfig = "wan2.1-i2v-demo"\n'


def write(folder: Path, grid: str, rest: str = "", head: str = HEAD) -> Path:
    path = folder / "mine.toml"
    path.write_text(f"{head}\n[grid]\n{grid}\n{rest}")
    return path


@pytest.mark.parametrize("name", list_studies())
def test_shipped_studies_are_valid(name: str, tmp_path: Path) -> None:
    code, out, err = wanexport("study", name, "--out", tmp_path / "study", "--dry-run")
    assert (code, err) == (0, "")
    assert "in all: writes" in out
    assert max(map(len, out.splitlines())) <= 79
    assert list(tmp_path.iterdir()) == []


def test_the_seed_question_is_one_group() -> None:
    (group,) = list_groups(load_study("i2v-14b-480p"))
    labels = [cell.label for cell in group.cells]
    ranks = (8, 16, 32, 64, 128, 256)
    modes, layers = ("separate", "swappable"), ("", "-all")
    wanted = [f"{mode}-r{rank}{on}" for mode in modes for on in layers for rank in ranks]
    assert labels == ["full", "merged-r256", "merged-r256-all", *wanted]


REFUSED = {
    'modes = ["full"]\nrank = [8]': ("grid.rank: unknown key", "did you mean 'ranks'?"),
    'modes = ["full", "seperate"]': (
        "grid.modes.1: is 'seperate'; it should be 'full', 'merged', 'separate' or 'swappable'",
        "did you mean 'separate'?",
    ),
    'modes = ["separate"]\nranks = [8]': ("grid.modes: needs 'full'", ""),
    'modes = ["full", "separate"]': ("grid.ranks is missing", ""),
    "ranks = [8, 8]": ("grid.ranks: 8 is listed twice", ""),
    "ranks = [0]": ("grid.ranks.0: is 0; it should be greater than or equal to 1", ""),
    'ranks = [8]\nsizes = ["832x480"]': ("grid.sizes: '832x480' isn't a size", ""),
    'ranks = [8]\nsizes = ["100x64x5"]': ("grid.sizes: 100x64x5: --width: 100 isn't a mult", ""),
    'ranks = [8]\ntargets = ["attn9"]': ("grid.targets: --targets attn9 matches no", "nearest"),
    'ranks = [8]\nquantize = ["int8"]\ndtypes = ["bf16"]': (
        "--quantize int8 runs on ONNX Runtime's CPU, beside fp32 and not bf16",
        "skip it in [[grid.skip]]",
    ),
    'ranks = [8]\nskip = [{ mode = "full" }]': ("without its full engine", "skip less"),
    "ranks = [8]\n[bench]\nzz = 3": ("bench.zz: unknown key", "known: device"),
    'ranks = [8]\n[bench]\nworkload = "lightning-4"\ncfg = true': ("bench: workload says", ""),
    'ranks = [8]\n[adapters]\nsource = "extract"': ("adapters.source = 'extract' needs base", ""),
    'modes = ["full"]\nmodes = 3': ("is not TOML", ""),
}  # fmt: skip


@pytest.mark.parametrize("grid", REFUSED)
def test_what_is_wrong_is_named(grid: str, tmp_path: Path) -> None:
    code, out, err = wanexport("study", write(tmp_path, grid), "--out", tmp_path, "--dry-run")
    message, hint = REFUSED[grid]
    assert (code, out) in {(1, ""), (2, "")}
    assert message in err
    assert hint in err


def test_a_study_that_is_not_shipped_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no study 'dema'") as caught:
        load_study("dema")
    assert caught.value.hint == "did you mean 'demo'?"


def test_the_grid_is_a_product_less_what_is_skipped(tmp_path: Path) -> None:
    grid = """
ranks = [4, 8]
targets = ["cross-attention", "attention+ffn"]
sizes = ["96x64x5", "96x64x5-b2"]
dtypes = ["fp32", "fp16"]
quantize = ["none", "int8"]
[[grid.skip]]
quantize = "int8"
dtype = "fp16"
[[grid.skip]]
mode = "swappable"
targets = "attention+ffn"
"""
    groups = list_groups(load_study(str(write(tmp_path, grid))))
    assert [group.name.removeprefix("wan2.1-i2v-demo-") for group in groups] == [
        "96x64x5-fp32-onnxruntime", "96x64x5-fp32-int8-onnxruntime", "96x64x5-fp16-onnxruntime",
        "96x64x5-b2-fp32-onnxruntime", "96x64x5-b2-fp32-int8-onnxruntime",
        "96x64x5-b2-fp16-onnxruntime",
    ]  # fmt: skip
    assert {len(group.cells) for group in groups} == {9}
    modes = [cell.mode for cell in groups[0].cells]
    assert (modes.count("merged"), modes.count("separate"), modes.count("swappable")) == (2, 4, 2)


def test_a_build_is_asked_for_what_the_cell_is(tmp_path: Path) -> None:
    study = load_study(str(write(tmp_path, 'ranks = [8]\ntargets = ["ffn"]')))
    (group,) = list_groups(study)
    (cell,) = (cell for cell in group.cells if cell.mode == "swappable")
    unit = build_unit(study, cell, Places(tmp_path), None, 1.0)
    flags = " ".join(unit.argv)
    assert "--mode swappable --rank 8 --targets ffn" in flags
    assert f"--json {tmp_path}/engines/{cell.name}.json" in flags
    assert cell.name == "wan2.1-i2v-demo-480x272x5-fp32-onnxruntime-swappable-r8-ffn"


def test_fidelity_needs_the_fine_tune_beside_every_engine(tmp_path: Path) -> None:
    trained = tmp_path / "trained.safetensors"  # one parameter alone, so it is laid over the base
    save_file({"blocks.0.attn2.to_q.weight": np.ones((512, 512), "f4")}, trained)
    head = f'{HEAD}base = "b"\nfinetuned = "{trained}"\n'
    rest = '[adapters]\nsource = "extract"'
    study = load_study(str(write(tmp_path, 'ranks = [8, 32]\ntargets = ["all"]', rest, head)))
    (group,) = list_groups(study)
    argv = {c.label: build_unit(study, c, Places(tmp_path), None, 1.0).argv for c in group.cells}
    for label in ("separate-r8-all", "swappable-r32-all"):
        flags = " ".join(argv[label])
        assert "--base b --dtype fp32" in flags
        assert f"--finetuned {trained} --mode full --mode" in flags
        assert f"--lora {tmp_path}/adapters/all-r" in flags
    assert argv["full"].count("--mode") == 1


def test_files_bring_their_ranks_and_layers(tmp_path: Path) -> None:
    lora = tmp_path / "style.safetensors"
    shapes = {"lora_A": (6, 512), "lora_B": (512, 6)}
    save_file(
        {
            f"transformer.blocks.0.attn2.to_q.{n}.weight": np.ones(s, "f4")
            for n, s in shapes.items()
        },
        lora,
    )
    rest = f'[adapters]\nsource = "files"\nfiles = ["{lora}:0.5"]'
    study = load_study(str(write(tmp_path, 'modes = ["full", "separate"]', rest)))
    (group,) = list_groups(study)
    cell = group.cells[1]
    assert (cell.label, cell.adapter and cell.adapter.rank) == ("separate-style-x0.5", 6)
    unit = build_unit(study, cell, Places(tmp_path), None, 1.0)
    assert f"--lora {lora}:0.5" in " ".join(unit.argv)


def test_bytes_are_those_of_the_adapter(tmp_path: Path) -> None:
    grid = 'ranks = [8]\nmodes = ["full", "separate"]'
    (group,) = list_groups(load_study(str(write(tmp_path, grid))))
    full, separate = map(forecast_build, group.cells)
    # four layers of to_q, to_k, to_v, to_out, add_k_proj, add_v_proj, 512 x 512, in fp32
    assert separate.write_bytes - full.write_bytes == 4 * 6 * 8 * (512 + 512) * 4
