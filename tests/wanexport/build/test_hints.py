"""Every hint of a refused LoRA or checkpoint is followed, word by word, and arrives."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from commands import wanexport, write_config
from safetensors.torch import load_file, save_file
from studies import I2V, config

from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.model.config import Architecture, Experts

Flags = dict[str, str | None]
Q = "blocks.0.attn2.to_q"
MOST_STEPS = 4
# without attention to an image, as Wan2.2's image-to-video models
PAIR = I2V.model_copy(update={"image_dim": None, "added_kv_proj_dim": None})


def follow(hint: str, flags: Flags) -> Flags | None:
    """Return a build's flags after its hint; None if the hint is a reason, and no act."""
    spot = next((flag for flag in ("--lora", "--finetuned", "--base") if flag in flags), "--base")
    if "python -c" in hint:
        return flags | {spot: run(hint[hint.index("python -c") :])}
    if found := re.search(r"it fits in full: --config (\S+)|it fits --config (\S+)", hint):
        skips = "--skip-image-keys" in hint and flags["--config"] == "PAIR"
        return flags | (
            {"--skip-image-keys": None} if skips else {"--config": found[1] or found[2]}
        )
    if found := re.search(r"name one: (\S+?)(?: or |$)|give its folder: (\S+)|give (/\S+),", hint):
        return flags | {spot: next(path for path in found.groups() if path)}
    if found := re.search(r"give it with --lora (\S+)|GGUF is read as a checkpoint", hint):
        return moved(flags, spot, "--lora" if found[1] else "--base")
    if "trained parameters alone, give them with --finetuned" in hint:
        return {**moved(flags, spot, "--finetuned"), "--base": "BASE", "--mode": "full"}
    if "give a checkpoint with --base" in hint:
        return moved(flags, spot, "--base")
    for act, change in ACTS.items():
        if act in hint:
            return {flag: value for flag, value in (flags | change).items() if flag != value}
    return None


ACTS: dict[str, Flags] = {
    "add --merge-rest": {"--merge-rest": None},
    "apply the rest with --skip-image-keys": {"--skip-image-keys": None},
    "add --expert high, low or both": {"--expert": "low"},
    "--expert high, or low, names one": {"--expert": "high", "--config": "PAIR"},
    "build one with --expert high or low": {"--expert": "low"},
    "alone: --expert low": {"--expert": "low"},
    "build's --lora-low": {"--lora-low": "LORA", "--lora": "--lora"},
    "drop it, or choose a --config of Wan2.2": {"--config": "PAIR"},
}


def moved(flags: Flags, spot: str, to: str) -> Flags:
    """Give a path with another flag; a LoRA needs a base beside it, a checkpoint no LoRA."""
    others = {
        k: v for k, v in flags.items() if k not in ("--lora", "--finetuned", "--base", "--mode")
    }
    modes = {"--lora": "merged", "--base": "full", "--finetuned": "full"}
    base: Flags = {"--base": "random"} if to == "--lora" else {}
    return others | base | {to: flags[spot], "--mode": modes[to]}


def run(command: str) -> str:
    """Run a hint's command, and return the file that it writes."""
    _, option, code = shlex.split(command)
    subprocess.run([sys.executable, option, code], check=True, capture_output=True, timeout=120)
    written = re.findall(r'"([^"]+\.safetensors)"', code)
    return str(written[-1])


def lora(path: Path, names: tuple[str, ...] = (Q,), prefix: str = "transformer.", width: int = 0,
         extra: dict[str, torch.Tensor] | None = None) -> Path:  # fmt: skip
    size = width or I2V.width
    tensors = {
        f"{prefix}{name}.lora_{part}.weight": torch.full(shape, 0.1)
        for name in names
        for part, shape in (("A", (2, size)), ("B", (size, 2)))
    }
    save_file(tensors | (extra or {}), path)
    return path


def make_pickle(root: Path) -> Flags:
    torch.save({"model": load_file(single(root))}, root / "wan.pt")
    return {"--base": str(root / "wan.pt")}


def make_pickled_folder(root: Path) -> Flags:
    (root / "saved").mkdir()
    torch.save(load_file(single(root)), root / "saved" / "pytorch_model.bin")
    return {"--base": str(root / "saved")}


def single(root: Path) -> Path:
    write_checkpoint(root / "single", I2V, "fp32", 0)
    (file,) = (root / "single").glob("*.safetensors")
    return file


def make_shards(root: Path) -> Flags:
    write_checkpoint(root / "shards", I2V, "fp32", 0, shard_bytes=1 << 20)
    return {"--base": str(sorted((root / "shards").glob("*-of-*"))[0])}


def make_config_json(root: Path) -> Flags:
    folder = single(root).parent
    (folder / "config.json").write_text("{}")
    return {"--base": str(folder / "config.json")}


def make_two_files(root: Path) -> Flags:
    file = single(root)
    for index in file.parent.glob("*.json"):
        index.unlink()
    shutil.copy(file, file.with_name("ema.safetensors"))
    file.rename(file.with_name("model.safetensors"))
    return {"--base": str(file.parent)}


def make_partial(root: Path) -> Flags:
    held = load_file(single(root))
    save_file({n: t for n, t in held.items() if "attn2" in n}, root / "part.safetensors")
    return {"--base": str(root / "part.safetensors")}


