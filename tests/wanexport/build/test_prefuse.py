"""`--prefuse`: distilled LoRAs in the base of every engine, against a base merged by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import wanexport, wanrt
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from studies import I2V, SIZE, build

from wanexport.build.recipe import Built
from wanexport.build.request import MODES
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import BuildError
from wanexport.lora.find import LoraArgument
from wanexport.lora.random_adapter import seeded_adapter
from wanexport.lora.targets import select_modules
from wanexport.model.names import module_shapes, to_original
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Mode

SHAPES = module_shapes(I2V)
TOLERANCE = 3e-6
STYLE_RANK = 4


@dataclass
class Distilled:
    """A file, and what every parameter gains at strength 1, worked out by hand."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    gains: dict[str, torch.Tensor] = field(default_factory=dict)


def noise(name: str, *shape: int, std: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)) * 31 + len(shape))
    return torch.randn(shape, generator=generator) * std


def products(made: Distilled, stem: Any, down: str, up: str, alpha: float | None) -> None:
    for module in select_modules(I2V, "all"):
        out, width = SHAPES[f"{module}.weight"]
        a, b = noise(f"{module}A", 6, width, std=width**-0.5), noise(f"{module}B", out, 6, std=0.05)
        made.tensors |= {f"{stem(module)}.{down}": a, f"{stem(module)}.{up}": b}
        made.gains[f"{module}.weight"] = (1.0 if alpha is None else alpha / 6) * b @ a
        if alpha is not None:
            made.tensors[f"{stem(module)}.alpha"] = torch.tensor(alpha)


def lightx2v() -> Distilled:
    """Make a LoRA of all linear layers, with changes of biases (diff_b) and norms (diff)."""
    made = Distilled()
    products(made, lambda m: f"diffusion_model.{to_original(m)}", "lora_down.weight",
             "lora_up.weight", 6.0)  # fmt: skip
    for name, role in {
        "blocks.0.attn1.to_q.bias": "diff_b",
        "blocks.1.ffn.net.2.bias": "diff_b",
        "blocks.0.norm2.weight": "diff",
        "blocks.1.attn1.norm_q.weight": "diff",
        "condition_embedder.time_proj.bias": "diff_b",
        "proj_out.weight": "diff",
    }.items():
        module = name.rpartition(".")[0]
        change = noise(name, *SHAPES[name], std=0.05)
        made.tensors[f"diffusion_model.{to_original(module)}.{role}"] = change
        made.gains[name] = change
    return made


def causvid() -> Distilled:
    """Make a plain one with a `diffusion_model.` prefix and no alpha, as CausVid's LoRA is."""
    made = Distilled()
    products(made, lambda m: f"diffusion_model.{to_original(m)}", "lora_A.weight",
             "lora_B.weight", None)  # fmt: skip
    return made


def lightning() -> Distilled:
    """Make one with underscored original names and alpha tensors, as Lightning's are."""
    made = Distilled()
    products(made, lambda m: "lora_unet_" + str(to_original(m)).replace(".", "_"),
             "lora_down.weight", "lora_up.weight", 3.0)  # fmt: skip
    return made


MAKERS = (lightx2v, causvid, lightning)


