from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode

from wanexport.graph.dit import make_model
from wanexport.lora.targets import select_modules
from wanexport.model.config import Architecture, load_config
from wanexport.model.formulas import (
    Dims,
    GraphName,
    count_adapter,
    count_branch,
    count_bytes,
    count_context_values,
    count_flops,
    count_memory,
    count_parameters,
    count_tokens,
    latent_shape,
    module_rows,
)
from wanexport.model.names import module_shapes

SMALL = Dims(layers=2, width=4, ffn=8, in_channels=3, out_channels=5, text_dim=6, text_tokens=7,
             freq_dim=10, image_dim=9, image_tokens=11)  # fmt: skip
I2V_14B = load_config("wan2.1-i2v-14b-480p").architecture.dims
T2V_14B = load_config("wan2.1-t2v-14b-480p").architecture.dims
FLF2V_14B = load_config("wan2.1-flf2v-14b-720p").architecture.dims
T2V_1_3B = load_config("wan2.1-t2v-1.3b-480p").architecture.dims
TINY = Architecture(num_layers=2, num_attention_heads=2, ffn_dim=384, in_channels=36, text_dim=96,
                    image_dim=160, added_kv_proj_dim=256)  # fmt: skip
SUFFIXES = ("to_q", "to_k", "to_v", "to_out.0")


def cross_attention_lora(dims: Dims, rank: int) -> dict[str, tuple[int, int, int]]:
    suffixes = SUFFIXES + (("add_k_proj", "add_v_proj") if dims.image_dim else ())
    return {
        f"blocks.{i}.attn2.{suffix}": (rank, dims.width, dims.width)
        for i in range(dims.layers)
        for suffix in suffixes
    }


@pytest.mark.parametrize(
    ("height", "width", "tokens"),  # of 1, 17, 33, 49, 65, 81, 97 and 121 frames
    [
        (480, 832, (1560, 7800, 14040, 20280, 26520, 32760, 39000, 48360)),
        (720, 1280, (3600, 18000, 32400, 46800, 61200, 75600, 90000, 111600)),
        (544, 960, (2040, 10200, 18360, 26520, 34680, 42840, 51000, 63240)),
        (640, 640, (1600, 8000, 14400, 20800, 27200, 33600, 40000, 49600)),
        (512, 512, (1024, 5120, 9216, 13312, 17408, 21504, 25600, 31744)),
        (480, 480, (900, 4500, 8100, 11700, 15300, 18900, 22500, 27900)),
        (1024, 1024, (4096, 20480, 36864, 53248, 69632, 86016, 102400, 126976)),
    ],
)
def test_tokens(height: int, width: int, tokens: tuple[int, ...]) -> None:
    frames = (1, 17, 33, 49, 65, 81, 97, 121)
    assert tuple(count_tokens(width, height, f) for f in frames) == tokens


def test_latent_shape() -> None:
    assert latent_shape(832, 480, 81) == (21, 60, 104)


def test_parameters_worked_by_hand() -> None:
    assert count_parameters(SMALL) == {
        # four 4x4 matrices with biases and two norms, per layer
        "self_attention": 2 * (4 * 20 + 8),
        # those, norm2 with its bias, two matrices and a norm for the image
        "cross_attention": 2 * (4 * 20 + 8 + 8) + 2 * (2 * 20 + 4),
        "ffn": 2 * ((4 * 8 + 8) + (8 * 4 + 4)),
        "modulation": 2 * 6 * 4 + 2 * 4,
        # patch, text (2 matrices), time (2), time_proj, image (norm1, 2 matrices, norm2)
        "embedding": (12 * 4 + 4)
        + (6 * 4 + 4 + 20)
        + (10 * 4 + 4 + 20)
        + 6 * 20
        + (18 + (81 + 9) + (9 * 4 + 4) + 8),
        "head": 4 * 20 + 20,
    }


