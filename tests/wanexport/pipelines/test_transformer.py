"""Whole pipelines on engines, against the same pipelines on diffusers' own transformer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanVACEPipeline
from diffusers.hooks import FirstBlockCacheConfig
from studies import FLF2V, I2V, SIZE, T2V, build
from tinypipelines import (
    make_components,
    make_editor,
    make_image,
    make_pipeline,
    make_transformer,
    relative,
    run,
    use_euler,
)

from wanexport.errors import PipelineError
from wanexport.model.config import Architecture
from wanexport.pipelines import EngineTransformer
from wanrt.manifest.schema import Manifest

ALIKE = 1e-5
Pair = tuple[Any, EngineTransformer]
"""diffusers' own transformer and an engine of the same weights."""


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pair]]:
    root = tmp_path_factory.mktemp("pairs")
    opened: list[EngineTransformer] = []

    def make(name: str, arch: Architecture, **options: Any) -> Pair:
        base = root / f"{name}-base"
        model = make_transformer(base, arch, seed=len(opened))
        (built,) = build(
            root / name, arch, modes=("full",), base=str(base), verify=False, **options
        )
        opened.append(EngineTransformer(built.path))
        return model, opened[-1]

    yield make
    for engine in opened:
        engine.close()


@pytest.fixture(scope="session")
def i2v(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair("i2v", I2V)


@pytest.fixture(scope="session")
def t2v(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair("t2v", T2V, dynamic=True)


@pytest.fixture(scope="session")
def flf2v(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair("flf2v", FLF2V)


@pytest.mark.parametrize("euler", [False, True], ids=["unipc", "euler"])
@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["alone", "guided"])
def test_image_to_video(i2v: Pair, euler: bool, guidance: float) -> None:
    latents = []
    for transformer in i2v:
        pipe = make_pipeline(transformer)
        if euler:
            use_euler(pipe)
        latents.append(run(pipe, guidance_scale=guidance))
    assert relative(latents[1], latents[0]) < ALIKE


def test_a_later_assignment_and_frames(i2v: Pair) -> None:
    pipe = make_pipeline(i2v[0])
    want = run(pipe, output_type="pt")
    pipe.transformer = i2v[1]
    found = run(pipe, output_type="pt")
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


def test_first_and_last_frame(flf2v: Pair) -> None:
    last = make_image(1)
    want, found = (run(make_pipeline(one, FLF2V), last_image=last) for one in flf2v)
    assert relative(found, want) < ALIKE


@pytest.mark.parametrize("size", [(96, 64, 5), (48, 80, 1), (64, 48, 9)], ids=str)
def test_text_to_video_in_sizes_of_a_dynamic_engine(t2v: Pair, size: tuple[int, int, int]) -> None:
    width, height, frames = size
    call = {"width": width, "height": height, "num_frames": frames, "num_inference_steps": 2}
    want, found = (run(make_pipeline(one, T2V), **call) for one in t2v)
    assert found.shape[-2:] == (height // 8, width // 8)
    assert relative(found, want) < ALIKE


def test_video_to_video(t2v: Pair) -> None:
    frames = [make_image(seed) for seed in range(SIZE.frames)]
    want, found = (_edit(one, frames) for one in t2v)
    assert relative(found, want) < ALIKE


def _edit(transformer: Any, frames: list[Any]) -> torch.Tensor:
    latents: torch.Tensor = make_editor(transformer)(
        video=frames,
        prompt="a cat runs",
        negative_prompt="blurred",
        width=SIZE.width,
        height=SIZE.height,
        num_inference_steps=4,
        strength=0.7,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).frames
    return latents


@pytest.mark.parametrize("kind", ["i2v", "t2v"])
def test_several_prompts(request: pytest.FixtureRequest, kind: str) -> None:
    """A static engine of batch 1 runs them one by one."""
    pair: Pair = request.getfixturevalue(kind)
    prompts = {"prompt": ["a cat runs", "a dog sits"], "negative_prompt": ["blurred", "dark"]}
    arch = I2V if kind == "i2v" else T2V
    want, found = (run(make_pipeline(one, arch), **prompts) for one in pair)
    assert found.shape[0] == 2
    assert relative(found, want) < ALIKE


def test_the_two_experts_of_wan_2_2(t2v: Pair, make_pair: Callable[..., Pair]) -> None:
    low = make_pair("low", T2V)
    want, found = (
        run(
            make_pipeline(t2v[at], T2V, transformer_2=low[at], boundary_ratio=0.8),
            guidance_scale_2=2.0,
        )
        for at in (0, 1)
    )
    alone = run(make_pipeline(t2v[1], T2V))
    assert relative(found, want) < ALIKE
    assert relative(found, alone) > 0.01


def test_from_pretrained_without_the_transformer(i2v: Pair, tmp_path: Path) -> None:
    make_pipeline(None).save_pretrained(tmp_path / "model")
    pipe = WanImageToVideoPipeline.from_pretrained(tmp_path / "model", transformer=i2v[1])
    pipe.set_progress_bar_config(disable=True)
    assert relative(run(pipe), run(make_pipeline(i2v[0]))) < ALIKE


@pytest.mark.parametrize("way", ["to", "enable_model_cpu_offload"])
def test_moving_and_offloading(i2v: Pair, way: str) -> None:
    pipe = make_pipeline(EngineTransformer(Path("offloaded"), engine=i2v[1].engine))
    pipe.to("cpu") if way == "to" else getattr(pipe, way)(device="cpu")
    assert relative(run(pipe), run(make_pipeline(i2v[0]))) < ALIKE
    assert pipe.transformer.device == torch.device("cpu")


def test_sequential_offloading(t2v: Pair) -> None:
    """accelerate itself can't offload modules with weights from a CPU to a CPU: none other runs."""
    noise = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"prompt": None, "negative_prompt": None}
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        call[name] = torch.randn(1, 512, T2V.text_dim, generator=noise)
    pipe = make_pipeline(EngineTransformer(Path("offloaded"), engine=t2v[1].engine), T2V)
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert relative(run(pipe, **call), run(make_pipeline(t2v[0], T2V), **call)) < ALIKE


def test_another_dtype_leaves_the_engine_as_it_is(
    i2v: Pair,
) -> None:
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("wanexport.pipelines.transformer")
    logger.addHandler(handler)
    pipe = make_pipeline(i2v[1])
    pipe.to(torch.float16)
    logger.removeHandler(handler)
    assert pipe.text_encoder.dtype == torch.float16
    assert pipe.transformer.dtype == torch.float32
    assert "stays in torch.float32" in warnings[0]


class Half:
    """An engine of bf16 that returns what it was given."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.fed: dict[str, torch.Tensor] = {}

    def forward(self, **inputs: torch.Tensor) -> dict[str, Any]:
        import ml_dtypes

        self.fed = inputs
        return {"sample": inputs["hidden_states"].float().numpy().astype(ml_dtypes.bfloat16)}


def test_an_engine_of_bf16(t2v: Pair) -> None:
    manifest = t2v[1].engine.manifest
    graph = manifest.graphs["forward"]
    inputs = tuple(
        spec if spec.name == "timestep" else spec.model_copy(update={"dtype": "bf16"})
        for spec in graph.inputs
    )
    graphs = {"forward": graph.model_copy(update={"inputs": inputs})}
    engine = Half(manifest.model_copy(update={"dtype": "bf16", "graphs": graphs}))
    transformer = EngineTransformer(Path("half"), engine=engine)  # type: ignore[arg-type]
    latents = torch.randn(1, 16, 2, 8, 12)
    (sample,) = transformer(
        latents, torch.tensor(999).expand(1), torch.randn(1, 512, 64), return_dict=False
    )
    assert engine.fed["timestep"].dtype == torch.float32
    assert engine.fed["encoder_hidden_states"].dtype == transformer.dtype == torch.bfloat16
    torch.testing.assert_close(sample, latents.to(torch.bfloat16))


def forward(transformer: EngineTransformer, **changed: Any) -> Any:
    """Call the I2V engine with what fits it, but for what is changed."""
    call = {
        "hidden_states": torch.zeros(1, 36, 2, 8, 12),
        "timestep": torch.ones(1),
        "encoder_hidden_states": torch.zeros(1, 512, 64),
        "encoder_hidden_states_image": torch.zeros(1, 257, 80),
    }
    return transformer(**call | changed)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"hidden_states": torch.zeros(1, 36, 2, 10, 12)}, "no 96x80x5 in batches of 1"),
        ({"hidden_states": torch.zeros(1, 16, 2, 8, 12)}, "16 channels, the engine takes 36"),
        ({"hidden_states": torch.zeros(36, 2, 8, 12)}, "has shape"),
        ({"encoder_hidden_states": torch.zeros(1, 226, 64)}, r"takes \[1, 512, 64\]"),
        ({"encoder_hidden_states": torch.zeros(2, 512, 64)}, r"takes \[1, 512, 64\]"),
        ({"encoder_hidden_states_image": None}, "needs encoder_hidden_states_image"),
        ({"encoder_hidden_states_image": torch.zeros(2, 257, 80)}, r"takes \[1, 257, 80\]"),
        ({"timestep": torch.ones(1, 48)}, "Wan2.2 TI2V-5B"),
        ({"attention_kwargs": {"scale": 0.5}}, "takes no LoRA"),
        ({"attention_kwargs": {"scale": "x"}}, "isn't a number"),
        ({"attention_kwargs": {"window": 3}}, "window would have no effect"),
    ],
)
def test_what_the_engine_does_not_have_is_refused(
    i2v: Pair, changed: dict[str, Any], problem: str
) -> None:
    with pytest.raises(PipelineError, match=problem):
        forward(i2v[1], **changed)


def test_sizes_are_named(i2v: Pair) -> None:
    with pytest.raises(PipelineError, match="no 128x64x5 in batches of 1") as caught:
        run(make_pipeline(i2v[1]), width=128)
    assert "it has: 96x64x5" in caught.value.hint


def test_a_model_without_an_image_encoder_takes_no_image(t2v: Pair) -> None:
    with pytest.raises(PipelineError, match="no input encoder_hidden_states_image"):
        forward(t2v[1], hidden_states=torch.zeros(1, 16, 2, 8, 12))


def test_an_odd_size_of_a_dynamic_engine(t2v: Pair) -> None:
    with pytest.raises(PipelineError, match="no 104x64x5"):
        t2v[1](torch.zeros(1, 16, 2, 8, 13), torch.ones(1), torch.zeros(1, 512, 64))


def test_vace_is_refused_by_name(t2v: Pair) -> None:
    pipe = WanVACEPipeline(transformer=t2v[1], **make_components(T2V))
    with pytest.raises(PipelineError, match="VACE isn't supported"):
        pipe(prompt="a cat", width=96, height=64, num_frames=5, num_inference_steps=1)


def test_what_torch_modules_alone_can_do_is_refused(i2v: Pair, tmp_path: Path) -> None:
    engine = i2v[1]
    with pytest.raises(PipelineError, match="FirstBlockCacheConfig: diffusers' caches skip blocks"):
        engine.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    assert not engine.is_cache_enabled
    with pytest.raises(PipelineError, match="not a checkpoint"):
        make_pipeline(engine).save_pretrained(tmp_path / "saved")
    with pytest.raises(PipelineError, match="compiled in"):
        engine.set_attention_backend("native")
    with pytest.raises(PipelineError, match="compiled in fp32"):
        engine.enable_layerwise_casting()
    with pytest.raises(ValueError, match="does not support group offloading"):
        engine.enable_group_offload(torch.device("cpu"))


def test_a_full_engine_takes_no_lora(i2v: Pair) -> None:
    pipe = make_pipeline(i2v[1])
    lora = {"transformer.blocks.0.attn2.to_q.lora_A.weight": torch.ones(1, 256)}
    lora["transformer.blocks.0.attn2.to_q.lora_B.weight"] = torch.ones(256, 1)
    with pytest.raises(PipelineError, match="is a full engine, which takes no LoRA") as caught:
        pipe.load_lora_weights(lora)
    assert "--mode swappable" in caught.value.hint
    pipe.disable_lora()  # there is nothing to switch off
    pipe.unload_lora_weights()
