"""What engines keep of a full fine-tune's effect, against diffusers' model and by construction."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from studies import I2V_14B, SIZE, T2V, build

from wanexport.build.recipe import Built
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.cli.text.build import format_built
from wanexport.graph.trace import GraphSpec
from wanexport.lora.find import LoraArgument
from wanexport.model.config import Experts, Size
from wanexport.verify.fidelity import inputs_at, timesteps_within
from wanexport.verify.twin import twin_inputs
from wanrt.manifest.origin import Fidelity
from wanrt.manifest.read import read_manifest
from wanrt.terminal.progress import Reporter

SMALL = T2V.model_copy(update={"num_layers": 1})
Q = "blocks.0.attn2.to_q"
TIMESTEPS = (900.0, 500.0, 100.0)


def fidelity(built: Built) -> Fidelity | None:
    return read_manifest(built.path).verification.fidelity


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for shard in folder.glob("*.safetensors") for k, v in load_file(shard).items()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a full fine-tune, an adapter, and a full fine-tune that is the base with that."""
    root = tmp_path_factory.mktemp("sources")
    write_checkpoint(root / "base", SMALL, "fp32", 0)
    write_checkpoint(root / "finetuned", SMALL, "fp32", 1)
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(4, SMALL.width, generator=generator) / 8 for _ in "AB")
    adapter = {f"{Q}.lora_A.weight": down, f"{Q}.lora_B.weight": up.T.contiguous()}
    save_file({f"transformer.{k}": v for k, v in adapter.items()}, root / "style.safetensors")
    tensors = load_all(root / "base")
    tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"] + up.T @ down
    save_file(tensors, root / "style-whole.safetensors")
    return root


def make(sources: Path, out: Path, finetuned: str = "finetuned", **options: Any) -> list[Built]:
    chosen = {"modes": ("full", "separate")} | options
    base, whole = str(sources / "base"), str(sources / finetuned)
    return build(out, SMALL, base=base, finetuned=whole, **chosen)


