"""Split engines in libwanrt: Python's outputs bit by bit, contexts made once per video."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cpphosts import BUILDS, host, needs_tools
from safetensors.numpy import load_file
from studies import I2V, T2V, build
from videofiles import make_video, write_video

from wanexport.model.config import Experts
from wanrt.backends.load import load_engine
from wanrt.cli.run import save_tensors
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.read import read_manifest

pytestmark = needs_tools

Engines = dict[str, Path]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Split engines by mode, of several sizes; `one` is the swappable one with one graph."""
    out = tmp_path_factory.mktemp("split")
    options: dict[str, Any] = {
        "ranks": (2,), "max_rank": 4, "dynamic": True, "targets": ("cross-attention",),
        "verify": False,
    }  # fmt: skip
    built = build(out / "two", I2V, split=True, **options)
    whole = build(out / "one", I2V, modes=("swappable",), **options)
    folders = {read_manifest(one.path).mode: one.path for one in built}
    return folders | {"one": whole[0].path}


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("mode", ["full", "merged", "separate"])
def test_every_mode_is_python_s_bit_by_bit(
    engines: Engines, mode: str, kind: str, tmp_path: Path
) -> None:
    folder = engines[mode]
    manifest = read_manifest(folder)
    for size in (next(iter(manifest.workloads)), list(manifest.workloads)[-1]):
        inputs = make_inputs(manifest, manifest.workloads[size], 7)
        save_tensors(tmp_path / "inputs.safetensors", inputs, {})
        with load_engine(folder, workload=size) as engine:
            save_tensors(tmp_path / "golden.safetensors", engine.forward(**inputs), {})
        done = host(
            kind, folder, "--workload", size, "--inputs", tmp_path / "inputs.safetensors",
            "--golden", tmp_path / "golden.safetensors", "--forwards", 2,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "bit by bit" in done.stdout


@pytest.mark.parametrize("kind", BUILDS)
def test_swaps_and_strengths_reach_the_context(engines: Engines, kind: str, tmp_path: Path) -> None:
    """All inputs are bound once; what the adapter changes of K and V is computed again."""
    folder = engines["swappable"]
    manifest = read_manifest(folder)
    adapter = folder / manifest.adapters[0].file
    size = next(iter(manifest.workloads))
    inputs = make_inputs(manifest, manifest.workloads[size], 7)
    save_tensors(tmp_path / "inputs.safetensors", inputs, {})
    goldens = [tmp_path / f"golden{i}.safetensors" for i in range(4)]
    with load_engine(folder, workload=size) as engine, load_engine(
        engines["one"], workload=size
    ) as whole:  # fmt: skip
        for i, adapters in enumerate((None, [(adapter, 1.0), (adapter, -0.5)], None, None)):
            for one in (engine, whole):
                if i == 2:
                    one.set_strengths((0, 0.25))
                else:
                    one.swap(adapters)
            save_tensors(goldens[i], engine.forward(**inputs), {})
            expected = whole.forward(**inputs)["sample"]
            assert (load_file(goldens[i])["sample"] == expected).all()
    assert (load_file(goldens[0])["sample"] != load_file(goldens[1])["sample"]).any()
    done = host(
        kind, folder, "--inputs", tmp_path / "inputs.safetensors", "--forwards", 1,
        "--adapter", "base", "--adapter", f"{adapter},{adapter}:-0.5", "--strengths", "0,0.25",
        "--adapter", "base", *(flag for golden in goldens for flag in ("--golden", golden)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit by bit") == 4


@pytest.mark.parametrize("kind", BUILDS)
def test_a_video_makes_each_prompt_s_context_once(
    engines: Engines, kind: str, tmp_path: Path
) -> None:
    """Its latents are those of the engine with one graph; a swap between videos makes new ones."""
    manifest = read_manifest(engines["swappable"])
    adapter = engines["swappable"] / manifest.adapters[0].file
    sizes = list(manifest.workloads)
    outs: dict[str, list[Path]] = {}
    for name in ("swappable", "one"):
        flags: list[object] = []
        outs[name] = [tmp_path / f"{name}{number}.safetensors" for number in range(3)]
        videos = ((sizes[0], True), (sizes[0], True), (sizes[-1], False))
        for number, (size, guided) in enumerate(videos):
            arrays, metadata = make_video(manifest, size, guided=guided, seed=number // 2)
            path = write_video(tmp_path / f"{number}.safetensors", arrays, metadata)
            if number:
                flags += ["--adapter", f"{adapter}:{number}"]
            flags += ["--video", path, "--out", outs[name][number]]
        done = host(kind, engines[name], *flags, name="wanrt-video")
        assert done.returncode == 0, done.stdout + done.stderr
        told = [line.split(": ")[1].rsplit(", ", 1)[0] for line in done.stdout.splitlines()]
        split = name == "swappable"
        counts = ("6 forwards, 2 contexts", "6 forwards, 2 contexts", "3 forwards, 1 context")
        assert told == [count if split else count.split(",")[0] for count in counts]
    for found, expected in zip(*outs.values(), strict=True):
        assert found.read_bytes() == expected.read_bytes()
    assert outs["one"][0].read_bytes() != outs["one"][1].read_bytes()


def test_a_pair_makes_contexts_for_each_expert(tmp_path: Path) -> None:
    experts = Experts(boundary=0.9, steps=3, shift=5.0)
    options: dict[str, Any] = {
        "modes": ("full",), "verify": False, "experts": experts, "expert": "both"
    }  # fmt: skip
    outs = []
    for split in (False, True):
        built = build(tmp_path / "engines", T2V, split=split, **options)
        pair = sorted((one.path for one in built), key=lambda path: "high" not in path.name)
        manifest = read_manifest(pair[0])
        arrays, metadata = make_video(manifest, next(iter(manifest.workloads)))
        metadata["experts"] = "high:1,low:2"
        path = write_video(tmp_path / "v.safetensors", arrays, metadata)
        outs.append(tmp_path / f"out{split}.safetensors")
        done = host("plain", *pair, "--video", path, "--out", outs[-1], name="wanrt-video")
        assert done.returncode == 0, done.stderr
    assert "6 forwards, 4 contexts" in done.stdout
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_context_graph_that_was_changed_is_refused(engines: Engines, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(engines["full"], folder)
    graph = folder / read_manifest(folder).graphs["context"].file
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    done = host("sanitized", folder)
    assert done.returncode == 1
    assert f"{graph.name}: its bytes are not the recorded ones" in done.stderr
