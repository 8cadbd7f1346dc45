"""`--quantize int8`: engines against fake quantisation of diffusers' model, written apart here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakebuilder
import numpy as np
import onnx
import pytest
import torch
from commands import wanexport, wanrt
from diffusers import WanTransformer3DModel
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from studies import I2V, SIZE, build
from torch import Tensor, nn

from wanexport.build.recipe import Built
from wanexport.errors import BuildError
from wanexport.model.quantization import ORT_INT8, select_quantized
from wanexport.tensorrt import builder
from wanexport.tensorrt.settings import PlanSettings
from wanexport.weights.quantize import quantize
from wanrt.backends.load import load_engine
from wanrt.backends.onnxruntime.session import open_session
from wanrt.engine.inputs import make_inputs
from wanrt.errors import UnsupportedError
from wanrt.manifest.read import read_manifest

# One value in a million that rounds the other way in a layer makes others do so in the next:
# after two blocks two right implementations are that far apart. One layer is compared sharply.
TOLERANCE = 8e-3
COST = 5e-2  # of quantising, as the product states it
RANK = 4
ONE_LAYER = I2V.model_copy(update={"num_layers": 1})


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    out = tmp_path_factory.mktemp("int8")
    made = build(out, ranks=(RANK,), quantize="int8")
    return {one.target.mode: one for one in made}


def distance(actual: Any, expected: Any) -> float:
    actual, expected = (np.asarray(one, np.float64) for one in (actual, expected))
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def run(built: Built, adapter: bool = True) -> tuple[Any, dict[str, Tensor]]:
    """Run an engine on seeded inputs; a swappable one with its own adapter, or none."""
    with load_engine(built.path) as engine:
        manifest = engine.manifest
        inputs = make_inputs(manifest, manifest.workloads[SIZE.name], seed=1)
        if manifest.mode == "swappable" and adapter:
            engine.swap([(built.path / f.file, f.strength) for f in manifest.stacks[0]])
        sample = engine.forward(**inputs)["sample"]
    return sample, {name: torch.from_numpy(value) for name, value in inputs.items()}


def int8_linear(layer: nn.Linear, branch: tuple[Tensor, Tensor] | None) -> Callable[..., Tensor]:
    """Return a Linear with s8 weights per row and u8 inputs per tensor, by integer arithmetic."""
    weight = layer.weight.detach()
    rows = weight.abs().max(dim=1).values / 127
    rows[rows == 0] = 1
    q_weight = torch.round(weight / rows[:, None]).clamp(-127, 127).double()

    def forward(x: Tensor) -> Tensor:
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        scale = (high - low) / 255  # in fp32, as the values are
        zero = torch.round(-low / scale)
        q = (torch.round(x / scale) + zero).clamp(0, 255).double()
        y = ((q - zero) @ q_weight.T * scale.double() * rows + layer.bias.double()).float()
        if branch is not None:
            down, up = branch
            y = y + (x @ down.T) @ up.T
        return y

    return forward


def expect(built: Built, inputs: dict[str, Tensor], *, int8: bool, adapter: bool = True) -> Tensor:
    """Run diffusers' model with the base's own weights, quantised here or not."""
    folder = next((built.path.parent / ".made").glob("*/config.json")).parent
    model = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    held: dict[str, Tensor] = {}
    if adapter and built.target.mode != "full":
        file = next((built.path.parent / ".made").glob("*lora*.safetensors"), None) or next(
            path for path in (built.path.parent / ".made").rglob("*.safetensors")
            if any(".lora_A" in name for name in load_file(path))
        )  # fmt: skip
        held = {n.removeprefix("transformer."): t.float() for n, t in load_file(file).items()}
    for name, layer in model.named_modules():
        if not (isinstance(layer, nn.Linear) and name.startswith("blocks.")):
            continue
        down, up = (held.get(f"{name}.{part}.weight") for part in ("lora_A", "lora_B"))
        branch = None if down is None or up is None else (down, up)
        if branch is not None and (built.target.mode == "merged" or not int8):
            layer.weight.data += up @ down  # type: ignore[operator]
            branch = None
        if int8:
            layer.forward = int8_linear(layer, branch)  # type: ignore[method-assign]
    with torch.no_grad():
        sample: Tensor = model(**inputs, return_dict=False)[0]
    return sample


def one_product(folder: Path, weight: Tensor, bias: Tensor, x: Tensor) -> Any:
    """Run the operator of the engines' graphs on weights that the product quantised."""
    q, scale = quantize(weight, ORT_INT8)
    made = {"q": q, "scale": scale, "bias": bias}
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeMatMul", ["x", "q", "scale", "", "bias"], ["y"],
                          domain="com.microsoft")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), len(weight)])],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in made.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "one.onnx")
    session = open_session(folder / "one.onnx", "cpu", 1, mapped=False, static=True)
    return session.run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("older", [False, True], ids=["this CPU", "as without VNNI"])
