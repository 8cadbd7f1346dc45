from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import hubcache
import numpy as np
import pytest
from checkpointfiles import (
    FLF2V,
    I2V,
    INDEX,
    PATCH,
    T2V,
    Q,
    edit_json,
    edit_shard,
    lengthen_header,
    merged,
    quantize,
    shard_of,
    truncate,
    write_hollow,
)
from hubcache import add_files
from safetensors.numpy import load_file, save_file

from wanexport.checkpoint.open import open_checkpoint
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import CheckpointError
from wanexport.model.config import Architecture, load_config
from wanexport.model.names import module_shapes

hub = hubcache.hub  # fixture


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of every kind, made once; tests that change one copy it."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, arch in {"i2v": I2V, "t2v": T2V, "flf2v": FLF2V}.items():
        write_checkpoint(root / name, arch, "fp32", 0, shard_bytes=1 << 20)
        write_checkpoint(root / f"{name}-original", arch, "fp32", 0, layout="original")
    shutil.copytree(root / "i2v", root / "pipeline" / "transformer")
    (root / "pipeline" / "vae").mkdir()
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(made / name, tmp_path / name))


@pytest.mark.parametrize(
    ("name", "arch", "layout"),
    [
        ("i2v", I2V, "diffusers"),
        ("t2v", T2V, "diffusers"),
        ("flf2v", FLF2V, "diffusers"),
        ("i2v-original", I2V, "original"),
        ("t2v-original", T2V, "original"),
        ("flf2v-original", FLF2V, "original"),
        ("pipeline", I2V, "diffusers"),
        ("pipeline/transformer", I2V, "diffusers"),
        (f"i2v/{INDEX}", I2V, "diffusers"),
    ],
)
def test_opens(name: str, arch: Architecture, layout: str, made: Path) -> None:
    for wanted in (None, arch):
        checkpoint = open_checkpoint(str(made / name), wanted)
        assert checkpoint.architecture == arch
        assert checkpoint.layout == layout
        assert checkpoint.random_weights
        assert checkpoint.dtypes == ("F32",)
        shapes = {name: ref.shape for name, ref in checkpoint.tensors.items()}
        assert shapes == module_shapes(arch)


def test_references_lead_to_the_tensors(made: Path) -> None:
    diffusers, original = (open_checkpoint(str(made / n)) for n in ("i2v", "i2v-original"))
    assert diffusers.tensors[Q].name == Q
    assert original.tensors[Q].name == ORIGINAL_Q
    values = merged(made / "i2v")
    for name, ref in original.tensors.items():
        assert np.array_equal(ref.read().numpy(), values[name])
    assert diffusers.nbytes == sum(value.nbytes for value in values.values())


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
@pytest.mark.parametrize("name", ["i2v", "i2v-original"])
def test_opens_a_single_file(prefix: str, name: str, made: Path, tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    save_file({prefix + key: value for key, value in merged(made / name).items()}, path)
    checkpoint = open_checkpoint(str(path), I2V)
    assert not checkpoint.random_weights
    assert checkpoint.tensors[Q].name.startswith(prefix)
    assert open_checkpoint(str(tmp_path), I2V).tensors == checkpoint.tensors


def test_dtypes_may_be_mixed(copy: Callable[[str], Path]) -> None:
    folder = copy("i2v")
    edit_shard(folder, Q, lambda t: t.update({Q: t[Q].astype(np.float16)}))
    assert open_checkpoint(str(folder), I2V).dtypes == ("F16", "F32")


def test_config_json_says_what_shapes_cannot(copy: Callable[[str], Path]) -> None:
    folder = copy("i2v")
    edit_json(folder / "config.json", eps=1e-5)
    assert open_checkpoint(str(folder)).architecture.eps == 1e-5
    with pytest.raises(CheckpointError, match=r"has eps 1e-05, the configuration wants 1e-06"):
        open_checkpoint(str(folder), I2V)
    (folder / "config.json").unlink()
    assert open_checkpoint(str(folder)).architecture == I2V


class TestHubCache:
    @pytest.fixture(autouse=True)
    def cache(self, made: Path, hub: Path) -> Path:
        files = {f"transformer/{file.name}": file for file in (made / "i2v").iterdir()}
        return add_files(hub, "Wan-AI/Wan2.1", files)

    @pytest.mark.parametrize("name", ["Wan-AI/Wan2.1", "Wan-AI/Wan2.1/transformer"])
    def test_opens(self, cache: Path, name: str) -> None:
        checkpoint = open_checkpoint(name, I2V)
        paths = {ref.path for ref in checkpoint.tensors.values()}
        assert paths == set(cache.glob("transformer/*.safetensors"))

    def test_a_missing_subfolder(self) -> None:
        with pytest.raises(CheckpointError, match="in the local Hugging Face cache without vae"):
            open_checkpoint("Wan-AI/Wan2.1/vae", I2V)

    def test_a_missing_repository(self) -> None:
        with pytest.raises(CheckpointError, match="neither a path here nor in the") as caught:
            open_checkpoint("Wan-AI/Wan3", I2V)
        assert caught.value.hint == "hf download Wan-AI/Wan3"

    def test_a_download_that_stopped(self, cache: Path) -> None:
        shard = next((cache / "transformer").glob("*-00002-of-*"))
        shard.unlink()
        with pytest.raises(CheckpointError, match=f"lacks {shard.name} of the"):
            open_checkpoint("Wan-AI/Wan2.1", I2V)


Broken = tuple[str, Callable[[Path], object], str]


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda f: edit_shard(f, old, lambda t: t.update({new: t.pop(old)}))


def set_tensor(name: str, value: np.ndarray) -> Callable[[Path], object]:
    return lambda f: edit_shard(f, Q, lambda t: t.update({name: value}))


def index_with(**weight_map: object) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / INDEX, weight_map=weight_map)