class Bench:
    """A base, the files, and diffusers' model to hold engines to."""

    def __init__(self, root: Path) -> None:
        self.root, self.base = root, root / "base"
        write_checkpoint(self.base, I2V, "fp32", 0)
        self.weights: dict[str, torch.Tensor] = {}
        for shard in self.base.glob("*.safetensors"):
            self.weights.update(load_file(shard))
        self.made = {make.__name__: make() for make in MAKERS}
        for name, made in self.made.items():
            tensors = {key: value.contiguous() for key, value in made.tensors.items()}
            save_file(tensors, self.file(name))
        cross = select_modules(I2V, "cross-attention")
        seeded_adapter(self.file("style"), SHAPES, cross, STYLE_RANK, seed=5, dtype="fp32")
        style = load_file(self.file("style"))
        self.made["style"] = Distilled(
            gains={
                f"{m}.weight": style[f"transformer.{m}.lora_B.weight"]
                @ style[f"transformer.{m}.lora_A.weight"]
                for m in cross
            }
        )

    def file(self, name: str) -> Path:
        return self.root / f"{name}.safetensors"

    def expect(self, inputs: dict[str, np.ndarray], **strengths: float) -> np.ndarray:
        """Run diffusers' model with the files' gains added to its weights by hand, in fp64."""
        weights = {name: tensor.double() for name, tensor in self.weights.items()}
        for name, strength in strengths.items():
            for parameter, gain in self.made[name].gains.items():
                weights[parameter] += strength * gain.double()
        model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(self.base))
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        feeds = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
        with torch.inference_mode():
            sample: np.ndarray = model.eval()(**feeds, return_dict=False)[0].numpy()
        return sample

    def build(self, out: Path, *prefuse: LoraArgument, **options: Any) -> dict[str, Built]:
        loras = () if options.get("modes") == ("full",) else (self.argument("style", 0.5),)
        made = build(out, base=str(self.base), loras=loras, prefuse=prefuse, **options)
        return {one.target.mode: one for one in made}

    def argument(self, name: str, strength: float = 1.0) -> LoraArgument:
        return LoraArgument(str(self.file(name)), strength)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("prefuse"))


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    difference = actual.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "strength", "modes"),
    [("lightx2v", 1.0, MODES), ("causvid", 0.5, ("merged",)), ("lightning", -1, ("swappable",))],
)
def test_every_mode_has_it_in_its_base(
    bench: Bench, name: str, strength: float, modes: tuple[Mode, ...], tmp_path: Path
) -> None:
    built = bench.build(tmp_path, bench.argument(name, strength), modes=modes)
    assert set(built) == set(modes)
    for mode, one in built.items():
        manifest = read_manifest(one.path)
        (said,) = manifest.prefuse
        assert (said.name, said.strength) == (name, strength)
        label = name if strength == 1 else f"{name}-x{strength:g}"
        assert f"-pre-{label}-{mode}" in manifest.name
        assert manifest.compared_by["prefuse"].startswith(name)
        assert manifest.verification.error is not None
        with load_engine(one.path) as engine:
            inputs = make_inputs(manifest, manifest.workloads[SIZE.name], seed=1)
            base = bench.expect(inputs, **{name: strength})
            if mode == "swappable":
                assert distance(engine.forward(**inputs)["sample"], base) < TOLERANCE
                engine.swap([(one.path / f.file, f.strength) for f in manifest.stacks[0]])
            sample = engine.forward(**inputs)["sample"]
        expected = base if mode == "full" else bench.expect(inputs, **{name: strength}, style=0.5)
        assert distance(sample, expected) < TOLERANCE, mode
        assert distance(base, bench.expect(inputs)) > 1e-2


def test_several_are_added(bench: Bench, tmp_path: Path) -> None:
    prefuse = (bench.argument("lightx2v"), bench.argument("causvid", 0.25))
    built = bench.build(tmp_path, *prefuse, modes=("merged",))["merged"]
    manifest = read_manifest(built.path)
    assert "-pre-lightx2v-pre-causvid-x0.25-" in manifest.name
    with load_engine(built.path) as engine:
        inputs = make_inputs(manifest, manifest.workloads[SIZE.name], seed=1)
        sample = engine.forward(**inputs)["sample"]
    expected = bench.expect(inputs, lightx2v=1.0, causvid=0.25, style=0.5)
    assert distance(sample, expected) < TOLERANCE


def test_what_it_changes_is_written_once(bench: Bench, tmp_path: Path) -> None:
    built = bench.build(tmp_path, bench.argument("causvid"), verify=False)
    inodes = {}
    for mode, one in built.items():
        manifest = read_manifest(one.path)
        files = [file for file in manifest.weights if file.origin == "prefused"]
        assert all(file.storage == "pool" for file in files)
        inodes[mode] = {(one.path / file.file).stat().st_ino for file in files}
        untouched = [file for file in manifest.weights if file.origin == "base"]
        assert untouched
        assert all(file.storage in ("hardlink", "reflink") for file in untouched)
    assert inodes["full"] == inodes["separate"] == inodes["swappable"]
    assert inodes["merged"] <= inodes["full"]


