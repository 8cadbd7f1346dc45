"""Whatever is broken about what a user gives: one line that says so, and nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import Outcome, wanexport, wanrt, write_config
from safetensors.numpy import load_file, save_file
from studies import I2V, SIZE, T2V, build, config

from wanexport.request import LoraArgument
from wanexport.synthetic import write_checkpoint

Q = "blocks.0.attn2.to_q"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
RANK = 4


class World:
    """A sound base, configuration, LoRA and engines, and a folder to break copies of them in."""

    def __init__(self, root: Path, tmp: Path) -> None:
        self.root, self.tmp = root, tmp
        self.out = tmp / "engines"
        self.config = root / "tiny.toml"
        self.lora = root / "style.safetensors"
        self.separate = root / "study" / "tiny-96x64x5-fp32-separate-r4-style"
        self.swappable = root / "study" / "tiny-96x64x5-fp32-swappable"
        self.adapter = self.swappable / "adapters" / "r4-style.safetensors"

    def copy(self, path: Path) -> Path:
        target = self.tmp / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)
        return target

    def file(self, name: str, data: bytes | str) -> Path:
        path = self.tmp / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def base(self, edit: Callable[[dict[str, np.ndarray]], object] = lambda _: None) -> Path:
        """Return a base of one file, its tensors edited."""
        tensors: dict[str, np.ndarray] = {}
        for shard in sorted((self.root / "base").glob("*.safetensors")):
            tensors.update(load_file(shard))
        edit(tensors)
        save_file(tensors, self.tmp / "base.safetensors")
        return self.tmp / "base.safetensors"

    def with_lora(self, **changes: np.ndarray | None) -> Path:
        """Return the LoRA with tensors replaced, added or (None) left out."""
        tensors = load_file(self.lora) | {k: v for k, v in changes.items() if v is not None}
        held = {k: v for k, v in tensors.items() if k not in changes or changes[k] is not None}
        save_file(held, self.tmp / "lora.safetensors")
        return self.tmp / "lora.safetensors"

    def toml(self, old: str, new: str) -> Path:
        text = self.config.read_text()
        assert old in text
        return self.file("mine.toml", text.replace(old, new, 1))

    def build(self, *flags: object, **changes: Path | str) -> list[object]:
        """Return the arguments of a build of which the flags are wrong."""
        named = {"config": self.config, "base": self.root / "base", "out": self.out} | changes
        return ["build", *flags, *(x for key, value in named.items() for x in (f"--{key}", value))]

    def full(self, **changes: Path | str) -> list[object]:
        return self.build("--mode", "full", "--verify", "none", **changes)

    def merged(self, lora: object) -> list[object]:
        return self.build("--mode", "merged", "--verify", "none", "--lora", lora)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write_config(root / "tiny.toml", config())
    for name, arch in {"base": I2V, "t2v": T2V}.items():
        write_checkpoint(root / name, arch, "fp32", 0, shard_bytes=4 << 20)
    width = I2V.width
    rng = np.random.default_rng(0)
    tensors = {
        f"transformer.{Q}.lora_A.weight": rng.standard_normal((RANK, width), np.float32),
        f"transformer.{Q}.lora_B.weight": rng.standard_normal((width, RANK), np.float32),
    }
    save_file(tensors, root / "style.safetensors")
    build(
        root / "study",
        modes=("separate", "swappable"),
        base=str(root / "base"),
        loras=(LoraArgument(str(root / "style.safetensors")),),
        verify=False,
    )
    return root


@pytest.fixture
def world(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return World(root, tmp_path)


def header(*, length: int | None = None, data: bytes = b"", **entries: object) -> bytes:
    """Return a safetensors file of any header, with any length written before it."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: tuple[int, ...] = (4,), dtype: str = "F32") -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def cut(path: Path, keep: int = -1) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


