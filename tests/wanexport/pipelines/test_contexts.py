"""A split engine's contexts: one per prompt and image, by what these hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studies import I2V, build, config
from tinypipelines import make_pipeline, make_transformer, relative, run, write_lora

from wanexport.pipelines import EngineTransformer
from wanexport.pipelines.recording import Recorder
from wanrt.backends.load import load_engine
from wanrt.engine.context import Context
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.schema import Graph, Manifest, Workload


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="fp32", shape=shape)


def graph(*inputs: TensorSpec) -> Graph:
    return Graph(
        file="x", bytes=0, sha256="0" * 64, weight_bytes=0, inputs=inputs,
        outputs=(spec("sample", 1, 16, 2, 8, 12),),
    )  # fmt: skip


SHAPES: dict[str, tuple[int, ...]] = {
    "hidden_states": (1, 36, 2, 8, 12), "timestep": (1,),
    "encoder_hidden_states": (1, 512, 64), "encoder_hidden_states_image": (1, 257, 80),
}  # fmt: skip
DENOISE = ("hidden_states", "timestep")
MANIFEST = Manifest.model_construct(
    name="split", mode="full", dtype="fp32", backend="onnxruntime", expert=None,
    config=config(I2V).model_dump(mode="json"), compared_by={"model": "tiny"},
    graphs={
        "context": graph(*(spec(n, *s) for n, s in SHAPES.items() if n not in DENOISE)),
        "denoise": graph(*(spec(n, *s) for n, s in SHAPES.items() if n in DENOISE)),
    },
    workloads={"96x64x5": Workload.model_construct(width=96, height=64, frames=5, shapes=SHAPES)},
)  # fmt: skip


class Split:
    """Counts what is prepared, and checks that forwards get what belongs to them."""

    manifest = MANIFEST

    def __init__(self) -> None:
        self.prepared: list[torch.Tensor] = []
        self.used: list[int] = []

    def prepare(self, /, **inputs: torch.Tensor) -> int:
        assert set(inputs) == SHAPES.keys() - set(DENOISE)
        self.prepared.append(inputs["encoder_hidden_states"].clone())
        return len(self.prepared) - 1

    def forward(self, /, *, context: int, **inputs: torch.Tensor) -> dict[str, Any]:
        assert set(inputs) == set(DENOISE)
        self.used.append(context)
        return {"sample": np.full((1, 16, 2, 8, 12), context, np.float32)}


@pytest.fixture
def engine() -> Split:
    return Split()


@pytest.fixture
def transformer(engine: Split) -> EngineTransformer:
    return EngineTransformer(Path("split"), engine=engine)  # type: ignore[arg-type]


def test_a_pipeline_with_guidance_prepares_twice(
    engine: Split, transformer: EngineTransformer
) -> None:
    pipe = make_pipeline(transformer)
    run(pipe, num_inference_steps=5)
    assert len(engine.prepared) == 2
    assert engine.used == [0, 1] * 5
    run(pipe, num_inference_steps=3)  # the same prompts, from other tensors
    assert len(engine.prepared) == 2
    run(pipe, num_inference_steps=3, prompt="a dog sits")
    assert len(engine.prepared) == 3  # the negative prompt is the same
    assert engine.used[-2:] == [2, 1]


def test_several_prompts_each_have_their_own(engine: Split, transformer: EngineTransformer) -> None:
    pipe = make_pipeline(transformer)
    run(pipe, prompt=["a cat", "a dog"], negative_prompt=["dark", "blurred"])
    assert len(engine.prepared) == 4
    assert engine.used == [0, 1, 2, 3] * 3


def test_values_decide_and_not_the_memory_they_are_in(
    engine: Split, transformer: EngineTransformer
) -> None:
    text = torch.zeros(*SHAPES["encoder_hidden_states"])
    call = {
        "hidden_states": torch.zeros(*SHAPES["hidden_states"]),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": text,
        "encoder_hidden_states_image": torch.zeros(*SHAPES["encoder_hidden_states_image"]),
    }
    with torch.inference_mode():
        transformer(**call)
        transformer(**call | {"encoder_hidden_states": text.clone()})
        assert engine.used == [0, 0]
        text.numpy()[0, 0, 0] = 1  # in place, where torch doesn't see it
        transformer(**call)
        assert engine.used == [0, 0, 1]
        text[0, 0, 0] = 0
        transformer(**call)
        assert engine.used == [0, 0, 1, 0]
        text[0, 0, 0] = 2
        transformer(**call)  # a third: the one that was used longest ago is forgotten
        text[0, 0, 0] = 1
        transformer(**call)
        assert engine.used == [0, 0, 1, 0, 2, 3]


def test_the_file_of_a_video_for_a_split_engine() -> None:
    recorder = Recorder()
    stand = EngineTransformer(Path("split"), engine=recorder.make_engine(MANIFEST))
    pipe = make_pipeline(stand)
    with recorder.watching(pipe):
        result = run(pipe)
    video = recorder.finish(result)
    assert set(video.positive) == set(video.negative) == {"encoder_hidden_states"}
    assert set(video.shared) == {"encoder_hidden_states_image"}
    assert video.condition is not None
    assert video.condition.shape == (1, 20, 2, 8, 12)


def test_a_split_engine_in_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prepares per run with guidance, and two more for every change of what adapters add."""
    plain = make_pipeline(make_transformer(tmp_path / "base"))
    options: dict[str, Any] = {"base": str(tmp_path / "base"), "verify": False, "split": True}
    (built,) = build(tmp_path / "out", modes=("swappable",), ranks=(4,), **options)
    prepared: list[object] = []
    with load_engine(built.path) as engine:
        prepare = engine.prepare

        def counted(**inputs: object) -> Context:
            prepared.append(inputs)
            return prepare(**inputs)

        monkeypatch.setattr(engine, "prepare", counted)
        fast = make_pipeline(EngineTransformer(built.path, engine=engine))
        base = run(fast)
        assert relative(base, run(plain)) < 1e-5
        assert len(prepared) == 2
        run(fast)
        assert len(prepared) == 2
        lora = write_lora(tmp_path / "style.safetensors")
        for pipe in (plain, fast):
            pipe.load_lora_weights(lora, adapter_name="style")
        for count, weight in ((4, 1.0), (6, 0.5)):
            for pipe in (plain, fast):
                pipe.set_adapters("style", weight)
            found = run(fast)
            assert relative(found, run(plain)) < 1e-5
            assert relative(found, base) > 0.02
            assert len(prepared) == count

        def schedule(pipe: Any, step: int, _: object, kept: dict[str, Any]) -> dict[str, Any]:
            pipe.set_adapters("style", 0.4 - 0.2 * step)
            return kept

        call = {"callback_on_step_end": schedule}
        assert relative(run(fast, **call), run(plain, **call)) < 1e-5
        assert len(prepared) == 6 + 2 * 2  # the last of three steps is followed by no forward
