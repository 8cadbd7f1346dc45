"""Plans that the real TensorRT-RTX builder makes of every mode, without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest
from commands import wanexport, wanrt, write_config
from studies import I2V, SIZE, config

from wanexport.graph.fusible import scaled_products
from wanexport.model.cards import count_exchanged
from wanexport.model.quantization import Format, select_quantized
from wanrt.explain.difference import compare_kernels
from wanrt.explain.lora_share import sum_adapter
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import Work, examine, sum_up

pytestmark = pytest.mark.slow
pytest.importorskip("tensorrt_rtx_bindings")

MODES = ("full", "merged", "separate", "swappable")
RTX = ("--backend", "tensorrt-rtx", "--compute-capability", "12.0", "--verify", "none")


@pytest.fixture(scope="module", params=["bf16", "fp16"])
def plans(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, tuple[Work, ...]]]:
    """Build an engine of each mode in a dtype; return what their kernels do."""
    room = tmp_path_factory.mktemp(request.param)
    one_layer = I2V.model_copy(update={"num_layers": 1})
    path = write_config(room / "tiny.toml", config(one_layer, dtype=request.param))
    flags = [flag for mode in MODES for flag in ("--mode", mode)]
    built = wanexport("build", "--config", path, "--base", "random", *flags, "--rank", "4",
                      "--out", room / "out", *RTX)  # fmt: skip
    assert built.code == 0, built.err
    assert "weren't checked" not in built.err
    folders = {mode: next((room / "out").glob(f"*-{mode}*")) for mode in MODES}
    assert wanrt("explain", folders["separate"], "--against", folders["full"]).code == 0
    return request.param, {
        mode: examine(read_kernels(folder / "engine.plan")) for mode, folder in folders.items()
    }


@pytest.mark.parametrize("mode", MODES)
def test_every_attention_is_one_kernel_and_none_writes_scores(
    plans: tuple[str, dict[str, tuple[Work, ...]]], mode: str
) -> None:
    _, work = plans
    attentions = [one for one in work[mode] if one.part.endswith("attention")]
    assert len(attentions) == 3
    keys = {one.kernel.inputs[2].shape[-2] for one in attentions}
    rows = attentions[0].kernel.inputs[0].shape[-2]
    for one in work[mode]:
        for operand in one.kernel.outputs:
            assert not any(operand.shape[-2:] == (rows, count) for count in keys), one.label


@pytest.mark.parametrize("mode", MODES)
def test_no_gemm_reads_another_dtype_than_the_engine_says(
    plans: tuple[str, dict[str, tuple[Work, ...]]], mode: str
) -> None:
    dtype, work = plans
    read = {one.dtype for one in work[mode] if one.flops and one.part != "embedding"}
    assert read == {dtype}


def test_full_and_merged_have_the_same_kernels(
    plans: tuple[str, dict[str, tuple[Work, ...]]],
) -> None:
    _, work = plans
    assert compare_kernels(work["full"], work["merged"]) == ()


@pytest.mark.parametrize("mode", ["separate", "swappable"])
def test_an_adapter_adds_kernels_of_its_own(
    plans: tuple[str, dict[str, tuple[Work, ...]]], mode: str
) -> None:
    _, work = plans
    assert any(one.adapter for one in work[mode])
    assert not any(one.adapter for one in work["full"])


@pytest.mark.parametrize("mode", ["separate", "swappable"])
def test_an_adapter_s_share_is_what_it_adds(
    plans: tuple[str, dict[str, tuple[Work, ...]]], mode: str
) -> None:
    _, work = plans
    ours, full, share = sum_up(work[mode]), sum_up(work["full"]), sum_adapter(work[mode])
    assert share.flops == pytest.approx(ours.flops - full.flops, rel=0.02)
    # beside a swappable branch of few tokens, layers' own kernels are fused less than in full
    least = 0.9 if mode == "separate" else 0.5
    assert least <= share.moved / (ours.moved - full.moved) <= 1.1


def test_the_plans_of_a_split_engine_are_the_one_plan_parted(tmp_path: Path) -> None:
    """No K or V of a cross-attention is computed in every forward, with an adapter on it or not."""
    one_layer = I2V.model_copy(update={"num_layers": 1})
    path = write_config(tmp_path / "tiny.toml", config(one_layer, dtype="bf16"))
    flags = ("--mode", "full", "--mode", "separate", "--mode", "swappable", "--rank", "4")
    for flag in ((), ("--split",)):
        built = wanexport("build", "--config", path, "--base", "random", *flags, *flag,
                          "--out", tmp_path / "out", *RTX)  # fmt: skip
        assert built.code == 0, built.err
        assert "weren't checked" not in built.err
    for mode in ("full", "separate", "swappable"):
        whole, split = sorted(
            (tmp_path / "out").glob(f"*-{mode}*"), key=lambda p: "split" in p.name
        )
        one, context, denoise = (
            examine(read_kernels(folder / f"{name}.plan"))
            for folder, name in ((whole, "engine"), (split, "context"), (split, "denoise"))
        )
        once = ("attn2.to_k", "attn2.to_v", "attn2.add_k", "attn2.add_v", "text_", "image_embedder")
        assert not [w.label for w in denoise if w.flops and any(name in w.label for name in once)]
        assert not [w.label for w in context if w.part.endswith("attention")]
        assert sum_up(denoise).flops + sum_up(context).flops == sum_up(one).flops
        assert sum_up(denoise).moved < sum_up(one).moved
        assert (
            any(w.adapter for w in context) == any(w.adapter for w in denoise) == (mode != "full")
        )
        shown = wanrt("explain", split, "--against", whole)
        assert shown.code == 0
        assert "once per prompt" in shown.out
        assert wanrt("info", split).out.count("\nplan ") == 2


def test_a_quantised_engine_s_two_plans_are_each_held_to_their_own_layers(tmp_path: Path) -> None:
    one_layer = I2V.model_copy(update={"num_layers": 1})
    path = write_config(tmp_path / "tiny.toml", config(one_layer, dtype="bf16"))
    built = wanexport("build", "--config", path, "--base", "random", "--mode", "full", "--split",
                      "--quantize", "fp8", "--out", tmp_path / "out", *RTX)  # fmt: skip
    assert built.code == 0, built.err
    (folder,) = (tmp_path / "out").glob("*-split*")
    for name, count in (("context", 4), ("denoise", 8)):
        work = examine(read_kernels(folder / f"{name}.plan"))
        assert sum(one.dtype == "fp8" for one in work) == count


def test_an_estimate_of_two_layers_is_their_plan_s(
    tmp_path: Path, plans: tuple[str, dict[str, tuple[Work, ...]]]
) -> None:
    """The model has two layers, so nothing is extrapolated: an engine's own kernels come out."""
    dtype, _ = plans
    path = write_config(tmp_path / "tiny.toml", config(I2V, dtype=dtype))  # type: ignore[arg-type]
    command = ("estimate", "--config", path, "--rank", 4, "--mode", "separate", "--compiled",
               "--device", "RTX 5090", "--json", "-")  # fmt: skip
    found = json.loads(wanexport(*command).out)["compiled"]
    built = wanexport("build", "--config", path, "--base", "random", "--mode", "separate",
                      "--rank", "4", "--out", tmp_path / "out", *RTX)  # fmt: skip
    assert built.code == 0, built.err
    (folder,) = (tmp_path / "out").glob("*-separate*")
    kernels = examine(read_kernels(folder / "engine.plan"))
    (separate,) = (cost for cost in found if cost["mode"] == "separate")
    assert separate["kernels"] == len(kernels)
    assert separate["moved"] == sum(one.kernel.bytes for one in kernels)
    assert separate["flops"] == sum(one.flops for one in kernels)


