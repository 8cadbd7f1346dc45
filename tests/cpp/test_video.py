"""wanrt-video runs a video's steps as docs/video-file.md says, against the same in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpphosts import BUILDS, host, needs_tools
from safetensors.numpy import load_file
from studies import I2V, OTHER_SIZES, T2V, build
from videofiles import Arrays, make_video, replay, write_video

from wanexport.model.config import Experts
from wanrt.backends.load import load_engine
from wanrt.manifest.read import read_manifest

pytestmark = needs_tools


@pytest.fixture(scope="module")
def swappable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("video") / "engines"
    options: dict[str, Any] = {"modes": ("swappable",), "ranks": (2,), "dynamic": True}
    return build(out, I2V, verify=False, **options)[0].path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("pair") / "engines"
    experts = Experts(boundary=0.9, steps=3, shift=5.0)
    built = build(out, T2V, modes=("full",), verify=False, experts=experts, expert="both")
    return sorted((one.path for one in built), key=lambda path: "high" not in path.name)


def video(*argv: object, build: str = "plain") -> Any:
    return host(build, *argv, name="wanrt-video")


@pytest.mark.parametrize("kind", BUILDS)
def test_latents_are_numpy_s_and_adapters_change_between_videos(
    swappable: Path, kind: str, tmp_path: Path
) -> None:
    manifest = read_manifest(swappable)
    (shipped,) = manifest.adapters
    adapter = swappable / shipped.file
    sizes = list(manifest.workloads)
    assert len(sizes) == 1 + len(OTHER_SIZES)
    flags: list[object] = []
    expected = []
    with load_engine(swappable) as engine:
        for number, (size, guided) in enumerate(((sizes[0], True), (sizes[-1], False))):
            arrays, metadata = make_video(manifest, size, guided=guided, seed=number)
            engine.swap([(adapter, 0.5)] if number else None)
            expected.append(replay([engine], arrays))
            if number:
                flags += ["--adapter", f"{adapter}:0.5"]
            path = write_video(tmp_path / f"{number}.safetensors", arrays, metadata)
            flags += ["--video", path, "--out", tmp_path / f"out{number}.safetensors"]
    done = video(swappable, *flags, build=kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(": ")[1].split(",")[0] for line in done.stdout.splitlines()] == [
        "6 forwards", "3 forwards"
    ]  # fmt: skip
    for number, value in enumerate(expected):
        found = load_file(tmp_path / f"out{number}.safetensors")
        assert set(found) == {"latents"}
        error = np.linalg.norm(found["latents"] - value) / np.linalg.norm(value)
        assert error < 1e-6
    assert not list(tmp_path.glob("*.part"))


def test_a_pair_takes_its_steps_in_turn(pair: list[Path], tmp_path: Path) -> None:
    manifest = read_manifest(pair[0])
    arrays, metadata = make_video(manifest, next(iter(manifest.workloads)))
    metadata["experts"] = "high:1,low:2"
    path = write_video(tmp_path / "v.safetensors", arrays, metadata)
    out = tmp_path / "out.safetensors"
    done = video(*pair, "--video", path, "--out", out)
    assert done.returncode == 0, done.stderr
    with load_engine(pair[0]) as high, load_engine(pair[1]) as low:
        expected = replay([high, low], arrays, high_steps=1)
    assert np.allclose(load_file(out)["latents"], expected, rtol=1e-5, atol=1e-6)
    alone = video(pair[0], "--video", path, "--out", out)
    assert "it takes both engines of a pair" in alone.stderr


Change = Callable[[Arrays, dict[str, str]], object]
WRONG: dict[str, tuple[Change, str]] = {
    "another format": (lambda _, m: m.update(format="pt"), "it isn't a video's file"),
    "no metadata": (lambda _, m: m.clear(), "it isn't a video's file"),
    "a later version": (lambda _, m: m.update(version="2"), "it has version 2"),
    "another size": (lambda _, m: m.update(width="832"), "the engine has no 832x64x5 with batch 1"),
    "another dtype": (lambda _, m: m.update(dtype="bf16"), "it is for a bf16 engine"),
    "another model": (
        lambda _, m: m.update(compared_by=json.dumps({"model": "other", "prefuse": "none"})),
        "it is for an engine of model"),
    "compared by nothing": (lambda _, m: m.update(compared_by="["), "isn't a JSON object"),
    "odd experts": (lambda _, m: m.update(experts="high:9,low:1"), "its experts are"),
    "a pair's": (lambda _, m: m.update(experts="high:1,low:2"), "both engines of a pair"),
    "no latents": (lambda a, _: a.pop("latents"), "latents is missing"),
    "no text": (lambda a, _: a.pop("positive.encoder_hidden_states"), "is missing"),
    "no text for guidance": (
        lambda a, _: a.pop("negative.encoder_hidden_states"), "encoder_hidden_states is missing"),
    "no guidance for a text": (
        lambda a, _: a.pop("guidance"), "negative.encoder_hidden_states isn't an input"),
    "a stranger": (lambda a, _: a.update(mask=a["latents"]), "mask isn't an input of the engine"),
    "a short table": (
        lambda a, _: a.update(coefficients=a["coefficients"][:, :3].copy()), "coefficients aren't"),
    "another text": (
        lambda a, _: a.update({"positive.encoder_hidden_states": np.zeros((1, 4, 4), np.float32)}),
        "hasn't the dtype and shape"),
    "no condition": (lambda a, _: a.pop("condition"), "don't make the engine's hidden_states"),
    "NaN": (lambda a, _: a["latents"].fill(np.nan), "isn't finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(swappable: Path, case: str, tmp_path: Path) -> None:
    change, why = WRONG[case]
    manifest = read_manifest(swappable)
    arrays, metadata = make_video(manifest, next(iter(manifest.workloads)))
    change(arrays, metadata)
    path = write_video(tmp_path / "v.safetensors", arrays, metadata)
    done = video(swappable, "--video", path, "--out", tmp_path / "o", build="sanitized")
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert [found.name for found in tmp_path.iterdir()] == ["v.safetensors"]


def test_latents_that_cannot_be_written(swappable: Path, tmp_path: Path) -> None:
    manifest = read_manifest(swappable)
    arrays, metadata = make_video(manifest, next(iter(manifest.workloads)), guided=False)
    path = write_video(tmp_path / "v.safetensors", arrays, metadata)
    done = video(swappable, "--video", path, "--out", tmp_path / "no" / "o")
    assert done.returncode == 1
    assert "can't be written" in done.stderr


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ([], "name one engine folder"),
        (["E"], "name a --video"),
        (["E", "--video", "a"], "give one --out per --video"),
        (["E", "--video", "a", "--out", "b", "--adapter", "c"], "no --video comes after"),
        (["E", "--low-adapter", "c", "--video", "a", "--out", "b"], "the second engine of a pair"),
        (["A", "B", "C", "--video", "a", "--out", "b"], "two of a Wan2.2 pair"),
        (["E", "--what"], "no such option"),
    ],
)
def test_wrong_usage(flags: list[str], why: str) -> None:
    done = video(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert done.stderr.startswith("usage: wanrt-video")
