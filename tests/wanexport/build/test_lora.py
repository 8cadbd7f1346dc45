"""LoRA files of several dialects through whole engines, against hand-merged diffusers models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hubcache
import numpy as np
import pytest
import torch
from commands import wanexport, wanrt
from diffusers import WanTransformer3DModel
from hubcache import add_files
from safetensors.torch import load_file, save_file
from studies import I2V, SIZE, build

from wanexport.build.recipe import Built
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import AdapterError
from wanexport.lora.find import LoraArgument, parse_lora
from wanexport.model.names import module_shapes, to_original
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.engine.stack import AdapterArgument
from wanrt.manifest.read import read_manifest

hub = hubcache.hub  # fixture

SHAPES = module_shapes(I2V)
RANK = 4
TOLERANCE = 1e-5
MODES = ("merged", "separate", "swappable")
CROSS = tuple(
    f"blocks.{i}.attn2.{name}"
    for i in range(I2V.num_layers)
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
)
ELSEWHERE = (
    "blocks.0.attn1.to_q",
    "blocks.0.attn1.to_out.0",
    "blocks.1.ffn.net.0.proj",
    "blocks.1.ffn.net.2",
    "condition_embedder.time_proj",
    "condition_embedder.text_embedder.linear_1",
    "condition_embedder.image_embedder.ff.net.0.proj",
    "proj_out",
)


@dataclass
class Lora:
    """A file's tensors and metadata, and what every parameter gains, worked out by hand."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    gains: dict[str, torch.Tensor] = field(default_factory=dict)
    rest: bool = False  # whether a part of it can only be merged


def noise(name: str, *shape: int, std: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)) * 31 + len(shape))
    return torch.randn(shape, generator=generator) * std