def by_diffusers(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the outputs of diffusers' own model at the three timesteps."""
    names = ("num_layers", "num_attention_heads", "ffn_dim", "in_channels", "text_dim")
    model = WanTransformer3DModel(**{name: getattr(SMALL, name) for name in names}).eval()
    model.load_state_dict(tensors)
    inputs = twin_inputs(GraphSpec(SMALL, SIZE, "fp32"))
    with torch.inference_mode():
        asked = [inputs | {"timestep": torch.tensor([t])} for t in TIMESTEPS]
        return torch.stack([model(**one, return_dict=False)[0] for one in asked])


def test_what_is_kept_is_what_diffusers_models_say(sources: Path, tmp_path: Path) -> None:
    made = make(
        sources, tmp_path, "style-whole.safetensors", modes=("full", "swappable"), ranks=(4, 2)
    )
    base = load_all(sources / "base")
    tuned = by_diffusers(load_file(sources / "style-whole.safetensors"))
    whole = (tuned - by_diffusers(base)).double().norm()
    wanted = []
    for rank in (4, 2):
        held = load_file(tmp_path / ".made" / f"tiny-lora-r{rank}-seed0.safetensors")
        merged = dict(base)
        for module in {name.rpartition(".lora_")[0] for name in held}:
            down, up = (held[f"{module}.lora_{part}.weight"].float() for part in "AB")
            name = f"{module.removeprefix('transformer.')}.weight"
            merged[name] = merged[name] + up @ down
        wanted.append(float(1 - (by_diffusers(merged) - tuned).double().norm() / whole))
    full, swappable = map(fidelity, made)
    assert full and swappable
    assert full.keeps == pytest.approx((1,), abs=1e-4)
    assert swappable.keeps == pytest.approx(wanted, abs=1e-4)
    assert full.timesteps == swappable.timesteps == TIMESTEPS
    files = tuple(source.sha256 for source in read_manifest(made[0].path).sources)
    assert full.finetuned == swappable.finetuned == files
    shown = [f"{100 * share:.1f} %" for share in swappable.keeps]
    assert f", keeps {shown[0]} (r4), {shown[1]} (r2)" in format_built(made)


@pytest.mark.parametrize("strength", [1.0, -1.0])
def test_all_is_kept_or_less_than_nothing(strength: float, sources: Path, tmp_path: Path) -> None:
    lora = LoraArgument(str(sources / "style.safetensors"), strength)
    _, separate = make(sources, tmp_path, "style-whole.safetensors", loras=(lora,))
    found = fidelity(separate)
    assert found is not None
    (kept,) = found.keeps
    assert kept == pytest.approx(1, abs=1e-3) if strength > 0 else kept < -0.5


def test_a_fine_tune_without_effect_is_nothing_to_keep(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(load_all(sources / "base"), tmp_path / "same.safetensors", {"saved": "again"})
    reporter = Reporter()
    made = make(sources, tmp_path / "e", str(tmp_path / "same.safetensors"), ranks=(2,),
                reporter=reporter)  # fmt: skip
    assert list(map(fidelity, made)) == [None, None]
    assert "keeps" not in format_built(made)
    assert "the full fine-tune computes what the base does" in capsys.readouterr().err


def test_without_a_fine_tune_or_an_adapter_nothing_is_asked(sources: Path, tmp_path: Path) -> None:
    base = str(sources / "base")
    alone = build(tmp_path / "a", SMALL, base=base, modes=("full", "separate"), ranks=(2,))
    assert list(map(fidelity, alone)) == [None, None]
    (full,) = build(tmp_path / "b", SMALL, base=None, finetuned=base, modes=("full",))
    assert fidelity(full) is None


def test_a_figure_of_another_fine_tune_is_not_shown(sources: Path, tmp_path: Path) -> None:
    first = make(sources, tmp_path, ranks=(2,))
    assert ", keeps " in format_built(first)
    again = make(sources, tmp_path, ranks=(2,))
    assert again[1].verification is None and again[1].keeps == first[1].keeps
    shutil.rmtree(first[0].path)
    changed = make(sources, tmp_path, "style-whole.safetensors", ranks=(2,))
    assert changed[1].verification is None and changed[1].keeps == ()
    assert "this full fine-tune wasn't measured: --force" in format_built(changed)


def test_quantisation_costs_some_of_it(sources: Path, tmp_path: Path) -> None:
    full, _ = make(sources, tmp_path, ranks=(2,), quantize="int8")
    assert 0.9 < full.keeps[0] < 0.999


def test_each_expert_has_its_own_references_and_timesteps(tmp_path: Path) -> None:
    """Both experts in one build: of other weights each, and asked where each is used."""
    for pair in ("base", "finetuned"):
        for seed, name in enumerate(("high_noise_model", "low_noise_model")):
            write_checkpoint(tmp_path / pair / name, SMALL, "fp32", seed + 2 * (pair == "base"),
                             layout="original")  # fmt: skip
    made = make(tmp_path, tmp_path / "e", ranks=(2,), expert="both",
                experts=Experts(boundary=0.9, steps=40, shift=5.0))  # fmt: skip
    found = [(read_manifest(one.path).expert, fidelity(one)) for one in made]
    asked = {"high": (990.0, 950.0, 910.0), "low": (810.0, 450.0, 90.0)}
    assert all(one and one.timesteps == asked[expert or ""] for expert, one in found)
    assert len({one.finetuned for _, one in found if one}) == 2


def test_samples_of_a_batch_take_turns_and_wide_models_are_asked_once() -> None:
    asked = inputs_at(GraphSpec(SMALL, Size(width=48, height=32, frames=1, batch=2), "fp32"),
                      timesteps_within(0, 1000))  # fmt: skip
    assert [one["timestep"].tolist() for one in asked] == [[900, 500], [500, 100], [100, 900]]
    (once,) = inputs_at(GraphSpec(I2V_14B, SIZE, "bf16"), timesteps_within(0, 1000))
    assert once["timestep"].tolist() == [900]
