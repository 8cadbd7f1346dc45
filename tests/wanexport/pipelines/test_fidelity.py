"""Videos compared with the full fine-tune's: the figures by hand, from diffusers' own outputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from studies import T2V, build
from tinypipelines import CALL, make_pipeline, make_transformer

from wanexport.errors import PipelineError
from wanexport.pipelines import EngineTransformer
from wanexport.pipelines.fidelity import compare_videos

SMALL = T2V.model_copy(update={"num_layers": 1})
SHORT = {k: v for k, v in CALL.items() if k != "output_type"} | {"num_inference_steps": 2}


def test_what_is_compared_is_what_the_pipeline_makes(tmp_path: Path) -> None:
    full, other = (make_transformer(tmp_path / name, SMALL, i) for i, name in enumerate("ab"))
    (built,) = build(tmp_path / "e", SMALL, modes=("full",), base=str(tmp_path / "a"), verify=False)
    pipe = make_pipeline(other, SMALL)
    engine = EngineTransformer(built.path)
    same, far = compare_videos(pipe, full, {"engine": engine, "other": other}, [7], SHORT)
    engine.close()
    assert pipe.transformer is other
    assert (same.name, same.seed, far.name) == ("engine", 7, "other")
    assert same.latents < 1e-5 and same.psnr > 80

    def make(transformer: Any, kind: str) -> torch.Tensor:
        pipe.transformer = transformer
        generator = torch.Generator().manual_seed(7)
        return torch.as_tensor(pipe(**SHORT, output_type=kind, generator=generator).frames)

    a, b = (make(one, "latent").double() for one in (other, full))
    assert far.latents == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-5)
    a, b = (make(one, "np").double() for one in (other, full))
    assert far.psnr == pytest.approx(10 * math.log10(1 / float(((a - b) ** 2).mean())), rel=1e-5)


def test_equal_videos_and_refusals(tmp_path: Path) -> None:
    model = make_transformer(tmp_path / "a", SMALL)
    pipe = make_pipeline(model, SMALL)
    (same,) = compare_videos(pipe, model, {"itself": model}, [0], SHORT)
    assert (same.latents, same.psnr) == (0.0, math.inf)
    with pytest.raises(PipelineError, match="output_type is chosen"):
        compare_videos(pipe, model, {}, [0], CALL)
    pair = make_pipeline(model, SMALL, transformer_2=model)
    with pytest.raises(PipelineError, match="two transformers"):
        compare_videos(pair, model, {}, [0], SHORT)