@pytest.mark.parametrize("mode", ["full", "separate", "swappable"])
def test_a_card_s_kernels_work_on_its_own_tokens(tmp_path: Path, mode: str) -> None:
    cards, tokens, heads = 2, SIZE.tokens, 4  # one head alone isn't fused at so few tokens
    arch = I2V.model_copy(update={"num_attention_heads": heads, "added_kv_proj_dim": 128 * heads})
    path = write_config(tmp_path / "tiny.toml", config(arch, dtype="bf16"))
    rank = () if mode == "full" else ("--rank", "4", "--targets", "all")
    built = wanexport("build", "--config", path, "--base", "random", "--mode", mode, *rank,
                      "--cards", cards, "--out", tmp_path / "out", *RTX)  # fmt: skip
    assert built.code == 0, built.err
    assert "weren't checked" not in built.err
    (folder,) = (tmp_path / "out").glob(f"*-{mode}*")
    work = examine(read_kernels(folder / "engine.plan"))
    kinds = [one.kernel.kind for one in work if one.kernel.exchanged]
    assert sorted(kinds) == ["comm_allgather"] + ["comm_alltoall"] * 4 * I2V.num_layers
    received = sum(one.kernel.exchanged for one in work) * (cards - 1) // cards
    assert received == count_exchanged(arch.dims, tokens, 2, cards)
    shared = [one for one in work if one.part == "self_attention"]
    assert len(shared) == I2V.num_layers
    assert {one.kernel.inputs[0].shape for one in shared} == {(heads // cards, tokens, 128)}
    for one in work:
        # inputs may be tables of all tokens, of which a kernel gathers its card's rows
        if any(tokens in operand.shape for operand in one.kernel.outputs):
            nodes = one.kernel.nodes
            assert all("attn1.attention" in n or n.startswith("head.") for n in nodes), one.label


NARROW = (("fp8", "bf16"), ("fp8", "fp16"), ("int8", "bf16"))


@pytest.mark.parametrize(("scheme", "dtype"), NARROW)
def test_every_layer_to_quantise_is_a_product_of_8_bits(
    tmp_path: Path, scheme: str, dtype: str
) -> None:
    """In every mode and for both generations. The builder may make one product of several."""
    one_layer = I2V.model_copy(update={"num_layers": 1})
    path = write_config(tmp_path / "tiny.toml", config(one_layer, dtype=dtype))  # type: ignore[arg-type]
    layers = set(select_quantized(one_layer))
    for capability in ("8.9", "12.0"):
        flags = [flag for mode in MODES for flag in ("--mode", mode)]
        built = wanexport("build", "--config", path, "--base", "random", *flags, "--rank", "4",
                          "--quantize", scheme, "--out", tmp_path / capability, *RTX[:2],
                          "--compute-capability", capability, "--verify", "none")  # fmt: skip
        assert built.code == 0, built.err
        assert "weren't checked" not in built.err
        for plan in (tmp_path / capability).glob("*/engine.plan"):
            work = examine(read_kernels(plan))
            narrow = [one for one in work if one.dtype == scheme]
            assert {node for one in narrow for node in one.kernel.nodes} >= layers
            assert sum(one.part.endswith("attention") for one in work) == 3


def test_a_computed_scale_is_what_the_builder_ignores_and_a_build_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX 1.7.1 computes it in bf16 and says nothing."""

    def compute(model: ir.Model, like: ir.Value, _: Format) -> ir.Value:
        largest = ir.node("ReduceMax", [like], {"keepdims": 0}, name=f"{like.name}.largest")
        value = largest.outputs[0]
        value.name, value.shape, value.type = largest.name, ir.Shape(()), like.type
        if largest.name not in {node.name for node in model.graph}:
            before = like.producer()
            assert before is not None
            model.graph.insert_after(before, largest)
        return next(n for n in model.graph if n.name == largest.name).outputs[0]

    monkeypatch.setattr(scaled_products, "_step", compute)
    path = write_config(tmp_path / "tiny.toml", config(I2V, dtype="bf16"))
    built = wanexport("build", "--config", path, "--base", "random", "--mode", "full",
                      "--quantize", "fp8", "--quantize-exclude", "*.attn2.*", "--out",
                      tmp_path / "out", *RTX)  # fmt: skip
    assert built.code == 1
    assert "bf16, though it is to be fp8" in " ".join(built.err.split())
    assert not list((tmp_path / "out").glob("*/engine.json"))