def test_another_strength_is_another_base(bench: Bench, tmp_path: Path) -> None:
    """The pool's files are named after what is in them; the strength is in neither file."""
    samples = []
    for strength in (1.0, 0.5):
        prefuse = bench.argument("causvid", strength)
        built = bench.build(tmp_path, prefuse, modes=("full",))["full"]
        manifest = read_manifest(built.path)
        with load_engine(built.path) as engine:
            inputs = make_inputs(manifest, manifest.workloads[SIZE.name], seed=1)
            samples.append(engine.forward(**inputs)["sample"])
        assert distance(samples[-1], bench.expect(inputs, causvid=strength)) < TOLERANCE
    again = bench.build(tmp_path, bench.argument("causvid"), modes=("full",))["full"]
    assert again.verification is None  # up to date


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_it_is_rounded_once(bench: Bench, dtype: str, tmp_path: Path) -> None:
    built = bench.build(tmp_path, bench.argument("causvid"), modes=("full", "merged"), dtype=dtype)
    q = "blocks.0.attn2.to_q.weight"
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
    gains = {"full": bench.made["causvid"].gains[q].double()}
    gains["merged"] = gains["full"] + 0.5 * bench.made["style"].gains[q].double()
    for mode, one in built.items():
        held: dict[str, torch.Tensor] = {}
        for file in (one.path / "weights").glob("*.safetensors"):
            if not file.name.startswith("base"):
                held |= load_file(file)
        wanted = (bench.weights[q].double() + gains[mode]).float().to(kinds[dtype])
        same = (held[q].float() == wanted.float()).double().mean()
        assert same > 0.999, mode  # sums in fp32 may fall on the other side of a tie


def test_a_fine_tune_has_it_too(bench: Bench, tmp_path: Path) -> None:
    tuned = {name: tensor * 1.01 for name, tensor in bench.weights.items()}
    (tmp_path / "tuned").mkdir()
    save_file(tuned, tmp_path / "tuned" / "model.safetensors")
    built = bench.build(
        tmp_path / "engines", bench.argument("causvid"), modes=("full", "separate"),
        finetuned=str(tmp_path / "tuned" / "model.safetensors"),
    )  # fmt: skip
    assert {mode: read_manifest(one.path).full_finetune for mode, one in built.items()} == {
        "full": True, "separate": False,
    }  # fmt: skip
    assert {read_manifest(one.path).compared_by["prefuse"] for one in built.values()} == {
        read_manifest(built["full"].path).compared_by["prefuse"]
    }