def edit_json(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def poison(name: str, value: float) -> Callable[[dict[str, np.ndarray]], object]:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors[name].flat[3] = value

    return edit


def halve(tensors: dict[str, np.ndarray]) -> None:
    tensors.update({name: value.astype(np.float16) for name, value in tensors.items()})


def indexed(world: World, **weight_map: object) -> list[object]:
    folder = world.copy(world.root / "base")
    edit_json(folder / INDEX, weight_map=weight_map)
    return world.full(base=folder)


def engine(world: World, edit: Callable[[Path], object]) -> Path:
    """Return a copy of the swappable engine, something done to it; its times are kept."""
    target = world.tmp / "engine"
    shutil.copytree(world.swappable, target)
    edit(target)
    return target


def manifest(world: World, **changes: object) -> Path:
    return engine(world, lambda folder: edit_json(folder / "engine.json", **changes))


def run(folder: Path, *flags: object) -> list[object]:
    return ["run", folder, "--save", folder.parent / "sample.safetensors", *flags]


def altered(world: World, edit: Callable[[dict[str, np.ndarray]], object], **meta: str) -> Path:
    """Return the canonical adapter with its tensors edited."""
    from safetensors import safe_open

    with safe_open(world.adapter, "np") as file:
        metadata = file.metadata() | meta
    tensors = load_file(world.adapter)
    edit(tensors)
    save_file(tensors, world.tmp / "x.safetensors", metadata=metadata)
    return world.tmp / "x.safetensors"


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_out(folder: Path) -> None:
    path = folder / "model.onnx"
    path.rename(folder.parent / "elsewhere.onnx")
    path.symlink_to(folder.parent / "elsewhere.onnx")


def overwrite(folder: Path) -> None:
    path = next((folder / "weights").glob("constants*"))
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))


LA, LB = f"transformer.{Q}.lora_A.weight", f"transformer.{Q}.lora_B.weight"
A, B = f"{Q}.lora_A", f"{Q}.lora_B"


@dataclass(frozen=True)
class Case:
    """A broken input: what is called with it, and what the error says."""

    argv: Callable[[World], list[object]]
    says: str
    code: int = 1


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
        lambda w: w.full(base=w.file("wan.gguf", b"GGUF")), "not a whole safetensors"
    ),
    "base a configuration": Case(
        lambda w: w.full(base=w.config), "not a whole safetensors"
    ),
    "text-to-video base for image-to-video": Case(
        lambda w: w.full(base=w.root / "t2v"), r"t2v: .* is \[1, 2, 128\], the configuration wants \[1, 2, 256\]"
    ),
    "small base for a large model": Case(
        lambda w: w.full(config="wan2.1-i2v-14b-480p"), r"base: .* is \[1, 2, 256\], the configuration wants \[1, 2, 5120\]"
    ),
    "tensor missing": Case(
        lambda w: w.full(base=w.base(lambda t: t.pop(f"{Q}.weight"))),
        rf"lacks 1 of \d+ tensors: {Q}\.weight",
    ),
    "tensor too many": Case(
        lambda w: w.full(base=w.base(lambda t: t.update(extra=ones(2)))),
        "holds 1 unknown tensors: extra",
    ),
    "tensor of another shape": Case(
        lambda w: w.full(base=w.base(lambda t: t.update({f"{Q}.weight": ones(256, 255)}))),
        rf"{Q}\.weight is \[256, 255\], should be \[256, 256\]",
    ),
    "tensor of whole numbers": Case(
        lambda w: w.full(base=w.base(lambda t: t.update({f"{Q}.bias": np.ones(256, np.int32)}))),
        rf"{Q}\.bias is I32; F32, F16, BF16 can be read",
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
        lambda w: [*w.full(), "--finetuned", w.tmp / "none"], "none doesn't exist"
    ),
    "finetuned of another model": Case(
        lambda w: [*w.full(), "--finetuned", w.root / "t2v"], r"t2v: .* the configuration wants \[1, 2, 256\]"
    ),
    "a LoRA as base": Case(lambda w: w.full(base=w.lora), r"style\.safetensors is a LoRA"),
    "no base for a shipped model": Case(
        lambda _: ["build", "--rank", 4, "--config", "wan2.1-t2v-14b-480p"], "needs its checkpoint"
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
        lambda w: [*w.full(), "--width", 100], "size.width: 100 isn't a multiple of 16"
    ),
    "height no multiple": Case(
        lambda w: [*w.full(), "--height", 719], "719 isn't a multiple of 16; the nearest is 720"
    ),
    "frames": Case(lambda w: [*w.full(), "--frames", 80], "80 isn't 4k . 1; the nearest is 81"),
    "no width": Case(lambda w: [*w.full(), "--width", 0], "size.width: is 0"),
    "negative height": Case(lambda w: [*w.full(), "--height", -16], "size.height: is -16"),
    "no frames": Case(lambda w: [*w.full(), "--frames", 0], "size.frames: is 0"),
    "no batch": Case(lambda w: [*w.full(), "--batch", 0], "size.batch: is 0"),
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
    "rank and LoRA": Case(lambda w: w.build("--rank", 4, "--lora", w.lora), "drop one of the two"),
    "no adapter": Case(lambda w: w.build("--mode", "merged"), "mode merged needs an adapter"),
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
    # adapters
    "adapter for a fixed engine": Case(
        lambda w: ["adapter", w.lora, "--for", w.separate, "-o", w.tmp / "x"],
        "is a separate engine; its adapter can't be changed",
    ),
    "adapter for no engine": Case(
        lambda w: ["adapter", w.lora, "--for", w.tmp, "-o", w.tmp / "x"], "is not an engine folder"
    ),
    "adapter of nothing": Case(
        lambda w: ["adapter", w.tmp / "n", "--for", w.swappable, "-o", w.tmp / "x"],
        "doesn't exist",
    ),
    "adapter of too large a rank": Case(
        lambda w: [
            "adapter", w.with_lora(**{LA: ones(8, 256), LB: ones(256, 8)}),
            "--for", w.swappable, "-o", w.tmp / "x",
        ],
        rf"rank 8 at {Q}, the engine takes up to 4",
    ),
    "adapter of other modules": Case(
        lambda w: [
            "adapter",
            w.with_lora(
                **{
                    "transformer.proj_out.lora_A.weight": ones(4, 256),
                    "transformer.proj_out.lora_B.weight": ones(64, 4),
                }
            ),
            "--for", w.swappable, "-o", w.tmp / "x",
        ],
        "has no inputs for proj_out",
    ),
    "adapter of another architecture": Case(
        lambda w: [
            "adapter", w.with_lora(**{LA: ones(4, 128), LB: ones(128, 4)}),
            "--for", w.swappable, "-o", w.tmp / "x",
        ],
        rf"{Q}\.weight is \[256, 256\]",
    ),
    "adapter over a file": Case(
        lambda w: ["adapter", w.lora, "--for", w.swappable, "-o", w.file("x", "")], "x exists"
    ),
    "adapter into no folder": Case(
        lambda w: ["adapter", w.lora, "--for", w.swappable, "-o", w.tmp / "no" / "x"],
        "no/x can't be written: No such file or directory",
    ),
}  # fmt: skip

