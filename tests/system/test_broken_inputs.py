"""Whatever is broken about what wanexport is given: one line says so, and nothing is left."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import valid_files
from commands import wanexport, wanrt
from valid_files import (
    INDEX,
    LA,
    LB,
    Case,
    Q,
    Samples,
    check,
    cut,
    entry,
    halve,
    header,
    indexed,
    ones,
    poison,
    shard,
)

root, samples = valid_files.root, valid_files.samples  # fixtures

EXPORT: dict[str, Case] = {
    # checkpoints
    "base missing": Case(lambda w: w.full(base=w.tmp / "none"), "none doesn't exist"),
    "base truncated": Case(
        lambda w: w.full(base=cut(w.base())), r"base\.safetensors is not a whole safetensors file"
    ),
    "base empty": Case(
        lambda w: w.full(base=w.file("e.safetensors", b"")), "not a whole safetensors"
    ),
    "base of 7 bytes": Case(
        lambda w: w.full(base=w.file("e.safetensors", b"1234567")), "not a whole safetensors"
    ),
    "header lies about its length": Case(
        lambda w: w.full(base=w.file("e.safetensors", header(length=999, x=entry(0, 16)))),
        "not a whole safetensors",
    ),
    "header of 2^62 bytes": Case(
        lambda w: w.full(base=w.file("e.safetensors", header(length=1 << 62))),
        "not a whole safetensors",
    ),
    "header of 200 MB": Case(
        lambda w: w.full(base=w.file("e.safetensors", header(length=200 << 20))),
        "not a whole safetensors",
    ),
    "header is no JSON": Case(
        lambda w: w.full(base=w.file("e.safetensors", struct.pack("<Q", 5) + b"nope!")),
        "not a whole safetensors",
    ),
    "tensors overlap": Case(
        lambda w: w.full(
            base=w.file(
                "e.safetensors", header(x=entry(0, 16), y=entry(8, 24), data=bytes(24))
            )
        ),
        "not a whole safetensors",
    ),
    "tensors leave a hole": Case(
        lambda w: w.full(
            base=w.file(
                "e.safetensors", header(x=entry(0, 16), y=entry(32, 48), data=bytes(48))
            )
        ),
        "not a whole safetensors",
    ),
    "offsets before their start": Case(
        lambda w: w.full(base=w.file("e.safetensors", header(x=entry(16, 0), data=bytes(16)))),
        "not a whole safetensors",
    ),
    "offsets past the end": Case(
        lambda w: w.full(base=w.file("e.safetensors", header(x=entry(0, 1 << 40)))),
        "not a whole safetensors",
    ),
    "shape and bytes disagree": Case(
        lambda w: w.full(
            base=w.file("e.safetensors", header(x=entry(0, 16, (5,)), data=bytes(16)))
        ),
        "not a whole safetensors",
    ),
    "shape overflows": Case(
        lambda w: w.full(
            base=w.file("e.safetensors", header(x=entry(0, 16, (1 << 62, 1 << 62)), data=bytes(16)))
        ),
        "not a whole safetensors",
    ),
    "unknown stored dtype": Case(
        lambda w: w.full(
            base=w.file("e.safetensors", header(x=entry(0, 16, dtype="F128"), data=bytes(16)))
        ),
        "not a whole safetensors",
    ),
    "base a pickle": Case(
        lambda w: w.full(base=w.file("wan.pt", b"\x80\x04.")), r"wan\.pt is a pickle"
    ),
    "base folder of a pickle": Case(
        lambda w: w.full(base=w.file("model.bin", b"\x80\x04.").parent), "holds a pickle"
    ),
    "base folder without weights": Case(
        lambda w: w.full(base=w.file("README.md", "").parent), "holds no checkpoint"
    ),
    "base of another kind": Case(
        lambda w: w.full(base=w.file("wan.gguf", b"GGUF")), "not a whole GGUF file"
    ),
    "base a configuration": Case(
        lambda w: w.full(base=w.config), "not a whole safetensors"
    ),
    "text-to-video base for image-to-video": Case(
        lambda w: w.full(base=w.root / "t2v"),
        r"t2v: .* is \[1, 2, 128\], the configuration wants \[1, 2, 256\]",
    ),
    "small base for a large model": Case(
        lambda w: w.full(config="wan2.1-i2v-14b-480p"),
        r"base: .* is \[1, 2, 256\], the configuration wants \[1, 2, 5120\]",
    ),
    "tensor missing": Case(
        lambda w: w.full(base=w.base(lambda t: t.pop(f"{Q}.weight"))),
        rf"lacks 1 of \d+ tensors: {Q}\.weight",
    ),
    "tensor too many": Case(
        lambda w: w.full(base=w.base(lambda t: t.update(extra=ones(64)))),
        "holds 1 unknown tensors: extra",
    ),
    "tensor of another shape": Case(
        lambda w: w.full(base=w.base(lambda t: t.update({f"{Q}.weight": ones(256, 255)}))),
        rf"{Q}\.weight is \[256, 255\], should be \[256, 256\]",
    ),
    "tensor of whole numbers": Case(
        lambda w: w.full(base=w.base(lambda t: t.update({f"{Q}.bias": np.ones(256, np.int32)}))),
        rf"{Q}\.bias is I32; F32, F16, BF16, F8_E4M3, F8_E5M2, I8 can be read",
    ),
    "NaN in the base": Case(
        lambda w: w.build("--mode", "full", base=w.base(poison(f"{Q}.weight", np.nan))),
        rf"base\.safetensors: {Q}\.weight holds NaN or infinity",
    ),
    "infinity in the base": Case(
        lambda w: w.build("--mode", "full", base=w.base(poison("proj_out.bias", np.inf))),
        r"base\.safetensors: proj_out\.bias holds NaN or infinity",
    ),
    "NaN in a base to be cast": Case(
        lambda w: [*w.full(base=w.base(poison(f"{Q}.weight", np.nan))), "--dtype", "bf16"],
        rf"base\.safetensors: {Q}\.weight holds NaN or infinity",
    ),
    "merged beyond fp16": Case(
        lambda w: [
            *w.build(
                "--mode", "merged", "--lora", w.with_lora(**{LA: 1e6 * ones(4, 256)}),
                base=w.base(halve),
            ),
            "--dtype", "fp16",
        ],
        rf"{Q}\.weight, merged, overflows fp16",
    ),
    "index not JSON": Case(
        lambda w: (
            (f := w.copy(w.root / "base")),
            (f / INDEX).write_text("{"),
            w.full(base=f),
        )[-1],
        r"index\.json is not JSON",
    ),
    "index leads out": Case(
        lambda w: indexed(w, x="../x.safetensors"), "leads out of the folder"
    ),
    "index is absolute": Case(
        lambda w: indexed(w, x="/etc/x.safetensors"), "leads out of the folder"
    ),
    "index names a pickle": Case(lambda w: indexed(w, x="w.bin"), "not a safetensors file's name"),
    "index names a missing shard": Case(
        lambda w: indexed(w, x="diffusion_pytorch_model-00009-of-00009.safetensors"), "lacks "
    ),
    "hub id that isn't in the cache": Case(
        lambda w: w.full(base="Wan-AI/Wan2.1-I2V-14B-480P"), "nor in the local Hugging Face cache"
    ),
    "finetuned missing": Case(
        lambda w: [*w.merged(w.lora), "--mode", "full", "--finetuned", w.tmp / "none"],
        "none doesn't exist",
    ),
    "finetuned of another model": Case(
        lambda w: [*w.merged(w.lora), "--mode", "full", "--finetuned", w.root / "t2v"],
        r"t2v: .* the configuration wants \[1, 2, 256\]",
    ),
    "a LoRA as base": Case(lambda w: w.full(base=w.lora), r"style\.safetensors is a LoRA"),
    "no base for a shipped model": Case(
        lambda _: ["build", "--rank", 4, "--config", "wan2.1-t2v-14b-480p"],
        "needs its checkpoint",
        code=2,
    ),
    # configurations
    "no such configuration": Case(
        lambda w: w.full(config="wan2.1-i2v-demos"), "no configuration 'wan2.1-i2v-demos'"
    ),
    "no such configuration file": Case(
        lambda w: w.full(config=w.tmp / "none.toml"), "there is no configuration|can't be read"
    ),
    "configuration a folder": Case(lambda w: w.full(config=w.tmp), "there is no configuration"),
    "configuration not TOML": Case(
        lambda w: w.full(config=w.file("c.toml", "a = [")), r"c\.toml is not TOML"
    ),
    "configuration binary": Case(
        lambda w: w.full(config=w.file("c.toml", b"\xff\xfe\x00")), r"c\.toml is not TOML"
    ),
    "configuration empty": Case(
        lambda w: w.full(config=w.file("c.toml", "")), r"c\.toml: name: missing key"
    ),
    "unknown key": Case(
        lambda w: w.full(config=w.toml("num_layers", "num_layer")),
        r"mine\.toml: architecture\.num_layer: unknown key",
    ),
    "wrong type": Case(
        lambda w: w.full(config=w.toml("num_layers = 2", 'num_layers = "2"')),
        r"mine\.toml: architecture\.num_layers: is '2'",
    ),
    "unknown dtype in a configuration": Case(
        lambda w: w.full(config=w.toml('dtype = "fp32"', 'dtype = "fp8"')), "dtype: is 'fp8'"
    ),
    "name that leaves the folder": Case(
        lambda w: w.full(config=w.toml('name = "tiny"', 'name = "../tiny"')), "name: is '../tiny'"
    ),
    "width no multiple": Case(
        lambda w: [*w.full(), "--width", 100], "--width: 100 isn't a multiple of 16"
    ),
    "height no multiple": Case(
        lambda w: [*w.full(), "--height", 719], "719 isn't a multiple of 16; the nearest is 720"
    ),
    "frames": Case(lambda w: [*w.full(), "--frames", 80], "80 isn't 4k . 1; the nearest is 81"),
    "no width": Case(lambda w: [*w.full(), "--width", 0], "--width: is 0"),
    "negative height": Case(lambda w: [*w.full(), "--height", -16], "--height: is -16"),
    "no frames": Case(lambda w: [*w.full(), "--frames", 0], "--frames: is 0"),
    "no batch": Case(lambda w: [*w.full(), "--batch", 0], "--batch: is 0"),
    "beyond the rotary table": Case(
        lambda w: [*w.full(), "--width", 16 * 1025], "rotary table"
    ),
    "dynamic without sizes": Case(lambda w: [*w.full(), "--dynamic"], "names no dynamic_sizes"),
    # ranks and LoRA files
    "rank above the width": Case(
        lambda w: w.build("--rank", 257), "rank 257 exceeds the model's width, 256"
    ),
    "largest rank below a rank": Case(
        lambda w: w.build("--rank", 8, "--max-rank", 4), "--max-rank 4 is below --rank 8"
    ),
    "largest rank above the width": Case(
        lambda w: w.build("--rank", 8, "--max-rank", 257), "--max-rank 257 exceeds .* width, 256"
    ),
    "largest rank below a file's": Case(
        lambda w: w.build("--mode", "swappable", "--lora", w.lora, "--max-rank", 2),
        "--max-rank 2 is below the adapter's rank, 4",
    ),
    "rank and LoRA": Case(
        lambda w: w.build("--rank", 4, "--lora", w.lora), "drop one of the two", code=2
    ),
    "no adapter": Case(
        lambda w: w.build("--mode", "merged"), "mode merged needs an adapter", code=2
    ),
    "strength no number": Case(
        lambda w: w.merged(f"{w.lora}:strong"), "'strong' is not a strength"
    ),
    "strength not finite": Case(lambda w: w.merged(f"{w.lora}:nan"), "strength must be finite"),
    "LoRA missing": Case(lambda w: w.merged(w.tmp / "none.safetensors"), "doesn't exist"),
    "LoRA not in the cache": Case(
        lambda w: w.merged("org/style:0.5"), "org/style is neither a path here nor in the local"
    ),
    "LoRA truncated": Case(lambda w: w.merged(cut(w.copy(w.lora))), "not a whole safetensors"),
    "LoRA a pickle": Case(lambda w: w.merged(w.file("l.pt", b"\x80\x04.")), "is a pickle"),
    "LoRA folder of two": Case(
        lambda w: w.merged((w.with_lora(), w.copy(w.lora))[0].parent), "holds 2 safetensors files"
    ),
    "LoRA empty": Case(
        lambda w: w.merged(w.file("l.safetensors", header())), r"l\.safetensors: holds no tensors"
    ),
    "LoRA a checkpoint": Case(
        lambda w: w.merged(shard(w.root / "base")), "looks like a checkpoint"
    ),
    "LoRA of NaN": Case(
        lambda w: w.merged(w.with_lora(**{LA: np.full((4, 256), np.nan, np.float32)})),
        r"lora\.safetensors: .*lora_A\.weight holds values that aren't finite",
    ),
    "LoRA of no module": Case(
        lambda w: w.merged(
            w.with_lora(
                **{
                    "transformer.blocks.0.attn9.to_q.lora_A.weight": ones(4, 256),
                    "transformer.blocks.0.attn9.to_q.lora_B.weight": ones(256, 4),
                }
            )
        ),
        "2 of 4 keys match no module of the model",
    ),
    "LoRA of a larger model": Case(
        lambda w: w.merged(
            w.with_lora(
                **{
                    "transformer.blocks.39.attn2.to_q.lora_A.weight": ones(4, 256),
                    "transformer.blocks.39.attn2.to_q.lora_B.weight": ones(256, 4),
                }
            )
        ),
        "blocks that the model, of 2 blocks, doesn't have",
    ),
    "LoRA of another width": Case(
        lambda w: w.merged(w.with_lora(**{LA: ones(4, 5120), LB: ones(5120, 4)})),
        rf"{Q}\.weight is \[256, 256\]",
    ),
    "LoRA without its other half": Case(
        lambda w: w.merged(w.with_lora(**{LB: None})), "lacks its other half"
    ),
    "LoRA of two ranks": Case(
        lambda w: w.merged(w.with_lora(**{LB: ones(256, 8)})), rf"lora.*{Q}"
    ),
    "LoRA of rank 0": Case(
        lambda w: w.merged(w.with_lora(**{LA: ones(0, 256), LB: ones(256, 0)})), rf"{Q}.*rank 0"
    ),
    "LoRA of whole numbers": Case(
        lambda w: w.merged(w.with_lora(**{LA: np.ones((4, 256), np.int32)})), "is I32, which holds"
    ),
    "alpha without LoRA": Case(
        lambda w: w.merged(w.with_lora(**{"transformer.blocks.1.attn2.to_k.alpha": ones(1)})),
        "alpha has no LoRA tensors beside it",
    ),
    "alpha of two numbers": Case(
        lambda w: w.merged(w.with_lora(**{f"transformer.{Q}.alpha": ones(2)})),
        "should be one number",
    ),
    "alpha zero": Case(
        lambda w: w.merged(w.with_lora(**{f"transformer.{Q}.alpha": 0 * ones(1)})),
        r"alpha is 0\.0",
    ),
    "a bias that no branch carries": Case(
        lambda w: w.build(
            "--mode", "separate",
            "--lora", w.with_lora(**{f"transformer.{Q}.diff_b": ones(256)}),
        ),
        rf"mode separate can't carry diff of {Q}\.bias",
    ),
    # where engines go
    "out in /proc": Case(lambda w: w.full(out="/proc/x"), "error: /proc/x can't be written"),
    "out in /proc, dry run": Case(
        lambda w: [*w.full(out="/proc/x"), "--dry-run"], "error: /proc/x can't be written"
    ),
    "out is a file": Case(lambda w: w.full(out=w.file("o", "")), "/o is not a folder"),
    "out below a file": Case(
        lambda w: w.full(out=w.file("o", "") / "engines"), "/o is not a folder"
    ),
    "out where nobody may write": Case(
        lambda w: w.full(out=Path("/proc/engines")), "/proc/engines"
    ),
    "out is a file, dry": Case(
        lambda w: [*w.full(out=w.file("o", "")), "--dry-run"], "/o is not a folder"
    ),
    # inspect
    "inspect nothing": Case(lambda w: ["inspect", w.tmp / "none"], "none doesn't exist"),
    "inspect a damaged file": Case(
        lambda w: ["inspect", cut(w.copy(w.lora))], "not a whole safetensors"
    ),
    "inspect a pickle": Case(lambda w: ["inspect", w.file("x.pt", b"")], "is a pickle"),
    "inspect for no configuration": Case(
        lambda w: ["inspect", w.lora, "--config", "none"], "no configuration 'none'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORT)
def test_wanexport_refuses(name: str, samples: Samples) -> None:
    case = EXPORT[name]
    check(samples, case, wanexport(*case.argv(samples)))


def test_a_sound_world_is_not_refused(samples: Samples) -> None:
    assert wanexport(*samples.full()).code == 0
    assert wanexport(*samples.merged(samples.lora)).code == 0
    assert wanrt("verify", samples.out).code == 0