def test_the_command_says_what_is_merged(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    numbers = {k: v for k, v in I2V.model_dump(exclude_none=True).items() if type(v) is int}
    lines = [
        'name = "tiny"',
        'dtype = "fp32"',
        "[architecture]",
        *(f"{k} = {v}" for k, v in numbers.items()),
    ]
    size = ["[size]", "width = 96", "height = 64", "frames = 5"]
    config.write_text("\n".join([*lines, *size]))
    common = ("--config", config, "--base", bench.base, "--mode", "full", "--out", tmp_path / "out")
    file = bench.file("causvid")
    dry = wanexport("build", *common, "--prefuse", f"{file}:0.5", "--dry-run")
    assert dry.code == 0, dry.err
    assert f"{file} merged into 24 of" in dry.out
    built = wanexport("build", *common, "--prefuse", f"{file}:0.5")
    assert built.code == 0, built.err
    assert "tiny-96x64x5-fp32-pre-causvid-x0.5-full" in built.out
    (engine,) = (tmp_path / "out").glob("tiny-*")
    said = wanrt("info", engine)
    assert "causvid, strength 0.5, " in said.out
    assert "merged into the base" in said.out
    for flags, problem in {
        ("--prefuse", ""): "is empty",
        ("--prefuse", tmp_path / "none.safetensors"): "none.safetensors",
        ("--prefuse", f"{file}:nan"): "must be finite",
    }.items():
        refused = wanexport("build", *common, *flags)
        assert refused.code in (1, 2)
        assert problem in refused.err


def test_engines_of_other_bases_are_not_mistaken(bench: Bench, tmp_path: Path) -> None:
    """A file of the same name and other values is another base."""
    bench.build(tmp_path / "out", bench.argument("causvid"), modes=("full",), verify=False)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "causvid.safetensors"
    save_file({k: 2 * v for k, v in load_file(bench.file("causvid")).items()}, other)
    with pytest.raises(BuildError, match="another base"):
        bench.build(tmp_path / "out", LoraArgument(str(other)), modes=("full",), verify=False)


@pytest.fixture(scope="module")
def engine(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fused")
    prefuse = (bench.argument("lightx2v"), bench.argument("causvid", 0.5))
    return bench.build(out, *prefuse, modes=("swappable",), verify=False)["swappable"].path


class TestAdaptersForAnEngineThatHasSome:
    """`wanexport adapter DISTILL STYLE --for E`."""

    def test_what_is_prefused_is_left_out(self, bench: Bench, engine: Path, tmp_path: Path) -> None:
        path = tmp_path / "style.safetensors"
        files = (bench.file("lightx2v"), bench.file("style"), f"{bench.file('causvid')}:0.5")
        outcome = wanexport("adapter", *files, "--for", engine, "-o", path)
        assert outcome.code == 0, outcome.err
        assert f"{bench.file('lightx2v')}: left out, the engine's base has it" in outcome.err
        with load_engine(engine) as loaded:
            inputs = make_inputs(loaded.manifest, loaded.manifest.workloads[SIZE.name], seed=1)
            loaded.swap(path)
            sample = loaded.forward(**inputs)["sample"]
        expected = bench.expect(inputs, lightx2v=1.0, causvid=0.5, style=1.0)
        assert distance(sample, expected) < TOLERANCE

    @pytest.mark.parametrize(
        ("files", "problem"),
        [
            (("causvid", "style"), "in the engine's base at strength 0.5, 1 was asked for"),
            (("lightx2v:0.5",), "in the engine's base at strength 1, 0.5 was asked for"),
            (("lightx2v",), "has all of this in its base, so there is nothing to load"),
            (("lightning",), "has no inputs for"),
            (("style:0.5",), "an adapter file has no strength of its own"),
        ],
    )
    def test_what_is_not_that_is_refused(
        self, bench: Bench, engine: Path, files: tuple[str, ...], problem: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.safetensors"
        named = [name.partition(":") for name in files]
        given = [f"{bench.file(name)}{colon}{strength}" for name, colon, strength in named]
        outcome = wanexport("adapter", *given, "--for", engine, "-o", path)
        assert outcome.code in (1, 2)
        assert problem in outcome.err
        assert not path.exists()

    def test_the_low_rank_part_of_a_file_whose_rest_was_merged(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        (engine,) = build(
            tmp_path / "out", base=str(bench.base), loras=(bench.argument("lightx2v"),),
            merge_rest=True, modes=("swappable",), verify=False,
        )  # fmt: skip
        path = tmp_path / "x.safetensors"
        outcome = wanexport("adapter", bench.file("lightx2v"), "--for", engine.path, "-o", path)
        assert outcome.code == 0, outcome.err
        assert "the engine's base has diff of " in outcome.err
        with load_engine(engine.path) as loaded:
            inputs = make_inputs(loaded.manifest, loaded.manifest.workloads[SIZE.name], seed=1)
            loaded.swap(path)
            sample = loaded.forward(**inputs)["sample"]
        assert distance(sample, bench.expect(inputs, lightx2v=1.0)) < TOLERANCE