def make_experts(root: Path, arch: Architecture = I2V) -> Path:
    for name in ("high_noise_model", "low_noise_model"):
        write_checkpoint(root / "pair" / name, arch, "fp32", 0)
    return root / "pair"


def make_whole_beside_lora(root: Path) -> Path:
    whole = {
        "transformer.proj_out.bias": torch.ones(64),
        "transformer.scale_shift_table": torch.ones(1, 2, I2V.width),
    }
    return lora(root / "mixed.safetensors", extra=whole)


def make_gguf(root: Path) -> Flags:
    writer = gguf.GGUFWriter(root / "wan.gguf", "wan")
    for name, tensor in load_file(single(root)).items():
        if tensor.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
        writer.add_tensor(name, (tensor.flatten(1) if tensor.ndim > 4 else tensor).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return merged(root / "wan.gguf")


def merged(path: Path, config: str = "TINY", expert: str | None = None) -> Flags:
    flags: Flags = {"--lora": str(path), "--mode": "merged", "--base": "random", "--config": config}
    return flags | ({"--expert": expert} if expert else {})


def pickled_lora(root: Path) -> Flags:
    torch.save(load_file(lora(root / "a.safetensors")), root / "a.pt")
    (root / "a.safetensors").unlink()
    return merged(root / "a.pt")


def with_bias(root: Path) -> Flags:
    path = lora(root / "a.safetensors", extra={f"transformer.{Q}.diff_b": torch.ones(I2V.width)})
    return merged(path) | {"--mode": "separate"}


def both_halves(root: Path) -> Path:
    held = load_file(lora(root / "high.safetensors"))
    held |= load_file(lora(root / "low.safetensors", prefix="transformer_2."))
    save_file(held, root / "both.safetensors")
    return root / "both.safetensors"


CASES: dict[str, Callable[[Path], Flags]] = {
    "a pickle": make_pickle,
    "a folder of pickles": make_pickled_folder,
    "one of several shards": make_shards,
    "a config.json": make_config_json,
    "two files": make_two_files,
    "trained parameters alone": make_partial,
    "a pair for one model": lambda root: {"--base": str(make_experts(root))},
    "a pair without --expert": lambda root: {
        "--base": str(make_experts(root, PAIR)), "--config": "PAIR"},
    "the other expert": lambda root: {
        "--base": str(make_experts(root, PAIR) / "low_noise_model"), "--config": "PAIR",
        "--expert": "high"},
    "one expert for both": lambda root: {
        "--base": str(make_experts(root, PAIR) / "low_noise_model"), "--config": "PAIR",
        "--expert": "both"},
    "--expert for one model": lambda root: {
        "--base": str(make_experts(root, PAIR)), "--expert": "low"},
    "a LoRA as a base": lambda root: {"--base": str(lora(root / "a.safetensors"))},
    "a LoRA and parameters as a fine-tune": lambda root: {
        "--finetuned": str(make_whole_beside_lora(root)), "--base": "BASE"},
    "a checkpoint as a LoRA": lambda root: merged(single(root)),
    "GGUF as a LoRA": make_gguf,
    "a pickled LoRA": pickled_lora,
    "a LoRA with whole parameters": lambda root: merged(make_whole_beside_lora(root)),
    "a LoRA with the text encoder's": lambda root: merged(
        lora(root / "a.safetensors", extra={"lora_te1_q.lora_down.weight": torch.ones(4, 4)})),
    "a LoRA with VACE's blocks": lambda root: merged(
        lora(root / "a.safetensors", (Q, "vace_blocks.0.attn2.to_q"))),
    "a bias in separate": with_bias,
    "a LoRA of another width": lambda root: merged(lora(root / "a.safetensors", width=512)),
    "a LoRA with image keys": lambda root: merged(
        lora(root / "a.safetensors", (Q, "blocks.0.attn2.add_k_proj")),
        "PAIR", "high"),
    "both experts' LoRAs": lambda root: merged(both_halves(root)),
    "the low expert's LoRA": lambda root: merged(
        lora(root / "LORA", prefix="transformer_2."),
        "PAIR", "both"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_hints_arrive(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experts = Experts(boundary=0.9, steps=40, shift=5.0)
    names = {
        "TINY": write_config(tmp_path / "tiny.toml", config()),
        "PAIR": write_config(tmp_path / "pair.toml", config(PAIR, experts=experts)),
        "BASE": tmp_path / "base",
    }
    write_checkpoint(tmp_path / "base", I2V, "fp32", 0)
    first: Flags = {"--config": "TINY", "--mode": "full"}
    flags = first | CASES[case](tmp_path)
    seen: list[str] = []
    for _ in range(MOST_STEPS):
        words = [names.get(word, word) for pair in flags.items() for word in pair if word]
        code, _, err = wanexport("build", *words, "--dry-run", "--quiet", "--out", tmp_path / "out")
        if code == 0:
            break
        assert err not in seen, f"{case}: the hints go in a circle:\n{err}"
        seen.append(err)
        hint = " ".join(err.partition("hint: ")[2].split()) if "python -c" not in err else err
        found = follow(hint.partition("hint: ")[2] or hint, flags)
        assert found is not None, f"{case}: no act in\n{err}"
        flags = found
    else:
        pytest.fail(f"{case}: never arrives:\n{''.join(seen)}")
    assert seen, f"{case}: nothing was refused"