@pytest.mark.parametrize(
    ("dims", "total"),
    [
        (T2V_1_3B, 1_418_996_800),
        (T2V_14B, 14_288_491_584),
        (I2V_14B, 16_394_878_784),
        (FLF2V_14B, 16_395_536_704),
        (load_config("wan2.1-fun-1.3b-inp-480p").architecture.dims, 1_564_428_608),
    ],
    ids=["t2v-1.3b", "t2v-14b", "i2v-14b", "flf2v-14b", "fun-1.3b-inp"],
)
def test_parameters_of_the_real_models(dims: Dims, total: int) -> None:
    assert sum(count_parameters(dims).values()) == total


@pytest.mark.parametrize("model", ["wan2.1-i2v-14b-480p", "wan2.1-flf2v-14b-720p"])
def test_parameters_by_part_are_the_shapes(model: str) -> None:
    arch = load_config(model).architecture
    counted = count_parameters(arch.dims)
    sums = dict.fromkeys(counted, 0)
    parts = {"attn1": "self_attention", "attn2": "cross_attention", "norm2": "cross_attention",
             "ffn": "ffn", "scale_shift_table": "modulation", "proj_out": "head"}  # fmt: skip
    for name, shape in module_shapes(arch).items():
        words = name.removeprefix("condition_embedder.").split(".")
        key = words[2] if words[0] == "blocks" else words[0]
        sums[parts.get(key, "embedding")] += torch.Size(shape).numel()
    assert sums == counted


def test_flops_worked_by_hand() -> None:
    tokens, batch = 13, 3
    lora = {
        "blocks.0.attn2.to_q": (2, 4, 4),
        "blocks.0.attn2.to_k": (3, 4, 4),
        "blocks.0.attn2.add_v_proj": (5, 4, 4),
        "blocks.1.ffn.net.0.proj": (2, 4, 8),
        "condition_embedder.time_proj": (2, 4, 24),
    }
    expected = {
        "self_attention_linear": 2 * (4 * 2 * 13 * 4 * 4),
        "self_attention": 2 * (2 * 2 * 13 * 13 * 4),
        # q and out on 13 rows, k and v on 7 rows of text and on 11 of the image
        "cross_attention_linear": 2 * (2 * 2 * 16 * 13 + 2 * 2 * 16 * 7 + 2 * 2 * 16 * 11),
        "cross_attention": 2 * (2 * 2 * 13 * 18 * 4),
        "ffn": 2 * (2 * 2 * 13 * 4 * 8),
        "embedding": 2 * 13 * 12 * 4
        + 2 * 7 * (6 * 4 + 4 * 4)
        + 2 * (10 * 4 + 4 * 4 + 4 * 24)
        + 2 * 11 * (9 * 9 + 9 * 4),
        "head": 2 * 13 * 4 * 20,
        "lora": 2 * 13 * 2 * 8 + 2 * 7 * 3 * 8 + 2 * 11 * 5 * 8 + 2 * 13 * 2 * 12 + 2 * 2 * 28,
    }
    assert count_flops(SMALL, tokens, batch, lora) == {k: 3 * v for k, v in expected.items()}


@pytest.mark.parametrize(
    ("dims", "tokens", "teraflop", "part_teraflop", "part"),
    [
        (T2V_1_3B, 32_760, 283.0, 197.8, "self_attention"),
        (T2V_1_3B, 75_600, 1249.8, 1053.5, "self_attention"),
        (T2V_14B, 32_760, 1678.4, 371.0, "ffn"),
        (T2V_14B, 75_600, 6523.4, 31.7, "cross_attention"),
        (I2V_14B, 32_760, 1686.4, 274.8, "self_attention_linear"),
        (I2V_14B, 75_600, 6540.5, 856.1, "ffn"),
        (FLF2V_14B, 75_600, 6557.5, 63.5, "cross_attention"),
        (I2V_14B, 1560, 43.55, 17.7, "ffn"),
    ],
)
def test_flops_of_the_real_models(
    dims: Dims, tokens: int, teraflop: float, part_teraflop: float, part: str
) -> None:
    flops = count_flops(dims, tokens)
    assert sum(flops.values()) / 1e12 == pytest.approx(teraflop, rel=5e-4)
    assert flops[part] / 1e12 == pytest.approx(part_teraflop, rel=5e-3)