@pytest.mark.parametrize("case", ["normal", "largest values", "a row of zeros", "outliers"])
def test_one_product_is_integer_arithmetic(
    case: str, older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Largest values: 255 x 127 twice exceeds 16 bits, where CPUs without VNNI saturate."""
    if older:
        monkeypatch.setattr("wanrt.backends.onnxruntime.session.saturates", lambda: True)
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(640, 96)
    weight = torch.randn(96, 640, generator=generator)
    x = torch.randn(33, 640, generator=generator)
    if case == "largest values":
        weight, x = torch.ones(96, 640), torch.full((33, 640), 2.0)
    elif case == "a row of zeros":
        weight[7] = 0
    elif case == "outliers":
        x[:, 5] *= 100
    layer.weight.data = weight
    with torch.no_grad():
        expected = int8_linear(layer, None)(x)
        y = one_product(tmp_path, weight, layer.bias.detach(), x)
        assert distance(y, expected) < 1e-6
        assert distance(expected, layer(x)) < (0.3 if case == "outliers" else 2e-2)


@pytest.mark.parametrize("mode", ["full", "merged", "separate", "swappable"])
def test_an_engine_is_fake_quantisation_of_the_model(engines: dict[str, Built], mode: str) -> None:
    built = engines[mode]
    sample, inputs = run(built)
    assert distance(sample, expect(built, inputs, int8=True)) < TOLERANCE
    cost = distance(sample, expect(built, inputs, int8=False))
    assert distance(sample, expect(built, inputs, int8=True)) < cost < COST
    verified = built.verification
    assert verified is not None
    assert verified.error is not None
    assert verified.tolerance == COST
    assert verified.error == pytest.approx(cost, rel=0.5)


def test_an_unmerged_branch_stays_exact(engines: dict[str, Built]) -> None:
    """What the adapter changes, against what it changes in the same quantised model."""
    built = engines["swappable"]
    with_adapter, inputs = run(built)
    without, _ = run(built, adapter=False)
    true = expect(built, inputs, int8=False) - expect(built, inputs, int8=False, adapter=False)
    change = torch.from_numpy(with_adapter - without)
    cosine = float(nn.functional.cosine_similarity(change.flatten(), true.flatten(), dim=0))
    assert cosine > 0.98


def test_one_file_of_weights_is_shared(engines: dict[str, Built]) -> None:
    held: dict[str, set[int]] = {}
    for mode, built in engines.items():
        for file in read_manifest(built.path).weights:
            if file.origin == "base":
                held.setdefault(mode, set()).add((built.path / file.file).stat().st_ino)
    assert held["full"] == held["separate"] == held["swappable"] == held["merged"]
    linear = select_quantized(I2V)
    (pooled,) = (engines["full"].path.parent / ".weights").glob("*.safetensors")
    tensors = load_file(pooled)
    assert {n for n, t in tensors.items() if t.dtype == torch.int8} == {
        f"{name}.weight" for name in linear
    }
    q, scale = (tensors[f"blocks.0.attn2.to_q.weight{end}"] for end in ("", "_scale"))
    assert q.abs().amax(0).eq(127).all()
    assert scale.shape == (q.shape[1],)


def test_the_manifest_and_the_commands_say_it(engines: dict[str, Built]) -> None:
    built = engines["separate"]
    manifest = read_manifest(built.path)
    assert "-fp32-int8-separate-r4" in manifest.name
    assert manifest.quantization is not None
    assert manifest.quantization.scheme == "int8"
    assert manifest.compared_by["quantization"] == "int8"
    assert "int8 in the blocks' linear layers" in wanrt("info", built.path).out
    products = wanrt("explain", built.path, "--json", "-")
    assert "int8" in products.out or products.code
    compared = wanexport("compare", built.path, engines["full"].path, "--blocks", "-q")
    assert "blocks.0" in compared.out, compared.err


def test_layers_left_out_stay_as_they_are(engines: dict[str, Built], tmp_path: Path) -> None:
    (built,) = build(
        tmp_path, modes=("full",), quantize="int8", quantize_exclude=("*.attn2.to_out.0", "*.ffn.*")
    )
    manifest = read_manifest(built.path)
    assert manifest.quantization is not None
    assert manifest.quantization.excluded == ("*.attn2.to_out.0", "*.ffn.*")
    assert manifest.name != read_manifest(engines["full"].path).name
    assert built.verification is not None
    whole = engines["full"].verification
    assert whole is not None
    assert (built.verification.error or 1) < (whole.error or 0)


def test_a_quantised_checkpoint_is_not_rounded_twice(
    engines: dict[str, Built], tmp_path: Path
) -> None:
    made = next((engines["full"].path.parent / ".made").glob("*/config.json")).parent
    base = tmp_path / "fp8"
    base.mkdir()
    (base / "config.json").write_bytes((made / "config.json").read_bytes())
    linear = {f"{name}.weight" for name in select_quantized(I2V)}
    tensors: dict[str, Tensor] = {}
    for file in made.glob("*.safetensors"):
        tensors |= load_file(file)
    cast = {n: t.to(torch.float8_e4m3fn) if n in linear else t for n, t in tensors.items()}
    save_file(cast, base / "diffusion_pytorch_model.safetensors")
    for mode in ("full", "merged"):
        with pytest.raises(BuildError, match=r"is quantised already .fp8.*0 to 11 % survives"):
            build(tmp_path / "out", base=str(base), modes=(mode,), ranks=(4,), quantize="int8")
    assert not list(tmp_path.glob("out/*/engine.json"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Engines in fp8 for TensorRT-RTX; a stand-in builds their plans."""
    out = tmp_path_factory.mktemp("fp8")
    here = {"gpu": None, "capability": None, "capabilities": ["8.9"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "WORKER", (sys.executable, fakebuilder.__file__))
        patch.setenv("FAKE_BUILDER", json.dumps(here))
        builder.find_toolchain.cache_clear()
        made = build(
            out, ONE_LAYER, dtype="bf16", modes=("full", "merged", "separate"), ranks=(RANK,),
            quantize="fp8", quantize_exclude=("*.ffn.*",), tensorrt=PlanSettings("tensorrt-rtx"),
        )  # fmt: skip
        builder.find_toolchain.cache_clear()
    return {one.target.mode: one for one in made}


def test_compiled_engines_are_the_model_but_for_rounding(compiled: dict[str, Built]) -> None:
    for built in compiled.values():
        found, manifest = built.verification, read_manifest(built.path)
        assert found is not None
        assert 1e-2 < (found.error or 0) < (found.emulated_error or 0) < 5e-2
        assert found.tolerance == 1e-1
        assert "-bf16-fp8-but-" in manifest.name
        assert manifest.quantization is not None
        assert manifest.quantization.activations == "token"
        assert manifest.compared_by["quantization"] == "fp8"
        assert manifest.forward.plan is not None
        assert manifest.forward.plan.refit == "baked"


def test_compiled_engines_share_their_weights_of_8_bits(compiled: dict[str, Built]) -> None:
    held = {
        mode: {
            (built.path / file.file).stat().st_ino
            for file in read_manifest(built.path).weights
            if file.origin == "base"
        }
        for mode, built in compiled.items()
    }
    assert held["full"] == held["separate"] == held["merged"]
    (pooled,) = (compiled["full"].path.parent / ".weights").glob("*.safetensors")
    stored = {n for n, t in load_file(pooled).items() if t.dtype == torch.float8_e4m3fn}
    linear = select_quantized(ONE_LAYER, ("*.ffn.*",))
    assert stored == {f"{name}.weight" for name in linear}
    own = load_file(compiled["merged"].path / "weights" / "merged.safetensors")
    assert own["blocks.0.attn2.to_q.weight"].dtype == torch.float8_e4m3fn


def test_it_does_not_run_on_cuda(
    engines: dict[str, Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(UnsupportedError, match="no int8 products on CUDA"):
        load_engine(engines["full"].path, device="cuda")


REFUSED = {
    "fp8 on a CPU": ("--quantize fp8", "no fp8 product"),
    "nvfp4 on a CPU": ("--quantize nvfp4", "no fp4 product"),
    "fp32 compiled": ("--quantize fp8 --backend tensorrt-rtx --dtype fp32", "bf16 or fp16"),
    "nvfp4 compiled": ("--quantize nvfp4 --backend tensorrt-rtx --dtype bf16", "isn't built yet"),
    "open dimensions": (
        "--quantize fp8 --backend tensorrt-rtx --dtype bf16 --dynamic --config wan2.1-i2v-14b-480p",
        "isn't built for --dynamic with TensorRT",
    ),
    "refitted": (
        "--quantize int8 --backend tensorrt-rtx --dtype bf16 --refit none", "use --bake",
    ),
    "int8 beside fp16": ("--quantize int8 --dtype fp16", "beside fp32 and not fp16"),
    "patterns alone": ("--quantize-exclude *.ffn.*", "no effect without --quantize"),
    "a pattern of nothing": (
        "--quantize int8 --quantize-exclude to_q", "matches no linear layer of a block",
    ),
    "nothing left": ("--quantize int8 --quantize-exclude *", "leaves nothing to quantise"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_nothing_runs_is_refused(case: str, tmp_path: Path) -> None:
    flags, reason = REFUSED[case]
    outcome = wanexport("build", "--mode", "full", "--out", tmp_path / "out", *flags.split())
    assert outcome.code in (1, 2)
    assert reason in " ".join(outcome.err.split())
    assert not list(tmp_path.glob("out/*/engine.json"))
