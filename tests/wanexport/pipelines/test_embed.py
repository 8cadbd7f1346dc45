"""The file of a video: a host that follows docs/video-file.md makes what the pipeline makes."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
)
from pages import ROOT, shown_commands
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from studies import SIZE, build
from tinypipelines import CALL, make_image, make_pipeline, relative, run, write_lora
from typer.main import get_command

from wanexport.errors import PipelineError, UsageError
from wanexport.pipelines import EngineTransformer
from wanexport.pipelines.decode import decode, decode_latents
from wanexport.pipelines.embed import Request, embed, make_video_file
from wanexport.pipelines.recording import Recorder
from wanexport.pipelines.sampler import work_out_coefficients
from wanexport.pipelines.video_file import read_latents
from wanrt.backends.load import load_engine
from wanrt.engine.engine import Engine
from wanrt.manifest.read import read_manifest

ALIKE = 1e-5
EXAMPLE = ROOT / "docs/examples/image_to_video.py"
VIDEO = {key: CALL[key] for key in ("prompt", "negative_prompt", "guidance_scale")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embed")


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    (built,) = build(root / "engines", modes=("full",), verify=False)
    return built.path


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with load_engine(folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    make_pipeline(None).save_pretrained(root / "model")
    return root / "model"


def replay(file: Path, engine: Engine) -> tuple[np.ndarray[Any, Any], dict[str, str]]:
    """Run a video's steps as a host does; in numpy, by the page alone."""
    with safe_open(file, framework="np") as opened:
        held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    shared = {n: v for n, v in held.items() if n.startswith("encoder_")}
    first = held["latents"]
    x, outputs = first, []

    def forward(kind: str, step: int) -> np.ndarray[Any, Any]:
        own = {n.partition(".")[2]: v for n, v in held.items() if n.startswith(f"{kind}.")}
        condition = held.get("condition")
        inputs = [x] if condition is None else [x, condition]
        sample: np.ndarray[Any, Any] = engine.forward(
            hidden_states=np.concatenate(inputs, axis=1),
            timestep=np.repeat(held["timesteps"][step], len(x)),
            **own,
            **shared,
        )["sample"]
        return sample

    for step, row in enumerate(held["coefficients"]):
        v = forward("positive", step)
        if "guidance" in held:
            n = forward("negative", step)
            v = n + held["guidance"][step] * (v - n)
        outputs.append(v)
        x = row[0] * first + sum(c * o for c, o in zip(row[1:], outputs, strict=False))
    return x, metadata


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["alone", "guided"])
def test_a_host_makes_the_pipeline_s_latents(
    model: Path, folder: Path, engine: Engine, tmp_path: Path, sampler: Any, guidance: float
) -> None:
    generator = torch.Generator().manual_seed(7)
    call = VIDEO | {"image": make_image(), "num_inference_steps": 6, "generator": generator}
    call["guidance_scale"] = guidance
    request = Request(model, (folder,), call, sampler=sampler, flow_shift=3.0, text_dtype="fp32")
    file = tmp_path / "video.safetensors"
    assert make_video_file(request, file) == 6
    found, metadata = replay(file, engine)
    pipe = make_pipeline(EngineTransformer(folder, engine=engine))
    if sampler == "euler":
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    want = run(pipe, num_inference_steps=6, guidance_scale=guidance)
    assert relative(torch.from_numpy(found), want) < ALIKE
    assert metadata["format"] == "wanexport-video"
    assert [metadata[name] for name in ("width", "height", "frames", "batch")] == [
        str(SIZE.width), str(SIZE.height), str(SIZE.frames), "1",
    ]  # fmt: skip


def test_from_words_to_frames(
    model: Path,
    folder: Path,
    engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_image().save(tmp_path / "first.png")
    command = [sys.executable, "-m", "wanexport.pipelines.embed", str(model)]
    options = {
        "--engine": str(folder), "--prompt": "a cat runs", "--negative-prompt": "blurred",
        "--image": "first.png", "--steps": "3", "--guidance": "4", "--seed": "7",
        "--text-dtype": "fp32", "--output": "video.safetensors",
    }  # fmt: skip
    flags = [word for option in options.items() for word in option]
    done = subprocess.run([*command, *flags], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "saved video.safetensors (3 steps)\n"), done.stderr
    latents, _ = replay(tmp_path / "video.safetensors", engine)
    facts = {"format": "wanexport-latents", "version": "1"}
    save_file({"latents": latents}, tmp_path / "latents.safetensors", facts)
    decode(str(model), tmp_path / "latents.safetensors", tmp_path / "frames")
    assert capsys.readouterr().out == f"saved 5 frames in {tmp_path / 'frames'}\n"
    pipe = make_pipeline(EngineTransformer(folder, engine=engine))
    want = np.round(np.asarray(run(pipe, output_type="np"))[0] * 255)
    frames = sorted((tmp_path / "frames").iterdir())
    found = np.stack([np.asarray(Image.open(frame), np.float32) for frame in frames])
    assert np.abs(found - want).max() <= 1  # a value between two may be rounded to either
    with pytest.raises(PipelineError, match="frames exists"):
        decode(str(model), tmp_path / "latents.safetensors", tmp_path / "frames")


def test_a_pair_of_experts_says_which_step_is_whose(folder: Path) -> None:
    manifest = read_manifest(folder)
    recorder = Recorder()
    high, low = (
        EngineTransformer(folder, engine=recorder.make_engine(manifest, at)) for at in (0, 1)
    )
    pipe = make_pipeline(high, transformer_2=low, boundary_ratio=0.8)
    with recorder.watching(pipe):
        result = run(pipe, guidance_scale_2=2.0, num_inference_steps=5)
    video = recorder.finish(result)
    assert video.high_steps is not None
    high_steps = int((video.timesteps >= 800).sum())
    assert 0 < video.high_steps == high_steps < 5
    assert video.guidance is not None
    assert video.guidance.tolist() == [4.0] * high_steps + [2.0] * (5 - high_steps)


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_s_coefficients_are_what_it_does(steps: int, order: int) -> None:
    made = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, solver_order=order
    )
    made.set_timesteps(steps)
    rows = work_out_coefficients(made, list(made.timesteps))
    noise = torch.randn(steps + 1, 64, generator=torch.Generator().manual_seed(0)).double()
    x = noise[:1]
    for i, t in enumerate(made.timesteps):
        x = made.step(noise[i + 1 : i + 2], t, x, return_dict=False)[0]
        assert relative(rows[i] @ noise, x[0]) < 1e-9
        assert not rows[i, i + 2 :].any()


