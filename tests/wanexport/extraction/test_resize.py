"""A LoRA at a smaller rank: the best that rank can hold, of every dialect and kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import wanexport, write_config
from lorafiles import ARCH, CROSS, SHAPES, LoraFile, check_gains, make_lora, noise
from safetensors import safe_open
from studies import config

from wanexport.errors import WanExportError
from wanexport.extraction.resize import ResizeReport, resize_lora
from wanexport.lora.adapter import resolve_adapter
from wanrt.terminal.progress import Reporter

MODULES = CROSS[:3]
QUIET = Reporter(quiet=True)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_config(tmp_path / "tiny.toml", config(ARCH)))


def resize(made: LoraFile, folder: Path, model: str, rank: int, strength: str = "") -> ResizeReport:
    path = made.save(folder / "lora.safetensors")
    out = folder / "small.safetensors"
    return resize_lora(f"{path}{strength}", rank, out, QUIET, config=model)


def best(change: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the nearest matrix of a rank (Eckart and Young), by an SVD of the whole."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    nearest: torch.Tensor = left[:, :rank] * values[:rank] @ right[:rank]
    return nearest


@pytest.mark.parametrize("dialect", ["A-diffusers", "C-comfy-down-up", "D-musubi", "lycoris"])
def test_it_is_the_nearest_of_its_rank(tmp_path: Path, model: str, dialect: str) -> None:
    made = make_lora(dialect, MODULES, rank=6, alpha=3.0)
    report = resize(made, tmp_path, model, 2)
    small = resolve_adapter(tmp_path / "small.safetensors", SHAPES)
    assert set(small.ranks.values()) == {2}
    expected = {name: best(gain, 2) for name, gain in made.gains.items()}
    check_gains(small, expected, 1e-4)
    for module in MODULES:
        gain = made.gains[f"{module}.weight"]
        held = expected[f"{module}.weight"].norm() ** 2 / gain.norm() ** 2
        assert report.captured[module] == pytest.approx(float(held), rel=1e-4)


def test_enough_rank_loses_nothing_and_a_strength_is_in_it(tmp_path: Path, model: str) -> None:
    made = make_lora("A-diffusers", MODULES, rank={m: 2 + i for i, m in enumerate(MODULES)})
    report = resize(made, tmp_path, model, 8, ":0.5")
    small = resolve_adapter(tmp_path / "small.safetensors", SHAPES)
    assert [small.ranks[module] for module in MODULES] == [2, 3, 4]  # smaller ones keep theirs
    check_gains(small, {name: 0.5 * gain for name, gain in made.gains.items()}, 1e-4)
    assert report.total == pytest.approx(1)


def test_what_is_no_product_stays(tmp_path: Path, model: str) -> None:
    made = make_lora("C-comfy-down-up", MODULES[:1], rank=4)
    name = "blocks.0.attn2.to_q.bias"
    made.gains[name] = noise(*SHAPES[name], seed="bias")
    made.tensors["diffusion_model.blocks.0.cross_attn.q.diff_b"] = made.gains[name]
    report = resize(made, tmp_path, model, 4)
    check_gains(resolve_adapter(tmp_path / "small.safetensors", SHAPES), made.gains, 1e-4)
    assert report.kept == (f"diff of {name}",)


def test_a_lokr_becomes_a_lora(tmp_path: Path, model: str) -> None:
    module = MODULES[0]
    out, width = SHAPES[f"{module}.weight"]
    w1, w2 = noise(2, 2, seed="w1"), noise(out // 2, width // 2, seed="w2")
    stem = f"lycoris_{module.replace('.', '_')}"
    made = LoraFile({f"{stem}.lokr_w1": w1, f"{stem}.lokr_w2": w2})
    resize(made, tmp_path, model, 8)
    (delta,) = resolve_adapter(tmp_path / "small.safetensors", SHAPES).deltas
    assert delta.rank == 8
    whole = torch.kron(w1, w2)  # of full rank, where a random sample isn't quite the best
    lost = (delta.change(torch.zeros(out, width)) - whole).norm()
    assert lost < 1.01 * (best(whole, 8) - whole).norm()


def test_a_dora_is_refused(tmp_path: Path, model: str) -> None:
    made = make_lora("A-diffusers", MODULES[:1])
    out = SHAPES[f"{MODULES[0]}.weight"][0]
    made.tensors[f"transformer.{MODULES[0]}.lora_magnitude_vector"] = torch.ones(out)
    with pytest.raises(WanExportError, match="can't be resized") as refused:
        resize(made, tmp_path, model, 2)
    assert "--mode merged" in refused.value.hint
    assert not (tmp_path / "small.safetensors").exists()


def test_the_command(tmp_path: Path, model: str) -> None:
    path = make_lora("A-diffusers", MODULES, rank=4).save(tmp_path / "lora.safetensors")
    out = tmp_path / "small.safetensors"
    command = ("resize", path, "--rank", 2, "--config", model, "-o", out)
    code, said, _ = wanexport(*command)
    assert code == 0
    assert "captured" in said.splitlines()[0]
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["wanexport.resize"])["rank"] == 2
    again = wanexport(*command)
    assert (again.code, "--force" in again.err) == (1, True)
    forced = wanexport(*command, "--force", "--json")
    assert set(json.loads(forced.out)["captured"]) == set(MODULES)
    elsewhere = wanexport("resize", path, "--rank", 2, "-o", tmp_path / "other.safetensors")
    assert elsewhere.code == 2
    assert "name its model with --config" in elsewhere.err