RUNTIME: dict[str, Case] = {
    "no engine": Case(lambda w: run(w.tmp), "is not an engine folder"),
    "a file for an engine": Case(lambda w: ["info", w.lora], "is a file, not an engine folder"),
    "engine.json truncated": Case(
        lambda w: ["info", engine(w, lambda f: cut(f / "engine.json", 200))], "is not JSON"
    ),
    "engine.json binary": Case(
        lambda w: ["info", engine(w, lambda f: (f / "engine.json").write_bytes(b"\xff\x00"))],
        "engine.json can't be read",
    ),
    "engine.json a list": Case(
        lambda w: ["info", engine(w, lambda f: (f / "engine.json").write_text("[]"))],
        "is not a JSON object",
    ),
    "engine.json a folder": Case(
        lambda w: ["info", engine(w, lambda f: replace_by_folder(f / "engine.json"))],
        "is not a file",
    ),
    "newer schema": Case(lambda w: ["info", manifest(w, schema_version=2)], "has schema version 2"),
    "unknown field": Case(lambda w: ["info", manifest(w, quality="good")], "quality"),
    "unknown mode": Case(lambda w: ["info", manifest(w, mode="fused")], "engine.json: mode: "),
    "negative rank": Case(lambda w: ["info", manifest(w, max_rank=-1)], "engine.json: max_rank"),
    "graph outside": Case(
        lambda w: [
            "info",
            manifest(w, graphs={"forward": json.loads((w.swappable / "engine.json").read_text())
                                ["graphs"]["forward"] | {"file": "../model.onnx"}}),
        ],
        "path leaves the engine folder",
    ),
    "graph linked from outside": Case(
        lambda w: run(engine(w, link_out)), r"model\.onnx leads out of the engine folder"
    ),
    "graph missing": Case(
        lambda w: run(engine(w, lambda f: (f / "model.onnx").unlink())), "model.onnx is missing"
    ),
    "graph truncated": Case(
        lambda w: run(engine(w, lambda f: cut(f / "model.onnx"))), "bytes, engine.json says"
    ),
    "weights missing": Case(
        lambda w: run(engine(w, lambda f: shard(f / "weights").unlink())), "safetensors is missing"
    ),
    "weights written over": Case(
        lambda w: run(engine(w, overwrite)), "somebody wrote over these bytes"
    ),
    "no such workload": Case(lambda w: run(w.swappable, "--workload", "9x9x9"), "no workload"),
    "adapter missing": Case(lambda w: run(w.swappable, "--adapter", w.tmp / "x"), "can't be read"),
    "adapter raw": Case(
        lambda w: run(w.swappable, "--adapter", w.lora), "isn't a canonical adapter"
    ),
    "adapter a pickle": Case(
        lambda w: run(w.swappable, "--adapter", w.file("x.pt", b"\x80\x04.")), "can't be read"
    ),
    "adapter truncated": Case(
        lambda w: run(w.swappable, "--adapter", cut(w.copy(w.adapter))), "can't be read"
    ),
    "adapter of a later version": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda _: None, version="2")),
        "has version 2, this wanrt reads 1",
    ),
    "adapter of other names": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.update(x=t.pop(A)))),
        "holds x, which is no input of the engine",
    ),
    "adapter without a half": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.pop(B))),
        "without its other half",
    ),
    "adapter of another rank": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.update({A: ones(9, 256)}))),
        "has rank 9",
    ),
    "adapter of another shape": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.update({A: ones(4, 99)}))),
        r"of shape \[4, 99\]",
    ),
    "adapter of another dtype": Case(
        lambda w: run(
            w.swappable,
            "--adapter",
            altered(w, lambda t: t.update({A: t[A].astype(np.float16)})),
        ),
        "in F16, the engine takes fp32",
    ),
    "adapter for a fixed engine": Case(
        lambda w: run(w.separate, "--adapter", w.adapter), "adapter is fixed"
    ),
    "inputs missing": Case(lambda w: run(w.swappable, "--inputs", w.tmp / "i"), "i can't be read"),
    "inputs of other names": Case(
        lambda w: run(w.swappable, "--inputs", w.lora), "no input"
    ),
    "bench of nothing": Case(lambda w: ["bench", w.tmp / "none"], "is no folder"),
    "bench of an empty folder": Case(lambda w: ["bench", w.tmp], "holds no engine"),
}  # fmt: skip


