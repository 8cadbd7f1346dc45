"""Files of videos, as docs/video-file.md has them, of random values; what they give, in numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from wanrt.engine.engine import Engine
from wanrt.manifest.schema import Manifest

Arrays = dict[str, NDArray[Any]]
STEPS = 3
CHANNELS = 16


def make_video(
    manifest: Manifest, workload: str, *, guided: bool = True, seed: int = 0
) -> tuple[Arrays, dict[str, str]]:
    """Return tensors and metadata of a video for an engine's workload."""
    size = manifest.workloads[workload]
    random = np.random.default_rng(seed)

    def draw(shape: Sequence[int]) -> NDArray[Any]:
        return random.standard_normal(shape).astype(np.float32)

    batch, channels, *rest = size.shapes["hidden_states"]
    arrays: Arrays = {
        "latents": draw((batch, CHANNELS, *rest)),
        "timesteps": np.array([999, 640.5, 120], np.float32),
        "coefficients": np.tril(draw((STEPS, STEPS + 1)), 1) / 2,
    }
    if channels > CHANNELS:
        arrays["condition"] = draw((batch, channels - CHANNELS, *rest))
    if guided:
        arrays["guidance"] = np.array([5, 4.5, 3], np.float32)
    for name, shape in size.shapes.items():
        if name == "encoder_hidden_states":
            arrays[f"positive.{name}"] = draw(shape)
            if guided:
                arrays[f"negative.{name}"] = draw(shape)
        elif name not in ("hidden_states", "timestep"):
            arrays[name] = draw(shape)
    metadata = {
        "format": "wanexport-video",
        "version": "1",
        **{key: str(getattr(size, key)) for key in ("width", "height", "frames", "batch")},
        "dtype": manifest.dtype,
        "compared_by": json.dumps(dict(manifest.compared_by)),
        "scheduler": "random",
    }
    return arrays, metadata


def write_video(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> Path:
    """Write a video's file."""
    save_file(dict(arrays), path, metadata)
    return path


def replay(engines: Sequence[Engine], arrays: Arrays, high_steps: int = STEPS) -> NDArray[Any]:
    """Return the last latents, computed as the format says."""
    first = arrays["latents"]
    sample, returned = first, []
    shared = {n: a for n, a in arrays.items() if n.startswith("encoder_hidden_states_")}
    for step, timestep in enumerate(arrays["timesteps"]):
        engine = engines[0] if step < high_steps else engines[1]
        parts = [sample, *([arrays["condition"]] if "condition" in arrays else [])]
        given = {
            **shared,
            "hidden_states": np.concatenate(parts, axis=1),
            "timestep": np.full(len(first), timestep, np.float32),
        }

        def predict(prompt: str, given: Arrays = given, engine: Engine = engine) -> NDArray[Any]:
            text = arrays[f"{prompt}.encoder_hidden_states"]
            (output,) = engine.forward(**given, encoder_hidden_states=text).values()
            return np.array(output)

        value = predict("positive")
        if "guidance" in arrays:
            other = predict("negative")
            value = other + arrays["guidance"][step] * (value - other)
        returned.append(value)
        row = arrays["coefficients"][step]
        sample = row[0] * first
        for j, one in enumerate(returned):
            sample = sample + row[j + 1] * one
    return sample
