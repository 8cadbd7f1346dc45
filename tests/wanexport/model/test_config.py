from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wanexport.errors import ConfigError
from wanexport.model.config import (
    DEMO,
    config_dir,
    list_configs,
    load_config,
    override,
    parse_config,
)
from wanexport.model.formulas import count_parameters

Raw = dict[str, Any]

# name: parameters of diffusers' model on the meta device, tokens of the default size
SHIPPED = {
    "wan2.1-flf2v-14b-720p": (16_395_536_704, 75_600),
    "wan2.1-fun-1.3b-inp-480p": (1_564_428_608, 32_760),
    "wan2.1-i2v-14b-480p": (16_394_878_784, 32_760),
    "wan2.1-i2v-14b-720p": (16_394_878_784, 75_600),
    "wan2.1-i2v-demo": (None, 1020),
    "wan2.1-t2v-1.3b-480p": (1_418_996_800, 32_760),
    "wan2.1-t2v-14b-480p": (14_288_491_584, 32_760),
    "wan2.1-t2v-14b-720p": (14_288_491_584, 75_600),
    "wan2.2-i2v-a14b-480p": (14_288_901_184, 32_760),
    "wan2.2-i2v-a14b-720p": (14_288_901_184, 75_600),
    "wan2.2-t2v-a14b-480p": (14_288_491_584, 32_760),
    "wan2.2-t2v-a14b-720p": (14_288_491_584, 75_600),
}


@pytest.fixture
def raw() -> Raw:
    return tomllib.loads((config_dir() / "wan2.1-i2v-14b-480p.toml").read_text())


def test_ships_these() -> None:
    assert list_configs() == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_the_real_models(name: str) -> None:
    config = load_config(name)
    parameters, tokens = SHIPPED[name]
    assert config.name == name
    assert config.dtype == ("fp32" if "demo" in name else "bf16")
    assert config.size.tokens == tokens
    assert len(config.dynamic_sizes) >= 2
    if parameters is not None:
        assert sum(count_parameters(config.architecture.dims).values()) == parameters
    assert load_config(str(config_dir() / f"{name}.toml")) == config


@pytest.mark.parametrize(
    ("size", "name", "tokens", "latent"),
    [
        ((832, 480, 81, 1), "832x480x81", 32_760, (21, 60, 104)),
        ((1280, 720, 81, 1), "1280x720x81", 75_600, (21, 90, 160)),
        ((512, 512, 1, 2), "512x512x1-b2", 1024, (1, 64, 64)),
        ((16, 16, 1, 1), "16x16x1", 1, (1, 2, 2)),
    ],
)
def test_sizes(
    size: tuple[int, ...], name: str, tokens: int, latent: tuple[int, ...], raw: Raw
) -> None:
    raw["size"] = dict(zip(("width", "height", "frames", "batch"), size, strict=True))
    config = parse_config(raw, "x.toml")
    assert (config.size.name, config.size.tokens, config.size.latent) == (name, tokens, latent)


def put(*path: str | int, value: object) -> Callable[[Raw], None]:
    def change(raw: Any) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = value

    return change


def respell(*path: str, to: str) -> Callable[[Raw], None]:
    def change(raw: Any) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[to] = raw.pop(path[-1])

    return change


def drop(*path: str) -> Callable[[Raw], None]:
    def change(raw: Any) -> None:
        for key in path[:-1]:
            raw = raw[key]
        del raw[path[-1]]

    return change


def repeat_size(raw: Raw) -> None:
    raw["dynamic_sizes"].append(raw["size"])


def of_ti2v(raw: Raw) -> None:
    raw["architecture"] |= {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48}
    del raw["architecture"]["image_dim"], raw["architecture"]["added_kv_proj_dim"]


