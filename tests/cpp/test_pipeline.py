"""From words to frames by a C++ host: Python prepares and decodes, wanrt-video runs the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpphosts import host, needs_tools
from PIL import Image
from studies import build
from tinypipelines import CALL, make_image, make_pipeline, run

from wanexport.pipelines import EngineTransformer
from wanexport.pipelines.decode import decode
from wanexport.pipelines.embed import Request, make_video_file
from wanrt.backends.load import load_engine
from wanrt.manifest.read import read_manifest

pytestmark = needs_tools


def test_frames_are_the_python_pipeline_s(tmp_path: Path) -> None:
    """Two videos on a split engine, with an adapter from the second one on, UniPC and guidance."""
    options: dict[str, Any] = {"modes": ("swappable",), "ranks": (2,), "split": True}
    folder = build(tmp_path / "engines", verify=False, **options)[0].path
    (shipped,) = read_manifest(folder).adapters
    adapter = folder / shipped.file
    model = tmp_path / "model"
    make_pipeline(None).save_pretrained(model)
    names = ("prompt", "negative_prompt", "guidance_scale")
    call = {name: CALL[name] for name in names} | {
        "image": make_image(), "num_inference_steps": CALL["num_inference_steps"],
        "generator": torch.Generator().manual_seed(7),
    }  # fmt: skip
    video, outs = tmp_path / "video.safetensors", [tmp_path / f"{n}.latents" for n in "ab"]
    make_video_file(Request(model, (folder,), call, text_dtype="fp32"), video)
    done = host(
        "plain", folder, "--video", video, "--out", outs[0], "--adapter", f"{adapter}:0.5",
        "--video", video, "--out", outs[1], name="wanrt-video",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number, (out, adapters) in enumerate(zip(outs, (None, [(adapter, 0.5)]), strict=True)):
        with load_engine(folder) as engine:
            engine.swap(adapters)
            pipe = make_pipeline(EngineTransformer(folder, engine=engine))
            want = np.round(np.asarray(run(pipe, output_type="np"))[0] * 255)
        frames = tmp_path / f"frames{number}"
        decode(str(model), out, frames)
        images = [Image.open(path) for path in sorted(frames.iterdir())]
        found = np.stack([np.asarray(image, np.float32) for image in images])
        assert np.abs(found - want).max() <= 1  # a value between two may be rounded to either