def test_flops_of_i2v_14b_to_the_last_digit() -> None:
    assert sum(count_flops(I2V_14B, 32_760).values()) == 1_686_376_373_944_320


@pytest.mark.parametrize(
    ("dims", "tokens", "rank", "teraflop"),
    [
        (T2V_14B, 32_760, 32, 1.744),
        (I2V_14B, 32_760, 4, 0.220),
        (I2V_14B, 32_760, 32, 1.758),
        (I2V_14B, 75_600, 128, 16.0),
        (T2V_1_3B, 32_760, 64, 0.785),
    ],
)
def test_flops_of_an_unmerged_adapter(dims: Dims, tokens: int, rank: int, teraflop: float) -> None:
    lora = cross_attention_lora(dims, rank)
    flops = count_flops(dims, tokens, lora=lora)["lora"]
    image = dims.image_tokens
    closed_form = dims.layers * 4 * rank * dims.width * (2 * tokens + 2 * 512 + 2 * image)
    assert flops == closed_form
    assert flops / 1e12 == pytest.approx(teraflop, rel=2e-3)


@pytest.mark.parametrize(
    ("module", "rows"),
    [
        ("blocks.3.attn1.to_k", 32_760),
        ("blocks.3.attn2.to_q", 32_760),
        ("blocks.3.attn2.to_out.0", 32_760),
        ("blocks.3.attn2.to_k", 512),
        ("blocks.3.attn2.to_v", 512),
        ("blocks.3.attn2.add_k_proj", 257),
        ("blocks.3.attn2.add_v_proj", 257),
        ("blocks.3.ffn.net.0.proj", 32_760),
        ("condition_embedder.text_embedder.linear_1", 512),
        ("condition_embedder.image_embedder.ff.net.0.proj", 257),
        ("condition_embedder.time_embedder.linear_1", 1),
        ("condition_embedder.time_proj", 1),
        ("patch_embedding", 32_760),
        ("proj_out", 32_760),
    ],
)
def test_rows_of_a_module(module: str, rows: int) -> None:
    assert module_rows(module, 32_760, I2V_14B) == rows


def test_bytes_worked_by_hand() -> None:
    lora = {"blocks.0.attn2.to_q": (2, 4, 4), "blocks.0.attn2.add_k_proj": (3, 4, 4)}
    read = count_parameters(SMALL)
    unit = 2 * 3 * 13 * 4  # [tokens, width] of three samples in each of two layers
    assert count_bytes(SMALL, tokens=13, itemsize=2, batch=3, lora=lora) == {
        "self_attention_linear": 2 * (read["self_attention"] + 7 * unit),
        "self_attention": 2 * 4 * unit,
        "elementwise": 2 * (read["modulation"] + 12 * unit),
        "cross_attention_linear": 2 * (read["cross_attention"] + 5 * unit),
        "cross_attention": 2 * 2 * unit,
        "ffn": 2 * (read["ffn"] + 3 * unit + 2 * 2 * 3 * 13 * 8),
        "embedding": 2 * read["embedding"],
        "head": 2 * read["head"],
        # A and B once; x once more, and t of 2 and 3 columns twice, on 13 and on 11 rows of each
        # of three samples
        "lora": 2 * (2 * 8 + 3 * 13 * (4 + 4)) + 2 * (3 * 8 + 3 * 11 * (4 + 6)),
    }


def test_forms_of_a_branch_by_hand() -> None:
    # 10 rows, rank 2, 4 inputs, 6 outputs: A and B are 20 values, x 40, y 60, t 20, [W, B] 36
    sizes = (10, 2, 4, 6)
    assert count_branch(*sizes, form="branch") == 20 + 40 + 2 * 60
    assert count_branch(*sizes, form="fused") == 20 + 40 + 2 * 20
    assert count_branch(*sizes, form="fused", swappable=True) == 20 + 40 + 2 * 20 + 2 * 36


@pytest.mark.parametrize(
    ("tokens", "form"), [(32_760, "fused"), (75_600, "fused"), (1560, "branch")]
)
def test_many_tokens_pay_for_putting_weights_together(tokens: int, form: str) -> None:
    sizes = (tokens, 32, 5120, 5120)
    branch = count_branch(*sizes, form="branch")
    fused = count_branch(*sizes, form="fused", swappable=True)
    assert (fused < branch) == (form == "fused")
    assert count_branch(*sizes, form="fused") < branch  # constants are put together by the builder