LAST = "dynamic_sizes.3: 832x480x81 is listed twice"
REFUSED: list[tuple[Callable[[Raw], None], str, str]] = [
    # unknown keys
    (respell("size", to="sise"), "sise: unknown key", "did you mean 'size'?"),
    (respell("size", "width", to="widht"), "size.widht: unknown key", "did you mean 'width'?"),
    (put("architecture", "layers", value=1), "architecture.layers: unknown key", "'num_layers'"),
    (put("dynamic_sizes", 1, "hieght", value=8), "dynamic_sizes.1.hieght: unknown", "'height'"),
    (put("zzz", value=1), "zzz: unknown key", "known: name, dtype, architecture"),
    (put("rank", value=32), "rank: unknown key", "known: name"),
    # missing keys
    (drop("size"), "size: missing key", ""),
    (drop("size", "frames"), "size.frames: missing key", ""),
    (drop("architecture", "ffn_dim"), "architecture.ffn_dim: missing key", ""),
    # wrong types
    (put("size", "width", value="832"), "size.width: is '832'; it should be a valid integer",
     "without quotes: 832"),
    (put("size", "width", value=832.0), "size.width: is 832.0; it should be a valid integer",
     "without a decimal point: 832"),
    (put("size", "width", value=True), "size.width: is True; it should be a valid integer", ""),
    (put("size", value="832x480"), "size: is '832x480'; it should be a table", ""),
    (put("size", value=[832, 480]), "size: is [832, 480]; it should be a table", ""),
    (put("architecture", value=40), "architecture: is 40; it should be a table", ""),
    (put("dynamic_sizes", value=3), "dynamic_sizes: is 3; it should be a list of tables", ""),
    (put("dynamic_sizes", value={}), "dynamic_sizes: is {}; it should be a list of tables", ""),
    (put("dynamic_sizes", value=[3]), "dynamic_sizes.0: is 3; it should be a table", ""),
    (put("name", value=3), "name: is 3; it should be a valid string", ""),
    (put("architecture", "eps", value="a"), "architecture.eps: is 'a'; it should be a valid num",
     ""),
    # wrong values
    (put("dtype", value="bfloat16"), "dtype: is 'bfloat16'; it should be 'fp32', 'fp16' or 'bf16'",
     "did you mean 'bf16'?"),
    (put("dtype", value=16), "dtype: is 16; it should be 'fp32'", ""),
    (put("name", value="my model"), "name: is 'my model'; it becomes part of a folder's name",
     "try 'my-model'"),
    (put("name", value="../../etc"), "name: is '../../etc'", "try 'etc'"),
    (put("name", value=""), "name: is ''", ""),
    (put("architecture", "num_layers", value=0), "architecture.num_layers: is 0; it should be gr",
     ""),
    (put("architecture", "attention_head_dim", value=64), "attention_head_dim: is 64; it should b",
     ""),
    (put("architecture", "eps", value=0.0), "architecture.eps: is 0.0; it should be greater", ""),
    (put("architecture", "eps", value=float("nan")), "architecture.eps: is nan", ""),
    (put("architecture", "added_kv_proj_dim", value=1536), "it must be num_attention_heads x", ""),
    (drop("architecture", "image_dim"), "image_dim and added_kv_proj_dim go together", ""),
    (of_ti2v, "architecture: Wan2.2 TI2V-5B isn't supported: every token has a timestep", ""),
    # impossible sizes
    (put("size", "width", value=854), "size.width: 854 isn't a multiple of 16; the nearest is 848",
     ""),
    (put("size", "height", value=1080), "size.height: 1080 isn't a multiple of 16; the nearest is",
     ""),
    (put("size", "width", value=3), "size.width: 3 isn't a multiple of 16; the nearest is 16", ""),
    (put("size", "width", value=-16), "size.width: is -16; it should be greater", ""),
    (put("size", "frames", value=80), "size.frames: 80 isn't 4k + 1; the nearest is 81", ""),
    (put("size", "frames", value=2), "size.frames: 2 isn't 4k + 1; the nearest is 1", ""),
    (put("size", "frames", value=0), "size.frames: is 0; it should be greater", ""),
    (put("size", "batch", value=0), "size.batch: is 0; it should be greater", ""),
    (put("dynamic_sizes", 1, "width", value=630), "dynamic_sizes.1.width: 630 isn't a multiple of",
     ""),
    (put("size", "width", value=16_400), "size: 16400x480x81 has 1025 positions along one axis",
     ""),
    (repeat_size, LAST, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message", "hint"), REFUSED, ids=[message[:40] for _, message, _ in REFUSED]
)
def test_refuses(change: Callable[[Raw], None], message: str, hint: str, raw: Raw) -> None:
    change(raw)
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in caught.value.hint
    assert hint or not caught.value.hint


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("wan2.1-i2v-14b-840p", "there is no configuration", "did you mean 'wan2.1-i2v-14b-480p'"),
        ("sdxl", "there is no configuration 'sdxl'", "shipped: wan2.1-flf2v-14b-720p, "),
        ("", "there is no configuration ''", "shipped: "),
        ("wan2.2-ti2v-5b-704p", "Wan2.2 TI2V-5B isn't supported", "a timestep of its own"),
        ("wan2.1-i2v-demo.toml", "wan2.1-i2v-demo.toml can't be read: No such file", ""),
        ("nowhere/x.toml", "nowhere/x.toml can't be read: No such file", ""),
    ],
)
def test_refuses_an_unknown_configuration(name: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"= 3", b"\xff", b"a = 1\na = 2", b"a = " + b"[" * 50_000, b"[size\n"]
)
def test_refuses_what_is_not_toml(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.toml is not TOML: "):
        load_config(str(path))


def test_a_batch_is_every_size_s() -> None:
    config = override(load_config(DEMO), None, {"batch": 2})
    assert [size.batch for size in (config.size, *config.dynamic_sizes)] == [2, 2, 2]


def test_a_size_given_by_flags_leaves_the_dynamic_ones() -> None:
    config = override(load_config(DEMO), "fp16", {"width": 320, "height": 192, "frames": 9})
    assert config.size == load_config(DEMO).dynamic_sizes[0]
    assert [size.name for size in config.dynamic_sizes] == ["272x480x5"]