def misplace(folder: Path) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    weight_map[Q] = next(file for file in weight_map.values() if file != weight_map[Q])
    edit_json(folder / INDEX, weight_map=weight_map)


def duplicate(folder: Path) -> None:
    other = next(f for f in folder.glob("*.safetensors") if f != shard_of(folder, Q))
    save_file({**load_file(other), Q: load_file(shard_of(folder, Q))[Q]}, other)


def config(**changes: object) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def pickle_only(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


ORIGINAL_Q = "blocks.0.cross_attn.q.weight"
ONES = np.ones((4, 4), np.float32)
BROKEN: list[Broken] = [
    ("index-not-json", lambda f: (f / INDEX).write_text("{"), r"index\.json is not JSON"),
    ("index-nested", lambda f: (f / INDEX).write_text("[" * 10**5), r"is not JSON"),
    ("index-a-list", lambda f: (f / INDEX).write_text("[]"), "is not a JSON object"),
    ("index-binary", lambda f: (f / INDEX).write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    ("index-no-map", lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
    ("index-empty-map", index_with(), "has no weight_map"),
    ("index-number", index_with(a=3), "3 is not a safetensors file's name"),
    ("index-pickle", index_with(a="w.bin"), "'w.bin' is not a safetensors file's name"),
    ("index-parent", index_with(a="../x.safetensors"), "leads out of the folder"),
    ("index-absolute", index_with(a="/x.safetensors"), "leads out of the folder"),
    ("index-backslash", index_with(a="..\\x.safetensors"), "leads out of the folder"),
    ("index-nul", index_with(a="\0.safetensors"), "leads out of the folder"),
    ("index-misplaces", misplace, f"the index places {Q} in .*; it is in "),
    ("index-forgets", lambda f: rename_in_index(f, Q), f"the index places {Q} in no file"),
    ("shard-missing", lambda f: shard_of(f, Q).unlink(), "lacks diffusion_pytorch_model-0000"),
    ("shard-truncated", truncate, "is not a whole safetensors file"),
    ("shard-header", lengthen_header, "is not a whole safetensors file"),
    ("shard-empty", lambda f: shard_of(f, Q).write_bytes(b""), "not a whole safetensors file"),
    ("shard-a-folder", lambda f: replace_by_folder(shard_of(f, Q)), "lacks diffusion_pytorch"),
    ("tensor-twice", duplicate, f"{Q} is in both .* and "),
    (
        "tensor-missing",
        lambda f: edit_shard(f, Q, lambda t: t.pop(Q)),
        rf"lacks 1 of \d+ tensors: {Q}",
    ),
    ("tensor-unknown", set_tensor("extra.weight", ONES), "holds 1 unknown tensors: extra.weight"),
    ("tensor-misspelt", rename(Q, Q + "s"), f"holds 1 unknown tensors: {Q}s"),
    ("tensor-original-name", rename(Q, ORIGINAL_Q), f"unknown tensors: {ORIGINAL_Q}"),
    ("tensor-shape", set_tensor(Q, ONES), rf"{Q} is \[4, 4\], should be \[128, 128\]"),
    ("tensor-fp64", set_tensor(Q, np.zeros((128, 128))), f"{Q} is F64; F32, F16, BF16"),
    ("tensor-int8", set_tensor(Q, np.zeros((128, 128), np.int8)), f"{Q} is I8 and lacks its scale"),
    ("tensor-fp8", quantize, rf"{Q} is \[128, 512\], should be"),
    ("block-index-huge", rename(Q, Q.replace("0", "999999999", 1)), "num_layers 3"),
    ("lora", rename(Q, "blocks.0.attn2.to_q.lora_A.weight"), "saved with a LoRA attached"),
    (
        "lora-kohya",
        set_tensor("lora_unet_blocks_0_ffn_0.alpha", ONES),
        "saved with a LoRA attached",
    ),
    (
        "lora-diff",
        set_tensor("diffusion_model.head.head.diff_b", ONES),
        "saved with a LoRA attached",
    ),
    ("vace", set_tensor("vace_blocks.0.proj_out.weight", ONES), "is a VACE model"),
    ("vace-class", config(_class_name="WanVACETransformer3DModel"), "is a VACE model"),
    ("vace-original", config(_class_name="VaceWanModel"), "is a VACE model"),
    ("ti2v", config(model_type="ti2v"), "is Wan2.2 TI2V-5B"),
    (
        "fun-control-channels",
        lambda f: edit_shard(
            f, PATCH, lambda t: t.update({PATCH: t[PATCH].repeat(2, axis=1)[:, :48]})
        ),
        "is a Fun-Control model",
    ),
    ("class", config(_class_name="HunyuanVideoTransformer3DModel"), "says HunyuanVideo"),
    (
        "config-not-json",
        lambda f: (f / "config.json").write_text("no"),
        r"config\.json is not JSON",
    ),
    ("config-a-list", lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    ("config-layers", config(num_layers=40), "says num_layers 40, the tensors .* 2"),
    ("config-heads", config(num_attention_heads=2), "says num_attention_heads 2"),
    ("config-type", config(num_layers="2"), "says num_layers '2'"),
    ("config-patch", config(patch_size=[1, 4, 4]), r"says patch_size \[1, 4, 4\]"),
    ("config-norm", config(qk_norm="layer_norm"), "says qk_norm 'layer_norm'"),
    ("config-eps", config(eps="tiny"), "no valid architecture: eps"),
    ("config-dim", config(dim=5120), "says dim 5120"),
    ("pickle", pickle_only, "holds a pickle"),
    ("nothing", empty, "holds no checkpoint"),
]


def rename_in_index(folder: Path, name: str) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    del weight_map[name]
    edit_json(folder / INDEX, weight_map=weight_map)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(("damage", "message"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_refuses_what_is_broken(
    damage: Callable[[Path], object], message: str, copy: Callable[[str], Path]
) -> None:
    folder = copy("i2v")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(folder), I2V)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "has num_layers 2, the configuration wants 3"),
        ({"ffn_dim": 512}, r"ffn.net.0.proj.weight is \[256, 128\], .* wants \[512, 128\]"),
        ({"text_dim": 4096}, r"text_embedder.linear_1.weight is \[128, 64\].* \[128, 4096\]"),
        ({"image_dim": 1280}, r"norm1.weight is \[64\], the configuration wants \[1280\]"),
        ({"out_channels": 32}, r"proj_out.weight is \[64, 128\].* \[128, 128\]"),
        ({"pos_embed_seq_len": 514}, "has pos_embed_seq_len None, the configuration wants 514"),
        (
            {"num_attention_heads": 2, "added_kv_proj_dim": 256},
            r"scale_shift_table is \[1, 2, 128\], the configuration wants \[1, 2, 256\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refuses_another_architecture(changes: dict[str, int], message: str, made: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(made / "i2v"), I2V.model_copy(update=changes))


@pytest.mark.parametrize("layout", ["", "-original"])
def test_names_both_shapes_when_the_conditioning_differs(layout: str, made: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"patch_embedding\.weight is \[128, 16, 1, 2, 2\], "
        r"the configuration wants \[128, 36, 1, 2, 2\]",
    ) as caught:
        open_checkpoint(str(made / f"t2v{layout}"), I2V)
    assert "in_channels = 16" in caught.value.hint
    with pytest.raises(CheckpointError, match=r"\[128, 36, 1, 2, 2\].*\[128, 16, 1, 2, 2\]"):
        open_checkpoint(str(made / f"i2v{layout}"), T2V)


def test_names_the_configurations_that_fit(tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    write_hollow(path, load_config("wan2.1-t2v-14b-480p").architecture)
    assert open_checkpoint(str(path)).nbytes == 2 * 14_288_491_584
    with pytest.raises(
        CheckpointError, match=r"is \[5120, 16, 1, 2, 2\], .* wants \[5120, 36, 1, 2, 2\]"
    ) as caught:
        open_checkpoint(str(path), load_config("wan2.1-i2v-14b-480p").architecture)
    assert caught.value.hint == (
        "it fits --config wan2.1-t2v-14b-480p or wan2.1-t2v-14b-720p or wan2.2-t2v-a14b-480p or "
        "wan2.2-t2v-a14b-720p"
    )


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda f: f / "missing", "doesn't exist", ""),
        (lambda f: f / INDEX.replace(".index", ""), "doesn't exist", ""),
        (lambda f: f / "config.json", "isn't a checkpoint", "give its folder"),
        (lambda f: next(f.glob("*-00001-*")), "is one of several shards", "give its folder"),
    ],
    ids=["missing", "missing-file", "config", "one-shard"],
)
def test_refuses_what_is_no_checkpoint(
    make: Callable[[Path], Path], message: str, hint: str, made: Path
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(make(made / "i2v")), I2V)
    assert hint in caught.value.hint


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
def test_refuses_a_pickle(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wan.{suffix}"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="is a pickle"):
        open_checkpoint(str(path))


def test_refuses_the_experts_of_a_later_model(made: Path, tmp_path: Path) -> None:
    for name in ("transformer", "transformer_2"):
        shutil.copytree(made / "t2v", tmp_path / name)
    with pytest.raises(CheckpointError, match="the two experts") as caught:
        open_checkpoint(str(tmp_path))
    assert str(tmp_path / "transformer") in caught.value.hint
    assert open_checkpoint(str(tmp_path / "transformer")).architecture == T2V


def test_shards_without_an_index(made: Path, tmp_path: Path) -> None:
    for shard in (made / "i2v").glob("*.safetensors"):
        shutil.copy(shard, tmp_path)
    shards = sorted(tmp_path.iterdir())
    assert len(shards) > 1
    assert len(open_checkpoint(str(tmp_path), I2V).files) == len(shards)
    for shard in shards[:-1]:
        shard.unlink()
        with pytest.raises(CheckpointError, match=r"of \d+ shards") as caught:
            open_checkpoint(str(tmp_path), I2V)
        assert "download" in caught.value.hint


def test_refuses_several_files_without_an_index(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"x": ONES}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="holds 2 safetensors files and no single index"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/", "a b/c", "org/name/../..", "x" * 5000])
def test_refuses_an_impossible_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        open_checkpoint(name)