@pytest.mark.parametrize(
    ("dims", "tokens", "weights", "activations", "intensity"),
    [
        (I2V_14B, 32_760, 32.8, 515, 3100),
        (I2V_14B, 75_600, 32.8, 1189, 5400),
        (T2V_14B, 32_760, 28.6, 515, 3100),
        (T2V_1_3B, 32_760, 2.84, 135, 2100),
        (T2V_1_3B, 75_600, 2.84, 311, 4000),
    ],
)
def test_gigabytes_of_the_real_models(
    dims: Dims, tokens: int, weights: float, activations: float, intensity: float
) -> None:
    moved = sum(count_bytes(dims, tokens, itemsize=2).values())
    read = 2 * sum(count_parameters(dims).values())
    assert read / 1e9 == pytest.approx(weights, rel=5e-3)
    assert (moved - read) / 1e9 == pytest.approx(activations, rel=5e-3)
    assert sum(count_flops(dims, tokens).values()) / moved == pytest.approx(intensity, rel=0.03)


@pytest.mark.parametrize(("tokens", "gigabytes"), [(32_760, 27), (75_600, 62)])
@pytest.mark.parametrize("rank", [8, 128])
def test_an_adapters_traffic_hardly_depends_on_its_rank(
    tokens: int, gigabytes: float, rank: int
) -> None:
    lora = {m: s for m, s in cross_attention_lora(T2V_14B, rank).items() if "_q" in m or "_o" in m}
    counted = count_bytes(T2V_14B, tokens, itemsize=2, lora=lora)["lora"]
    assert counted - 2 * count_adapter(lora) == 40 * 2 * tokens * (5120 + 2 * rank) * 2
    assert counted / 1e9 == pytest.approx(gigabytes, rel=0.07)


@pytest.mark.parametrize(
    ("dims", "rank", "million", "mebibytes"),
    [
        (T2V_14B, 4, 6.55, 12.5),
        (I2V_14B, 4, 9.83, 18.8),
        (I2V_14B, 32, 78.6, 150),
        (I2V_14B, 128, 314.6, 600),
        (T2V_1_3B, 64, 23.6, 45),
    ],
)
def test_an_adapters_size(dims: Dims, rank: int, million: float, mebibytes: float) -> None:
    parameters = count_adapter(cross_attention_lora(dims, rank))
    assert parameters / 1e6 == pytest.approx(million, abs=0.05)
    assert 2 * parameters / 2**20 == pytest.approx(mebibytes, abs=0.06)


@pytest.mark.parametrize("dims", [SMALL, I2V_14B, T2V_1_3B], ids=["small", "i2v-14b", "t2v-1.3b"])
def test_a_step_and_its_context_are_a_forward(dims: Dims) -> None:
    lora = cross_attention_lora(dims, 2)

    def counts(graph: GraphName) -> list[dict[str, int]]:
        return [
            count_parameters(dims, graph),
            count_flops(dims, 13, 3, lora, graph),
            count_bytes(dims, 13, 2, 3, lora, graph),
        ]

    graphs: tuple[GraphName, ...] = ("forward", "step", "context")
    for whole, step, context in zip(*map(counts, graphs), strict=True):
        assert step.keys() == whole.keys() >= context.keys()
        assert whole == {part: step[part] + context.get(part, 0) for part in whole}


