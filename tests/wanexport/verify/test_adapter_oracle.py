"""PEFT and diffusers see a scale that we misread, and say nothing where we read rightly."""

from __future__ import annotations

from pathlib import Path

import lorafiles
import pytest
import torch
from folders import write_lora
from lorafiles import BLOCK_LINEARS, CROSS, LoraFile, make_lora, resolve, settings
from safetensors.torch import load_file, save_file
from studies import build

from wanexport.errors import VerificationError
from wanexport.lora import resolve as resolver
from wanexport.lora.delta import Delta
from wanexport.lora.find import LoraArgument
from wanexport.verify.adapter_oracle import ask_oracle
from wanrt.manifest.read import read_manifest
from wanrt.terminal.progress import Reporter


def with_settings(dialect: str, prefix: str, **values: object) -> LoraFile:
    made = make_lora(dialect, CROSS, dtype=torch.bfloat16)
    made.metadata = settings(prefix, r=4, **values)
    return made


def with_dora() -> LoraFile:
    made = with_settings("A-diffusers", "transformer.", lora_alpha=16, use_dora=True)
    for module in CROSS:
        out = lorafiles.SHAPES[f"{module}.weight"][0]
        made.tensors[f"transformer.{module}.lora_magnitude_vector"] = torch.rand(out)
    return made


def with_biases() -> LoraFile:
    made = make_lora("C-comfy-down-up", CROSS, alpha=2.0)
    out = lorafiles.SHAPES[f"{CROSS[0]}.weight"][0]
    made.tensors["diffusion_model.blocks.0.cross_attn.q.diff_b"] = torch.rand(out)
    return made


READ = {
    "metadata": (with_settings("A-diffusers", "transformer.", lora_alpha=16), "peft"),
    "metadata without prefix": (with_settings("A'-no-prefix", "", lora_alpha=16), "peft"),
    "named adapter": (with_settings("A-diffusers-named", "transformer.", lora_alpha=2), "peft"),
    "rsLoRA and patterns": (
        with_settings(
            "raw-peft", "", lora_alpha=16, use_rslora=True, alpha_pattern={r".*\.to_q": 1}
        ),
        "peft",
    ),
    "DoRA": (with_dora(), "peft"),
    "diffusers": (make_lora("A-diffusers", CROSS), "diffusers"),
    "ComfyUI": (make_lora("B-comfy-peft", CROSS), "diffusers"),
    "ComfyUI, ranks differ": (
        make_lora("C-comfy-down-up", CROSS, rank={m: 2 + len(m) % 3 for m in CROSS}, alpha=2.0),
        "diffusers",
    ),
    "ComfyUI and biases": (with_biases(), "diffusers"),
    "musubi": (make_lora("D-musubi", BLOCK_LINEARS, alpha=1.0), "diffusers"),
}


@pytest.mark.parametrize("case", READ)
def test_another_reader_agrees(case: str, tmp_path: Path) -> None:
    made, oracle = READ[case]
    assert ask_oracle(resolve(made, tmp_path, strength=0.7)).oracle == oracle


def test_peft_reads_the_settings_beside_a_file_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 16}')
    adapter = resolve(make_lora("A-diffusers", CROSS), tmp_path)
    assert (adapter.scale_from, ask_oracle(adapter).oracle) == ("sidecar", "peft")


@pytest.mark.parametrize("case", READ)
def test_a_misread_alpha_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "find_scale", lambda *_: 1.5)
    adapter = resolve(READ[case][0], tmp_path)
    with pytest.raises(VerificationError, match=r"scales blocks\.\d.* by .*, wanexport by 1\.5"):
        ask_oracle(adapter)


@pytest.mark.parametrize("case", ["metadata", "DoRA", "musubi"])
def test_another_merge_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Delta.change
    monkeypatch.setattr(Delta, "change", lambda self, weight: change(self, weight) * 1.01)
    adapter = resolve(READ[case][0], tmp_path)
    with pytest.raises(VerificationError, match=r"(PEFT|diffusers) merges blocks\.0\."):
        ask_oracle(adapter)


UNREAD = {
    "musubi, in part": (make_lora("D-musubi", CROSS, alpha=1.0), "diffusers refuses it: KeyError"),
    "no prefix": (make_lora("A'-no-prefix", CROSS), "no settings of PEFT"),
    "DiffSynth": (make_lora("E-diffsynth", CROSS), "no settings of PEFT"),
    "a pattern without end": (
        with_settings("A-diffusers", "transformer.", lora_alpha=4, alpha_pattern={"(x+)+y": 1}),
        "for ever",
    ),
}


@pytest.mark.parametrize("case", UNREAD)
def test_nobody_else_can_read_it(case: str, tmp_path: Path) -> None:
    made, reason = UNREAD[case]
    answer = ask_oracle(resolve(made, tmp_path))
    assert answer.oracle is None
    assert reason in answer.reason


def test_a_build_says_who_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lora = write_lora(tmp_path / "style.safetensors")  # of alpha tensors that diffusers refuses
    loras = (LoraArgument(str(lora)),)
    (built,) = build(tmp_path / "a", reporter=Reporter(), modes=("merged",), loras=loras)
    assert read_manifest(built.path).verification.adapter_oracle is None
    assert "nobody else can check its scale" in capfd.readouterr().err
    plain = {name: t for name, t in load_file(lora).items() if not name.endswith(".alpha")}
    save_file(plain, lora)
    monkeypatch.setattr(resolver, "find_scale", lambda *_: 0.5)
    with pytest.raises(VerificationError, match=r"diffusers scales .* by 1, wanexport by 0\.5"):
        build(tmp_path / "c", modes=("merged",), loras=loras)
    assert not [path for path in (tmp_path / "c").iterdir() if path.name[0] != "."]