def test_a_sampler_that_draws_noise_is_refused(folder: Path) -> None:
    recorder = Recorder()
    stand = recorder.make_engine(read_manifest(folder))
    pipe = make_pipeline(EngineTransformer(folder, engine=stand))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with recorder.watching(pipe):
        result = run(pipe)
    with pytest.raises(PipelineError, match="steps aren't the same sums"):
        recorder.finish(result)


def test_what_can_not_be_a_video_file(model: Path, folder: Path, tmp_path: Path) -> None:
    call = VIDEO | {"image": make_image()}
    with pytest.raises(UsageError, match="one engine, or both experts"):
        make_video_file(Request(model, (folder, folder), call), tmp_path / "x.safetensors")
    with pytest.raises(PipelineError, match="no 128x64x5"):
        make_video_file(
            Request(model, (folder,), call, (128, None, None)), tmp_path / "x.safetensors"
        )
    two = call | {"prompt": ["a", "cat"], "negative_prompt": "dark", "num_inference_steps": 1}
    with pytest.raises(PipelineError, match="calls its transformer 4 times a step"):
        make_video_file(Request(model, (folder,), two), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_latents_are_checked(model: Path, tmp_path: Path) -> None:
    facts = {"format": "wanexport-latents", "version": "1"}
    file, good = tmp_path / "x.safetensors", np.zeros((1, 16, 2, 8, 12), np.float32)
    for tensors, metadata, problem in (
        ({"latents": good}, {}, "doesn't hold a video's latents"),
        ({"latents": good}, facts | {"version": "2"}, "has version 2"),
        ({"x": good}, facts, "has no tensor latents"),
        ({"latents": good + np.inf}, facts, "aren't finite"),
    ):
        save_file(tensors, file, metadata)
        with pytest.raises(PipelineError, match=problem):
            read_latents(file)
    with pytest.raises(PipelineError, match=r"48 channels, the VAE of .* takes 16"):
        decode_latents(model, torch.zeros(1, 48, 2, 8, 12))


def test_the_example(
    model: Path, folder: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (built,) = build(root / "swap", modes=("swappable",), ranks=(4,), verify=False)
    lora, image = write_lora(tmp_path / "style.safetensors"), tmp_path / "first.png"
    make_image(width=128, height=128).save(image)
    spec = importlib.util.spec_from_file_location("image_to_video", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    videos = []
    for engine, more in ((folder, []), (built.path, ["--lora", f"{lora}:0.8"])):
        output = tmp_path / f"{engine.name}.webp"
        paths = [str(path) for path in (model, engine, image)]
        example.main([*paths, "a cat runs", "--steps", "2", "-o", str(output), *more])
        videos.append(output)
    assert capsys.readouterr().out.count("(5 frames)") == 2
    assert videos[0].read_bytes() != videos[1].read_bytes()


PAGES = [ROOT / "docs/pipelines.md", ROOT / "docs/video-file.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_and_commands_on_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                for name in node.names:
                    assert hasattr(importlib.import_module(node.module or ""), name.name)
    for shown in shown_commands(page):
        program, *words = shlex.split(shown.text)
        if program == "python" and words[0].endswith(".py"):
            assert (ROOT / words[0]).exists()
        elif program == "python":
            assert words[0] == "-m"
            command: Any = {"embed": embed, "decode": decode}[words[1].rpartition(".")[2]]
            app = typer.Typer()
            app.command()(command)
            get_command(app).make_context("", words[2:], resilient_parsing=True)
    for name in re.findall(r"`(\w+)`", text):
        if name.endswith(("_lora", "_adapters", "_lora_weights", "_cache", "_offload", "_backend")):
            assert hasattr(EngineTransformer, name) or hasattr(WanImageToVideoPipeline, name), name