@pytest.mark.parametrize(
    ("dims", "weights", "teraflop", "text_cache", "image_cache"),
    [
        (T2V_1_3B, 0.28, 0.145, 94.4, 0),
        (T2V_14B, 4.20, 2.15, 419.4, 0),
        (I2V_14B, 8.39, 3.23, 419.4, 210.5),
        (FLF2V_14B, 8.39, 4.30, 419.4, 421.1),
    ],
    ids=["t2v-1.3b", "t2v-14b", "i2v-14b", "flf2v-14b"],
)
def test_what_leaves_a_step_with_the_context(
    dims: Dims, weights: float, teraflop: float, text_cache: float, image_cache: float
) -> None:
    left = count_parameters(dims, "context")["cross_attention"]
    saved = count_flops(dims, 32_760, graph="context")["cross_attention_linear"]
    assert 2 * left / 1e9 == pytest.approx(weights, abs=6e-3)
    assert saved / 1e12 == pytest.approx(teraflop, abs=6e-3)
    assert saved == 4 * (512 + dims.image_tokens) * dims.width**2 * dims.layers
    cached = 2 * count_context_values(dims) / 1e6
    assert cached == pytest.approx(text_cache + image_cache, abs=0.1)


def test_a_step_carries_lora_on_q_and_out_alone() -> None:
    lora = cross_attention_lora(I2V_14B, 32)
    flops = count_flops(I2V_14B, 32_760, lora=lora, graph="step")["lora"]
    assert flops == 40 * 2 * (4 * 32_760 * 32 * 5120)
    moved = count_bytes(I2V_14B, 32_760, 2, lora=lora, graph="step")["lora"]
    assert moved == 40 * 2 * (32_760 * (5120 + 2 * 32) + 32 * 2 * 5120) * 2


def test_memory_worked_by_hand() -> None:
    lora = {"blocks.0.attn2.to_q": (2, 4, 4), "blocks.1.attn2.to_v": (3, 4, 4)}
    activations = 2 * 3 * 13 * (5 * 4)  # of width 4 five times; twice and ffn 8 are fewer
    forward = count_memory(SMALL, 13, 2, 3, lora)
    assert forward == {
        "weights": 2 * sum(count_parameters(SMALL).values()),
        "adapter": 2 * (2 * 8 + 3 * 8),
        "activations": activations,
    }
    assert count_memory(SMALL, 13, 2, 3, lora, "step") == {
        "weights": 2 * sum(count_parameters(SMALL, "step").values()),
        "adapter": 2 * 2 * 8,
        "activations": activations,
        "context": 2 * 2 * 3 * (7 + 11) * 4 * 2,
    }
    wide = Dims(layers=1, width=4, ffn=16, in_channels=3, out_channels=5)
    assert count_memory(wide, 13, 2)["activations"] == 2 * 13 * (2 * 4 + 16)


def count_with_torch(arch: Architecture, size: tuple[int, int, int], batch: int, rank: int) -> int:
    """Return the flops of diffusers' model, with peft's unmerged adapter, on meta tensors."""
    with torch.device("meta"):
        model = make_model(arch, arch.num_layers)
        if rank:
            targets = list(select_modules(arch, "cross-attention"))
            model.add_adapter(LoraConfig(r=rank, target_modules=targets))
        inputs = [
            torch.randn(batch, arch.in_channels, *latent_shape(*size)),
            torch.randn(batch),
            torch.randn(batch, 512, arch.text_dim),
        ]
        if arch.image_dim is not None:
            inputs.append(torch.randn(batch, arch.image_tokens, arch.image_dim))
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("arch", "size", "batch"),
    [
        (TINY, (48, 80, 9), 1),
        (TINY, (80, 48, 5), 2),
        (TINY.model_copy(update={"image_dim": None, "added_kv_proj_dim": None}), (48, 80, 9), 1),
        (load_config("wan2.1-t2v-1.3b-480p").architecture, (832, 480, 81), 1),
        (load_config("wan2.1-fun-1.3b-inp-480p").architecture, (832, 480, 49), 1),
        (load_config("wan2.1-i2v-14b-480p").architecture, (832, 480, 81), 1),
    ],
    ids=["tiny", "tiny-b2", "tiny-t2v", "t2v-1.3b", "fun-1.3b-inp", "i2v-14b"],
)
@pytest.mark.parametrize("rank", [0, 32])
def test_flops_equal_torchs_counter(
    arch: Architecture, size: tuple[int, int, int], batch: int, rank: int
) -> None:
    lora = cross_attention_lora(arch.dims, rank) if rank else {}
    counted = count_with_torch(arch, size, batch, rank)
    assert sum(count_flops(arch.dims, count_tokens(*size), batch, lora).values()) == counted
