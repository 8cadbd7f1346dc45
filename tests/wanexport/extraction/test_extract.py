"""A full fine-tune's change as LoRAs: what the files hold, what they don't, and interruptions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpointfiles import FLF2V, I2V, T2V
from commands import wanexport
from diffusers import WanTransformer3DModel
from diffusers.loaders import WanLoraLoaderMixin
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import WanExportError
from wanexport.extraction import extract as extraction
from wanexport.extraction.decompose import Factors
from wanexport.extraction.decompose import decompose as really_decompose
from wanexport.extraction.extract import ExtractRequest, extract_lora
from wanexport.extraction.report import ExtractReport
from wanexport.lora.adapter import Adapter, resolve_adapter
from wanexport.lora.targets import select_modules
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes
from wanrt.terminal.progress import Reporter

Tensors = dict[str, torch.Tensor]
SHAPES = module_shapes(I2V)
CROSS = select_modules(I2V, "cross-attention")
NAME = "diffusion_pytorch_model.safetensors"
RANK = 4  # of the change that training made


def fine_tune(tensors: Tensors) -> Tensors:
    """Change cross-attention by products of rank 4, and a few parameters outside by hand."""
    generator = torch.Generator().manual_seed(3)
    trained = dict(tensors)
    for module in CROSS[:-1]:  # the last one stays as it was
        out, width = SHAPES[f"{module}.weight"]
        factors = (torch.randn(n, RANK, generator=generator) for n in (out, width))
        up, down = factors
        trained[f"{module}.weight"] = tensors[f"{module}.weight"] + 0.01 * up @ down.T
    trained["blocks.0.norm2.weight"] = tensors["blocks.0.norm2.weight"] + 0.5  # 128 values
    trained["blocks.1.ffn.net.2.bias"] = tensors["blocks.1.ffn.net.2.bias"] - 0.25  # 128 values
    trained["proj_out.weight"] = tensors["proj_out.weight"].clone()
    trained["proj_out.weight"][3, :4] += 2
    return trained


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_checkpoint(folder, I2V, "fp32", 0, shard_bytes=1 << 20)
    return folder


@pytest.fixture(scope="module")
def plain(base: Path) -> Tensors:
    return {k: v for f in base.glob("*.safetensors") for k, v in load_file(f).items()}


@pytest.fixture(scope="module")
def trained(plain: Tensors) -> Tensors:
    return fine_tune(plain)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory, trained: Tensors) -> Path:
    path = tmp_path_factory.mktemp("finetuned") / NAME
    save_file(trained, path)
    return path


def extract(base: Path, finetuned: Path, out: Path, **more: Any) -> ExtractReport:
    ranks = more.pop("ranks", (2, 8))
    request = ExtractRequest(str(base), str(finetuned), ranks, out, **more)
    return extract_lora(request, Reporter(quiet=True))


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory, base: Path, finetuned: Path
) -> tuple[Path, ExtractReport]:
    out = tmp_path_factory.mktemp("out") / "new"
    return out, extract(base, finetuned, out)


def gain(adapter: Adapter, module: str) -> torch.Tensor:
    (delta,) = adapter.by_parameter[f"{module}.weight"]
    return delta.change(torch.zeros(delta.shape))


def test_a_file_of_enough_rank_is_the_fine_tune(
    extracted: tuple[Path, ExtractReport], plain: Tensors, trained: Tensors
) -> None:
    out, report = extracted
    adapter = resolve_adapter(out / "rank-8.safetensors", SHAPES)
    assert adapter.targets == tuple(sorted(CROSS[:-1]))
    assert adapter.scale_from == "metadata"
    assert adapter.random_weights
    for module in CROSS[:-1]:
        change = trained[f"{module}.weight"] - plain[f"{module}.weight"]
        torch.testing.assert_close(gain(adapter, module), change, rtol=1e-4, atol=1e-5)
    assert report.files[1].captured == pytest.approx(1, abs=1e-6)


def test_a_smaller_rank_is_the_best_there_is(
    extracted: tuple[Path, ExtractReport], plain: Tensors, trained: Tensors
) -> None:
    out, report = extracted
    adapter = resolve_adapter(out / "rank-2.safetensors", SHAPES)
    total = held = 0.0
    for module, said in zip(CROSS, report.modules, strict=True):
        change = (trained[f"{module}.weight"] - plain[f"{module}.weight"]).double()
        values = torch.linalg.svdvals(change)
        assert said.module == module
        assert said.energy == pytest.approx(float(change.square().sum()), rel=1e-5)
        if not said.energy:
            assert (said.unchanged, said.captured) == (1, {2: 1, 8: 1})
            continue
        best = float(values[:2].square().sum())
        assert said.captured[2] == pytest.approx(best / said.energy, rel=1e-4)
        missed = (gain(adapter, module) - change).square().sum() / said.energy
        assert float(missed) == pytest.approx(1 - said.captured[2], abs=1e-4)
        total, held = total + said.energy, held + best
    assert report.files[0].captured == pytest.approx(held / total, rel=1e-4)


def test_smaller_ranks_are_prefixes(extracted: tuple[Path, ExtractReport]) -> None:
    out, _ = extracted
    small, large = (load_file(out / f"rank-{rank}.safetensors") for rank in (2, 8))
    assert small.keys() == large.keys()
    for name, tensor in small.items():
        whole = large[name]
        assert tensor.equal(whole[:2] if "lora_A" in name else whole[:, :2])


def test_what_is_outside_is_counted(extracted: tuple[Path, ExtractReport]) -> None:
    _, report = extracted
    found = {group.group: group for group in report.outside}
    assert {name: one.changed for name, one in found.items() if one.changed} == {
        "norms": 1, "biases": 1, "embedders and head": 1,
    }  # fmt: skip
    assert found["norms"].energy == pytest.approx(128 * 0.25, rel=1e-4)
    assert found["biases"].energy == pytest.approx(128 * 0.0625, rel=1e-4)
    assert found["embedders and head"].energy == pytest.approx(4 * 4, rel=1e-4)
    inside = sum(one.energy for one in report.modules)
    assert report.outside_share == pytest.approx(56 / (56 + inside), rel=1e-4)
    assert [one.parameter for one in report.parameters] == [
        "blocks.0.norm2.weight", "proj_out.weight", "blocks.1.ffn.net.2.bias",
    ]  # fmt: skip
    assert report.files[1].captured_of_all == pytest.approx(1 - report.outside_share, abs=1e-6)
    assert sum(group.parameters for group in report.outside) + len(CROSS) == len(SHAPES)
    assert "1 of 12 targets didn't change" in report.notes[0]


def test_diffusers_loads_it(extracted: tuple[Path, ExtractReport]) -> None:
    out, _ = extracted
    path = out / "rank-2.safetensors"
    model = WanTransformer3DModel(
        **{key: value for key, value in I2V.model_dump().items() if key != "width"}
    )
    state, metadata = WanLoraLoaderMixin.lora_state_dict(str(path), return_lora_metadata=True)
    model.load_lora_adapter(state, prefix="transformer", metadata=metadata)
    adapter = resolve_adapter(path, SHAPES)
    loaded = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A") and m.lora_A}
    assert sorted(loaded) == sorted(CROSS[:-1])
    for name, layer in loaded.items():
        (delta,) = layer.lora_A.keys()
        found = layer.get_delta_weight(delta)
        torch.testing.assert_close(found, gain(adapter, name), rtol=1e-5, atol=1e-7)


def test_names_are_comfyui_s_and_the_header_says_where_from(
    extracted: tuple[Path, ExtractReport],
) -> None:
    out, report = extracted
    with safe_open(out / "rank-2.safetensors", framework="np") as file:
        metadata = file.metadata()
        names = set(file.keys())
    block = "diffusion_model.blocks.0.cross_attn"
    assert {f"{block}.q.lora_A.weight", f"{block}.v_img.lora_B.weight"} <= names
    said = json.loads(metadata["wanexport.extract"])
    assert (said["rank"], said["alpha"], said["seed"]) == (2, 2, "0")
    assert said["base"] == report.inputs["base"] != said["finetuned"]
    assert report.inputs["wanexport"] == said["wanexport"]


class KilledError(Exception):
    """What ends an extraction between two modules."""


def counting(monkeypatch: pytest.MonkeyPatch, most: int = 99) -> list[str]:
    """List what is decomposed, and stop after so many."""
    done: list[str] = []

    def decompose(change: torch.Tensor, rank: int, key: str) -> Factors:
        if len(done) == most:
            raise KilledError
        done.append(key)
        return really_decompose(change, rank, key)

    monkeypatch.setattr(extraction, "decompose", decompose)
    return done


def test_goes_on_where_it_was(
    base: Path,
    finetuned: Path,
    extracted: tuple[Path, ExtractReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        counting(patch, most=5)
        extract(base, finetuned, tmp_path)
    parts = sorted((tmp_path / ".parts").iterdir())
    assert not list(tmp_path.glob("*.safetensors"))
    assert not (tmp_path / "extract.json").exists()
    half = next(path for path in parts if "attn2.to_k.weight" in path.name)
    half.write_bytes(half.read_bytes()[:-1])
    done = counting(monkeypatch)
    report = extract(base, finetuned, tmp_path, ranks=(8, 2))
    assert len(done) == 1 + len(CROSS[:-1]) - 5
    assert report == extracted[1]
    assert not (tmp_path / ".parts").exists()


def test_parts_of_other_inputs_are_made_again(
    base: Path,
    finetuned: Path,
    trained: Tensors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        counting(patch, most=5)
        extract(base, finetuned, out)
    other = tmp_path / NAME
    save_file({name: tensor * 1.01 for name, tensor in trained.items()}, other)
    done = counting(monkeypatch)
    extract(base, other, out)
    assert len(done) == len(CROSS)


def test_what_is_there_is_kept(
    base: Path,
    finetuned: Path,
    extracted: tuple[Path, ExtractReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(extracted[0], out)
    done = counting(monkeypatch)
    assert extract(base, finetuned, out) == extracted[1]
    assert not done
    with pytest.raises(WanExportError, match="holds another extraction: other ranks"):
        extract(base, finetuned, out, ranks=(4,))
    report = extract(base, finetuned, out, ranks=(4,), force=True)
    assert [one.file for one in report.files] == ["rank-4.safetensors"]
    assert [path.name for path in out.glob("*.safetensors")] == ["rank-4.safetensors"]
    (out / "rank-4.safetensors").unlink()
    assert extract(base, finetuned, out, ranks=(4,)) == report


def test_parameters_trained_alone_are_laid_over(
    base: Path, trained: Tensors, tmp_path: Path
) -> None:
    alone = tmp_path / NAME
    save_file({f"{m}.weight": trained[f"{m}.weight"] for m in CROSS[:4]}, alone)
    report = extract(base, alone, tmp_path / "out", dtype="fp16", targets=("all",))
    assert report.outside_share == 0
    assert report.files[1].captured == pytest.approx(1, abs=1e-6)
    held = load_file(tmp_path / "out/rank-8.safetensors")
    assert len(held) == 8
    assert {tensor.dtype for tensor in held.values()} == {torch.float16}


def test_a_quantised_fine_tune_is_decoded_and_said(
    base: Path, trained: Tensors, tmp_path: Path
) -> None:
    path = tmp_path / NAME
    fp8 = {f"{module}.weight" for module in CROSS}
    save_file({n: t.to(torch.float8_e4m3fn) if n in fp8 else t for n, t in trained.items()}, path)
    report = extract(base, path, tmp_path / "out")
    assert report.dtype == "bf16"
    assert "the fine-tune is quantised (fp8)" in report.notes[0]
    assert report.modules[0].noise_edge is None
    read = trained[f"{CROSS[0]}.weight"].to(torch.float8_e4m3fn).float()
    assert report.modules[0].shape == tuple(read.shape)


def test_one_of_two_experts(base: Path, finetuned: Path, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    for name in ("transformer", "transformer_2"):
        shutil.copytree(base, pair / name)
    tuned = tmp_path / "tuned"
    shutil.copytree(base, tuned / "transformer")
    (tuned / "transformer_2").mkdir()
    shutil.copy(finetuned, tuned / "transformer_2")
    report = extract(pair, tuned, tmp_path / "low", expert="low")
    assert report.finetuned == str(tuned / "transformer_2")
    with pytest.raises(WanExportError, match="the base's own weights"):
        extract(pair, tuned, tmp_path / "high", expert="high")


def damage(tensors: Tensors) -> Tensors:
    broken = tensors[f"{CROSS[0]}.weight"].clone()
    broken[5, 5] = float("nan")
    return tensors | {f"{CROSS[0]}.weight": broken}


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "rank": (None, {"ranks": (129,)}, r"--rank 129 is more than blocks.0.attn2.to_q has"),
    "targets": (None, {"targets": ("nothing",)}, "matches no linear layer"),
    "nan": (damage, {}, "attn2.to_q.weight holds values that aren't finite"),
    "elsewhere": (None, {"targets": ("self-attention",)}, "the base's own weights in all targets"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, base: Path, finetuned: Path, trained: Tensors, tmp_path: Path) -> None:
    edit, more, message = REFUSED[case]
    path = finetuned
    if edit is not None:
        path = tmp_path / NAME
        save_file(edit(trained), path)
    with pytest.raises(WanExportError, match=message):
        extract(base, path, tmp_path / "out", **more)
    assert not list((tmp_path / "out").glob("rank-*"))


@pytest.mark.parametrize("arch", [T2V, FLF2V], ids=["T2V", "FLF2V"])
def test_refuses_another_architecture(arch: Architecture, base: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other", arch, "fp32", 0)
    with pytest.raises(WanExportError, match="other"):
        extract(base, tmp_path / "other", tmp_path / "out")


def test_leaves_foreign_files_alone(base: Path, finetuned: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "rank-8.safetensors"
    save_file({"a": torch.ones(2)}, foreign)
    with pytest.raises(WanExportError, match="exists, and wasn't extracted"):
        extract(base, finetuned, tmp_path)
    assert load_file(foreign)


def test_the_command_shows_it(
    base: Path, finetuned: Path, extracted: tuple[Path, ExtractReport]
) -> None:
    out, report = extracted
    flags = ("--base", base, "--finetuned", finetuned, "--rank", "2,8", "-o", out)
    code, text, err = wanexport("extract", *flags)
    assert (code, err) == (0, f"{out}: up to date\n")
    assert "  8     100.00 %" in text
    assert "1 of 12 targets didn't change" in text
    assert "norms" in text
    assert all(len(line) < 80 for line in text.splitlines() if str(out) not in line)
    code, text, _ = wanexport("extract", *flags, "--json", "--quiet")
    assert ExtractReport.model_validate_json(text) == report


@pytest.mark.parametrize("rank", ["0", "8,", "x", "8;16", "-2"])
def test_ranks_are_numbers(rank: str, base: Path) -> None:
    code, _, err = wanexport(
        "extract", "--base", base, "--finetuned", base, f"--rank={rank}", "-o", "out"
    )
    assert code == 2
    assert "isn't a positive whole number" in err
