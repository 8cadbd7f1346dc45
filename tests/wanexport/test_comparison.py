"""`wanexport compare`: two engines, or one and diffusers' model, as a whole and piece by piece."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from commands import Outcome, wanexport
from safetensors.torch import load_file, save_file
from studies import I2V, build
from tinyengines import Tiny, make_engine

from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.tensorrt.settings import PlanSettings

MODES = ("full", "merged", "separate", "swappable")
CHANGED = "blocks.1.ffn.net.2.weight"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, and a fine-tune with another value in block 1."""
    root = tmp_path_factory.mktemp("compared")
    base = root / "base"
    write_checkpoint(base, I2V, "fp32", 0)
    build(root / "fp32", ranks=(4,), base=str(base), verify=False)
    (file,) = shutil.copytree(base, root / "changed").glob("*.safetensors")
    tensors = load_file(file)
    tensors[CHANGED][3, 5] = 9.0
    save_file(tensors, file)
    build(root / "of-changed", modes=("full",), base=str(root / "changed"), verify=False)
    return root


def of(folder: Path, mode: str) -> Path:
    (found,) = folder.glob(f"tiny-*-{mode}*")
    return found


def adapter(engines: Path) -> Path:
    return of(engines / "fp32", "swappable") / "adapters" / "r4.safetensors"


def first_off(outcome: Outcome) -> str:
    found = re.search(r"^(\S+) (is the first that )?differs by more than", outcome.out, re.M)
    assert found, outcome
    assert outcome.code == 1
    return found[1]


@pytest.mark.parametrize("flags", [(), ("--blocks",)], ids=["whole", "blocks"])
@pytest.mark.parametrize("mode", MODES)
def test_an_engine_is_diffusers_with_its_weights(
    engines: Path, mode: str, flags: tuple[str, ...]
) -> None:
    given = ("--adapter", adapter(engines)) if mode == "swappable" else ()
    outcome = wanexport("compare", of(engines / "fp32", mode), "diffusers", *flags, *given)
    assert outcome.code == 0, outcome
    assert outcome.out.endswith("equal within 1e-05 (L2)\n")
    assert outcome.out.isascii()  # polygraphy's histograms aren't
    assert ("  blocks.1 " in outcome.out) == bool(flags)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_split_engine_is_compared_as_one(tmp_path: Path, dynamic: bool) -> None:
    options = {"modes": ("swappable",), "ranks": (4,), "verify": False, "dynamic": dynamic}
    engine = build(tmp_path, I2V, split=True, **options)[0].path
    given = ("--adapter", engine / "adapters" / "r4.safetensors")
    for flags in ((), ("--blocks",)):
        outcome = wanexport("compare", engine, "diffusers", *flags, *given)
        assert outcome.code == 0, outcome


@pytest.mark.parametrize("flags", [(), ("--blocks",)], ids=["whole", "blocks"])
def test_a_swapped_adapter_is_the_merged_one(engines: Path, flags: tuple[str, ...]) -> None:
    pair = of(engines / "fp32", "merged"), of(engines / "fp32", "swappable")
    assert wanexport("compare", *pair, "--adapter", adapter(engines), *flags).code == 0
    outcome = wanexport("compare", *pair, *flags)
    assert first_off(outcome) == ("blocks.0" if flags else "sample")


def test_blocks_name_the_first_that_differs(engines: Path, tmp_path: Path) -> None:
    constants = of(engines / "fp32", "full") / "weights/constants.safetensors"
    (tmp_path / "backup").hardlink_to(constants)  # onnx-ir reads no such file
    pair = of(engines / "fp32", "full"), of(engines / "of-changed", "full")
    assert first_off(wanexport("compare", *pair)) == "sample"
    outcome = wanexport("compare", *pair, "--blocks")
    assert first_off(outcome) == "blocks.1"
    assert re.search(r"blocks\.0 +0\.0e\+00", outcome.out)
    assert wanexport("compare", *pair, "--tolerance", "100").code == 0


def test_bf16_weights_are_compared_in_fp32(engines: Path) -> None:
    (engine,) = build(
        engines / "bf16", modes=("full",), base=str(engines / "base"), dtype="bf16", verify=False
    )
    outcome = wanexport("compare", engine.path, "diffusers", "--blocks")
    assert (outcome.code, "equal within 1e-05" in outcome.out) == (0, True), outcome
    outcome = wanexport("compare", engine.path, of(engines / "fp32", "full"))
    assert (outcome.code, "cpu, emulated" in outcome.out) == (0, True), outcome


@pytest.mark.usefixtures("fake_builder")
def test_of_a_plan_the_graph_is_compared(engines: Path, tmp_path: Path) -> None:
    (engine,) = build(
        tmp_path, modes=("separate",), ranks=(4,), base=str(engines / "base"), dtype="fp16",
        verify=False, tensorrt=PlanSettings("tensorrt-rtx", lora_form="fused"),
    )  # fmt: skip
    outcome = wanexport("compare", engine.path, "diffusers", "--blocks")
    assert outcome.code == 0, outcome
    assert "Graphs are compared, on ONNX Runtime: the compiled plan of" in outcome.out
    outcome = wanexport("compare", engine.path, "diffusers")
    assert (outcome.code, "add --blocks" in outcome.err) == (1, True)


def test_refusals_say_what_to_do(engines: Path, tmp_path: Path) -> None:
    full = of(engines / "fp32", "full")
    other = make_engine(tmp_path / "other", Tiny())
    for argv, code, text in (
        ((full, other), 1, "the engines take different inputs"),
        ((full, "diffusers", "--adapter", adapter(engines)), 1, "--adapter has no effect"),
        ((full, "diffusers", "--workload", "1x1x1"), 1, "has no workload '1x1x1'"),
        ((full, tmp_path), 1, "engine.json"),
        (("diffusers", full), 2, "name the engine first"),
        ((full, full, "--tolerance", "nan"), 2, "--tolerance"),
        ((full, full, "--blocks", "--seed", "1"), 2, "--seed"),
        ((full, full, "--blocks", "--device", "cuda"), 2, "--device"),
    ):
        outcome = wanexport("compare", *argv)
        assert (outcome.code, text in outcome.err) == (code, True), outcome