def left_behind(world: World) -> list[str]:
    found = [p.name for p in world.tmp.rglob("*") if p.name.endswith((".draft", ".tmp"))]
    if world.out.is_dir():
        found += [p.name for p in world.out.iterdir() if not p.name.startswith(".")]
    return found


def check(world: World, case: Case, outcome: Outcome) -> None:
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert outcome.code == case.code
    assert len(errors) == 1, outcome.err
    after = lines[lines.index(errors[0]) + 1 :]
    assert len(after) <= 1
    assert all(line.startswith("hint: ") for line in after)
    assert "Traceback" not in outcome.err
    assert not outcome.out
    assert left_behind(world) == []
    assert re.search(case.says, errors[0] + "".join(after)), outcome.err


@pytest.mark.parametrize("name", EXPORT)
def test_wanexport_refuses(name: str, world: World) -> None:
    case = EXPORT[name]
    check(world, case, wanexport(*case.argv(world)))


@pytest.mark.parametrize("name", RUNTIME)
def test_wanrt_refuses(name: str, world: World) -> None:
    case = RUNTIME[name]
    check(world, case, wanrt(*case.argv(world)))
    assert not (world.tmp / "sample.safetensors").exists()


def test_there_are_enough_of_them() -> None:
    assert len(EXPORT) + len(RUNTIME) >= 100
    assert SIZE.name == "96x64x5"


def test_a_sound_world_is_not_refused(world: World) -> None:
    assert wanexport(*world.full()).code == 0
    assert wanexport(*world.merged(world.lora)).code == 0
    assert wanrt("verify", world.out).code == 0
