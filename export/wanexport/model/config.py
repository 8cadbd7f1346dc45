"""What is built: a TOML per model and size, read and checked in full before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wanexport.errors import ConfigError
from wanexport.model.formulas import PATCH, VAE_STRIDE, Dims, count_tokens, latent_shape
from wanexport.model.unsupported import TI2V, TI2V_CHANNELS, TI2V_REASON, TI2V_WIDTH
from wanexport.model.user_file import check_values, find_file, read_values
from wanrt.manifest.experts import count_steps
from wanrt.manifest.fields import Dtype
from wanrt.manifest.read import MANIFEST_NAME, read_manifest_only

__all__ = ["Architecture", "Config", "Experts", "Size", "load_config"]

DEMO = "wan2.1-i2v-demo"
TEXT_TOKENS = 512  # diffusers and the original both hard-code the padded prompt's length
CLIP_TOKENS = 257

Positive = Annotated[int, Field(ge=1, le=1 << 20)]
"""Of sizes; what is larger would only be noticed when memory or the disk is full."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Architecture(_Model):
    """The DiT's sizes under the names of diffusers' `transformer/config.json`."""

    num_layers: Annotated[int, Field(ge=1, le=1000)]
    num_attention_heads: Positive
    ffn_dim: Positive
    in_channels: Positive
    out_channels: Positive = 16
    attention_head_dim: Literal[128] = 128
    text_dim: Positive = 4096
    freq_dim: Positive = 256
    image_dim: Positive | None = None
    added_kv_proj_dim: Positive | None = None
    pos_embed_seq_len: Positive | None = None
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    rope_max_seq_len: Positive = 1024

    @model_validator(mode="after")
    def _image_conditioning(self) -> Architecture:
        if (self.image_dim is None) != (self.added_kv_proj_dim is None):
            raise ValueError(
                "image_dim and added_kv_proj_dim go together; with image conditioning they are "
                f"1280 and {self.width}"
            )
        if self.added_kv_proj_dim not in (None, self.width):
            raise ValueError(
                f"added_kv_proj_dim is {self.added_kv_proj_dim}; it must be num_attention_heads "
                f"x attention_head_dim, {self.width}"
            )
        if self.pos_embed_seq_len is not None and self.image_dim is None:
            raise ValueError("pos_embed_seq_len needs image_dim")
        if (self.width, self.in_channels) == (TI2V_WIDTH, TI2V_CHANNELS):
            raise ValueError(f"{TI2V} isn't supported: {TI2V_REASON}")
        return self

    @property
    def width(self) -> int:
        """The length of a token's vector: heads x head_dim."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def image_tokens(self) -> int:
        """CLIP tokens that condition one sample: none, one image's, or both frames' (FLF2V)."""
        if self.image_dim is None:
            return 0
        return self.pos_embed_seq_len or CLIP_TOKENS

    @property
    def dims(self) -> Dims:
        """The sizes that wanrt's formulas need."""
        return Dims(
            layers=self.num_layers,
            width=self.width,
            ffn=self.ffn_dim,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            text_dim=self.text_dim,
            text_tokens=TEXT_TOKENS,
            freq_dim=self.freq_dim,
            image_dim=self.image_dim,
            image_tokens=self.image_tokens,
        )


class Size(_Model):
    """A video's size, and how many of them one forward takes."""

    width: Positive
    height: Positive
    frames: Positive
    batch: Annotated[int, Field(ge=1, le=1024)] = 1

    @field_validator("width", "height")
    @classmethod
    def _patches(cls, value: int) -> int:
        step = VAE_STRIDE[1] * PATCH[1]
        if value % step:
            near = max(step, round(value / step) * step)
            raise ValueError(f"{value} isn't a multiple of {step}; the nearest is {near}")
        return value

    @field_validator("frames")
    @classmethod
    def _latent_frames(cls, value: int) -> int:
        if value % VAE_STRIDE[0] != 1:
            near = max(1, round((value - 1) / VAE_STRIDE[0]) * VAE_STRIDE[0] + 1)
            raise ValueError(f"{value} isn't 4k + 1; the nearest is {near}")
        return value

    @property
    def name(self) -> str:
        """The workload's name: 832x480x81, and -b2 for a batch of two."""
        batch = f"-b{self.batch}" if self.batch > 1 else ""
        return f"{self.width}x{self.height}x{self.frames}{batch}"

    @property
    def tokens(self) -> int:
        """Latent patches of one sample."""
        return count_tokens(self.width, self.height, self.frames)

    @property
    def latent(self) -> tuple[int, int, int]:
        """The VAE latent's (frames, height, width)."""
        return latent_shape(self.width, self.height, self.frames)