def pair(module: str, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B of a size that visibly moves the output."""
    out, width = SHAPES[f"{module}.weight"]
    down = noise(f"{module}A", rank, width, std=width**-0.5)
    return down, noise(f"{module}B", out, rank, std=0.2 * rank**-0.5)


def original(module: str) -> str:
    name = to_original(module)
    assert name is not None
    return name


def plain(
    stem: Callable[[str], str],
    down: str,
    up: str,
    modules: tuple[str, ...] = CROSS,
    alpha: float | None = None,
) -> Lora:
    lora = Lora()
    for module in modules:
        a, b = pair(module)
        lora.tensors |= {f"{stem(module)}.{down}.weight": a, f"{stem(module)}.{up}.weight": b}
        if alpha is not None:
            lora.tensors[f"{stem(module)}.alpha"] = torch.tensor(alpha)
        lora.gains[f"{module}.weight"] = (1.0 if alpha is None else alpha / RANK) * b @ a
    return lora


def musubi() -> Lora:
    """Make musubi-tuner's own: underscored original names, alpha tensors."""
    return plain(
        lambda m: "lora_unet_" + original(m).replace(".", "_"), "lora_down", "lora_up", alpha=2.0
    )


def original_down_up() -> Lora:
    """Make ComfyUI's with original names and an alpha above the rank."""
    return plain(lambda m: f"diffusion_model.{original(m)}", "lora_down", "lora_up", alpha=6.0)


def diffsynth() -> Lora:
    """Make DiffSynth's: bare original names, peft's adapter name left in."""
    return plain(original, "lora_A.default", "lora_B.default")


def rslora() -> Lora:
    """Make diffusers' with metadata that says rsLoRA: alpha / sqrt(rank)."""
    lora = plain(lambda m: f"transformer.{m}", "lora_A", "lora_B")
    targets = '["' + '", "'.join(CROSS) + '"]'
    lora.metadata["lora_adapter_metadata"] = (
        f'{{"transformer.r": {RANK}, "transformer.lora_alpha": 3, '
        f'"transformer.use_rslora": true, "transformer.target_modules": {targets}}}'
    )
    lora.gains = {name: gain * 3 / RANK**0.5 for name, gain in lora.gains.items()}
    return lora


def adaptive() -> Lora:
    """Make one whose rank differs per module, as resized files have it."""
    lora = Lora()
    for number, module in enumerate(CROSS):
        a, b = pair(module, 1 + number % RANK)
        lora.tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        lora.gains[f"{module}.weight"] = b @ a
    return lora


def elsewhere() -> Lora:
    """Make one on self-attention, feed-forward, embedders and the head."""
    return plain(lambda m: f"transformer.{m}", "lora_A", "lora_B", modules=ELSEWHERE)


def with_bias() -> Lora:
    """Make one that also changes a bias and a norm, which no low-rank branch can."""
    lora = plain(lambda m: f"diffusion_model.{original(m)}", "lora_down", "lora_up", alpha=4.0)
    bias = noise("bias", I2V.width, std=0.1)
    norm = noise("norm", I2V.width, std=0.1)
    lora.tensors["diffusion_model.blocks.0.cross_attn.q.diff_b"] = bias
    lora.tensors["diffusion_model.blocks.1.norm3.diff"] = norm
    lora.gains |= {"blocks.0.attn2.to_q.bias": bias, "blocks.1.norm2.weight": norm}
    lora.rest = True
    return lora


def dora() -> Lora:
    """Make DoRA: the direction of W + BA, with columns of a trained length."""
    lora = plain(lambda m: f"transformer.{m}", "lora_A", "lora_B", modules=CROSS[:2])
    for module in CROSS[:2]:
        name = f"{module}.weight"
        magnitude = 1 + noise(f"{module}m", SHAPES[name][0], std=0.2).abs()
        lora.tensors[f"transformer.{module}.lora_magnitude_vector"] = magnitude
    lora.rest = True
    return lora


def lokr() -> Lora:
    """Make LyCORIS' Kronecker product of two whole factors."""
    lora = Lora(rest=True)
    for module in CROSS[:2]:
        out, width = SHAPES[f"{module}.weight"]
        w1 = noise(f"{module}1", 8, 16, std=0.3)
        w2 = noise(f"{module}2", out // 8, width // 16, std=0.1)
        stem = "lycoris_" + module.replace(".", "_")
        lora.tensors |= {f"{stem}.lokr_w1": w1, f"{stem}.lokr_w2": w2}
        lora.gains[f"{module}.weight"] = torch.kron(w1, w2)
    return lora


MAKERS = (musubi, original_down_up, diffsynth, rslora, adaptive, elsewhere, with_bias, dora, lokr)


class Bench:
    """A base, the LoRA files, and diffusers' model to hold engines to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_checkpoint(root / "base", I2V, "fp32", 0)
        self.weights: dict[str, torch.Tensor] = {}
        for shard in (root / "base").glob("*.safetensors"):
            self.weights.update(load_file(shard))
        config = WanTransformer3DModel.load_config(root / "base")
        self.model = WanTransformer3DModel.from_config(config).eval()
        self.loras: dict[str, Lora] = {}
        for make in MAKERS:
            self.add(make.__name__, make())
        for module in CROSS[:2]:  # DoRA depends on the weights
            lora, name = self.loras["dora"], f"{module}.weight"
            moved = self.weights[name] + lora.gains[name]
            length = moved.norm(dim=1, keepdim=True)
            magnitude = lora.tensors[f"transformer.{module}.lora_magnitude_vector"]
            lora.gains[name] = magnitude[:, None] / length * moved - self.weights[name]

    def add(self, name: str, lora: Lora) -> None:
        self.loras[name] = lora
        held = {key: tensor.contiguous() for key, tensor in lora.tensors.items()}
        save_file(held, self.file(name), metadata=lora.metadata)

    def file(self, name: str) -> Path:
        return self.root / f"{name}.safetensors"

    def expect(self, inputs: dict[str, np.ndarray], strengths: dict[str, float]) -> torch.Tensor:
        """Run diffusers' model with the files' gains added to its weights by hand."""
        weights = {name: tensor.double() for name, tensor in self.weights.items()}
        for name, strength in strengths.items():
            for parameter, gain in self.loras[name].gains.items():
                weights[parameter] = weights[parameter] + strength * gain.double()
        self.model.load_state_dict({name: t.float() for name, t in weights.items()})
        feeds = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
        with torch.inference_mode():
            sample: torch.Tensor = self.model(**feeds, return_dict=False)[0]
        return sample

    def build(self, out: Path, strengths: dict[str, float], **options: Any) -> dict[str, Built]:
        loras = tuple(LoraArgument(str(self.file(n)), s) for n, s in strengths.items())
        options = {"modes": MODES, "merge_rest": True, "verify": False} | options
        made = build(out, I2V, base=str(self.root / "base"), loras=loras, **options)
        return {built.target.mode: built for built in made}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("loras"))


def run(folder: Path, adapter: AdapterArgument = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    with load_engine(folder) as engine:
        inputs = make_inputs(engine.manifest, engine.manifest.workloads[SIZE.name], seed=7)
        if adapter:
            engine.swap(adapter)
        return inputs, engine.forward(**inputs)["sample"]


def shipped(folder: Path) -> list[tuple[Path, float]]:
    stacks = read_manifest(folder).stacks
    return [(folder / file.file, file.strength) for file in stacks[0]] if stacks else []


def distance(actual: np.ndarray, expected: torch.Tensor) -> float:
    difference = torch.from_numpy(actual.astype(np.float64)) - expected.double()
    return float(difference.norm() / expected.double().norm())


def check(bench: Bench, built: dict[str, Built], strengths: dict[str, float]) -> None:
    for mode, engine in built.items():
        inputs, sample = run(engine.path, shipped(engine.path))
        expected = bench.expect(inputs, strengths)
        assert distance(sample, expected) < TOLERANCE, mode
        plain = bench.expect(inputs, {})
        assert distance(plain.numpy(), expected) > 1e-3  # so that the above means something


LOW_RANK = [make.__name__ for make in MAKERS if make is not dora and make is not lokr]


@pytest.mark.parametrize("name", LOW_RANK)
def test_every_mode_applies_all_of_a_file(name: str, bench: Bench, tmp_path: Path) -> None:
    check(bench, bench.build(tmp_path, {name: 1.0}), {name: 1.0})


@pytest.mark.parametrize("name", ["dora", "lokr"])
def test_what_is_not_low_rank_is_merged(name: str, bench: Bench, tmp_path: Path) -> None:
    check(bench, bench.build(tmp_path, {name: 1.0}, modes=("merged",)), {name: 1.0})


@pytest.mark.parametrize("name", ["musubi", "with_bias", "rslora"])
def test_a_strength_scales_all_of_it(name: str, bench: Bench, tmp_path: Path) -> None:
    check(bench, bench.build(tmp_path, {name: 0.5}), {name: 0.5})


def test_two_files_are_one_adapter(bench: Bench, tmp_path: Path) -> None:
    strengths = {"musubi": 0.75, "elsewhere": -0.5}
    built = bench.build(tmp_path, strengths)
    check(bench, built, strengths)
    assert "r4-musubi-x0.75-elsewhere-x-0.5" in built["merged"].path.name
    manifest = read_manifest(built["separate"].path)
    assert manifest.rank == RANK
    assert set(manifest.targets) == {*CROSS, *ELSEWHERE}
    assert [s.strength for s in manifest.sources if s.strength is not None] == [0.75, -0.5]


def test_two_files_on_the_same_modules_stack(bench: Bench, tmp_path: Path) -> None:
    strengths = {"musubi": 1.0, "diffsynth": 0.5}
    built = bench.build(tmp_path, strengths, modes=("separate", "merged"))
    check(bench, built, strengths)
    assert read_manifest(built["separate"].path).rank == 2 * RANK


def test_the_build_verifies_it(bench: Bench, tmp_path: Path) -> None:
    built = bench.build(tmp_path, {"with_bias": 1.0}, verify=True)
    for engine in built.values():
        found = engine.verification
        assert found is not None
        assert found.error is not None
        assert found.adapter_effect is not None
        assert found.adapter_effect > 100 * found.error


@pytest.mark.parametrize("mode", ["separate", "swappable"])
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("with_bias", "blocks.0.attn2.to_q.bias"),
        ("dora", "DoRA of blocks.0.attn2.to_"),
        ("lokr", "LoKr of blocks.0.attn2.to_"),
    ],
)
def test_what_no_branch_carries_is_refused_by_name(
    mode: str, name: str, part: str, bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=f"mode {mode} can't carry .*{part}") as caught:
        bench.build(tmp_path, {name: 1.0}, modes=(mode,), merge_rest=False)
    assert str(bench.file(name)) in str(caught.value)
    assert "--merge-rest" in caught.value.hint
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize("mode", ["separate", "swappable"])
def test_a_file_without_a_low_rank_part_has_nothing_to_carry(
    mode: str, bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=r"lokr\.safetensors has no low-rank part") as caught:
        bench.build(tmp_path, {"lokr": 1.0}, modes=(mode,))
    assert "--mode merged" in caught.value.hint


def test_an_adapter_made_for_an_engine_equals_a_fresh_engine(bench: Bench, tmp_path: Path) -> None:
    engine = bench.build(tmp_path / "a", {"musubi": 1.0}, modes=("swappable",))["swappable"].path
    for name, strength in {"diffsynth": 0.5, "adaptive": 1.0, "rslora": -1.0}.items():
        path = tmp_path / f"{name}.safetensors"
        outcome = wanexport("adapter", bench.file(name), "--for", engine, "-o", path)
        assert outcome.code == 0, outcome.err
        assert outcome.out == f"saved {path} (rank {RANK})\n"
        fresh = bench.build(tmp_path / name, {name: strength}, modes=("separate",))["separate"]
        inputs, swapped = run(engine, [(path, strength)])
        _, separate = run(fresh.path)
        assert distance(swapped, torch.from_numpy(separate)) < TOLERANCE
        assert distance(swapped, bench.expect(inputs, {name: strength})) < TOLERANCE


def test_files_compose_into_one_adapter(bench: Bench, tmp_path: Path) -> None:
    built = bench.build(tmp_path, {"musubi": 1.0}, modes=("swappable",), max_rank=2 * RANK)
    engine = built["swappable"].path
    path = tmp_path / "both.safetensors"
    files = (bench.file("musubi"), bench.file("diffsynth"))
    outcome = wanexport("adapter", *files, "--for", engine, "-o", path)
    assert outcome.out == f"saved {path} (rank {2 * RANK})\n", outcome.err
    inputs, sample = run(engine, path)
    expected = bench.expect(inputs, {"musubi": 1.0, "diffsynth": 1.0})
    assert distance(sample, expected) < TOLERANCE


def test_an_adapter_file_has_no_strength_of_its_own(bench: Bench, tmp_path: Path) -> None:
    built = bench.build(tmp_path, {"musubi": 1.0}, modes=("swappable",))
    path = tmp_path / "half.safetensors"
    lora = f"{bench.file('musubi')}:0.5"
    outcome = wanexport("adapter", lora, "--for", built["swappable"].path, "-o", path)
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        f"error: {lora}: an adapter file has no strength of its own",
        f"hint: give it where it is loaded: wanrt run --adapter {path}:0.5",
    ]
    assert not path.exists()


def test_a_file_whose_rest_the_engine_has_is_carried(bench: Bench, tmp_path: Path) -> None:
    """An engine built with a distill LoRA's biases in its base takes that LoRA and a style."""
    built = bench.build(
        tmp_path, {"with_bias": 1.0}, modes=("swappable",), merge_rest=True, max_rank=2 * RANK
    )
    engine, path = built["swappable"].path, tmp_path / "both.safetensors"
    ending = ("--for", engine, "-o", path)
    outcome = wanexport("adapter", bench.file("with_bias"), bench.file("musubi"), *ending)
    assert outcome.code == 0, outcome.err
    inputs, sample = run(engine, path)
    assert distance(sample, bench.expect(inputs, {"with_bias": 1.0, "musubi": 1.0})) < TOLERANCE


def test_loras_of_the_hub_are_called_by_their_repositories(
    bench: Bench, hub: Path, tmp_path: Path
) -> None:
    """Nearly all of them are files of the same name; they may become engines side by side."""
    usual = "pytorch_lora_weights.safetensors"
    add_files(hub, "org/style", {usual: bench.file("musubi")})
    add_files(hub, "other/style", {usual: bench.file("diffsynth")})
    add_files(hub, "org/peft", {"run-2/adapter_model.safetensors": bench.file("rslora")})
    add_files(hub, "org/named", {"sketch.safetensors": bench.file("musubi")})
    asked = {
        "org/style:0.5": ("org--style-x0.5", "musubi"),
        "other/style:0.5": ("other--style-x0.5", "diffsynth"),
        "org/peft/run-2": ("org--peft--run-2", "rslora"),
        "org/named:0.5": ("sketch-x0.5", "musubi"),
    }
    for argument, (name, file) in asked.items():
        lora = parse_lora(argument)
        (built,) = build(
            tmp_path / "out", I2V, modes=("separate",), base=str(bench.root / "base"),
            verify=False, loras=(lora,),
        )  # fmt: skip
        assert built.path.name == f"tiny-{SIZE.name}-fp32-separate-r{RANK}-{name}"
        check(bench, {"separate": built}, {file: lora.strength})
    assert wanrt("verify", tmp_path / "out").code == 0


def test_a_file_called_as_all_are_goes_by_its_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "style").mkdir()
    shutil.copy(bench.file("musubi"), tmp_path / "style" / "adapter_model.safetensors")
    monkeypatch.chdir(tmp_path / "style")
    (built,) = build(
        tmp_path / "out", I2V, modes=("separate",), base=str(bench.root / "base"), verify=False,
        loras=(LoraArgument("adapter_model.safetensors"),),
    )  # fmt: skip
    assert built.path.name.endswith(f"-separate-r{RANK}-style")