class Experts(_Model):
    """Wan2.2's two models, of one architecture: when which of them runs.

    Args:
        boundary: the high-noise expert runs while the timestep is at least boundary x 1000.
        steps: of a video, by its authors' own settings.
        shift: of the flow-matching schedule, likewise.
    """

    boundary: Annotated[float, Field(gt=0, lt=1)]
    steps: Positive
    shift: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def high_steps(self) -> int:
        """Steps that the high-noise expert takes."""
        return count_steps(self.boundary, self.steps, self.shift)[0]

    @property
    def low_steps(self) -> int:
        """Steps that the low-noise expert takes."""
        return self.steps - self.high_steps


class Config(_Model):
    """One model at one size. What varies in a study (rank, mode, dtype, backend) is a flag."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    dtype: Dtype = "bf16"
    architecture: Architecture
    size: Size
    experts: Experts | None = None
    # not strict: TOML knows only lists
    dynamic_sizes: Annotated[tuple[Size, ...], Field(strict=False, max_length=64)] = ()

    @model_validator(mode="after")
    def _sizes(self) -> Config:
        sizes = (self.size, *self.dynamic_sizes)
        for index, size in enumerate(sizes):
            key = f"dynamic_sizes.{index - 1}" if index else "size"
            if size in sizes[:index]:
                raise ValueError(f"{key}: {size.name} is listed twice")
            longest = max(size.latent[0], size.latent[1] // PATCH[1], size.latent[2] // PATCH[2])
            if longest > self.architecture.rope_max_seq_len:
                raise ValueError(
                    f"{key}: {size.name} has {longest} positions along one axis; the rotary table "
                    f"ends at {self.architecture.rope_max_seq_len}"
                )
        return self


TABLES: dict[str, type[BaseModel]] = {
    "architecture": Architecture, "size": Size, "experts": Experts, "dynamic_sizes": Size,
}  # fmt: skip


def config_dir() -> Path:
    """Return the folder of the shipped configurations, of a wheel or of a checkout."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


def list_configs() -> list[str]:
    """Return the names of the shipped configurations."""
    return sorted(p.stem for p in config_dir().glob("wan*.toml"))


def load_config(name_or_file: str) -> Config:
    """Read a shipped configuration by name, or a TOML file or an engine's engine.json by path.

    Raises:
        ManifestError: the engine.json isn't right.
        ConfigError: no such configuration, not TOML, an unknown key (named with the nearest right
            one), a wrong type, or a size the VAE and the patches can't make.
    """
    path = Path(name_or_file)
    if path.name == MANIFEST_NAME:
        return parse_config(read_manifest_only(path.parent).config, str(path))
    if path.suffix != ".toml" and not path.is_file() and "ti2v" in name_or_file.lower():
        raise ConfigError(f"{TI2V} isn't supported", TI2V_REASON)
    path = find_file(name_or_file, "configuration", config_dir(), list_configs())
    return parse_config(read_values(path), str(path))


def parse_config(
    raw: dict[str, object], where: str, flags: Mapping[str, str] | None = None
) -> Config:
    """Check a configuration's values.

    Args:
        raw: the values.
        where: names their file in errors.
        flags: key -> the flag that its value came from; errors name that instead.
    """
    return check_values(Config, raw, where, TABLES, flags)


def dtypes() -> tuple[str, ...]:
    """Return the names that --dtype takes."""
    return get_args(Dtype)


def override(config: Config, dtype: str | None, size: Mapping[str, int | None]) -> Config:
    """Return a configuration with the flags that were given in place of the file's values.

    Raises:
        ConfigError: a value the file couldn't have either; it names the flag.
    """
    raw = config.model_dump()
    raw["size"] |= {key: value for key, value in size.items() if value is not None}
    if size.get("batch") is not None:  # the other sizes of a dynamic engine follow
        raw["dynamic_sizes"] = [other | {"batch": size["batch"]} for other in raw["dynamic_sizes"]]
    raw["dynamic_sizes"] = [other for other in raw["dynamic_sizes"] if other != raw["size"]]
    if dtype is not None:
        raw["dtype"] = dtype
    flags = {f"size.{key}": f"--{key}" for key, value in size.items() if value is not None}
    return parse_config(raw, ", ".join(flags.values()), flags)
