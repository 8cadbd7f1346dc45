"""A study's TOML: what is varied, from what, how it is measured; checked before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wanexport.model.config import config_dir
from wanexport.model.quantization import Scheme
from wanexport.model.user_file import check_values, find_file, read_values
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Backend, Expert, Mode

__all__ = ["Bench", "Grid", "Study", "list_studies", "load_study"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
SIZE = re.compile(r"(\d+)x(\d+)x(\d+)(?:-b(\d+))?")
Text = Annotated[str, Field(min_length=1)]
Rank = Annotated[int, Field(ge=1, le=1 << 20)]
Few = Field(strict=False, min_length=1, max_length=64)  # not strict: TOML knows only lists


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Adapters(_Model):
    """Where adapters come from.

    Args:
        source: seeded random ones (as fast as trained ones), those that `wanexport extract` makes
            of the fine-tune, or files that are there.
        files: LoRA files, each with an optional `:STRENGTH`; they bring their ranks and targets.
    """

    source: Literal["random", "extract", "files"] = "random"
    files: Annotated[tuple[Text, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _files(self) -> Adapters:
        if (self.source == "files") != bool(self.files):
            raise ValueError("files and source = 'files' go together")
        return self


class Combination(_Model):
    """Values that together are left out of the grid; what isn't named is any."""

    mode: Mode | None = None
    rank: Rank | None = None
    targets: Text | None = None
    size: Text | None = None
    dtype: Dtype | None = None
    backend: Backend | None = None
    quantize: Scheme | None = None


class Grid(_Model):
    """What is varied: a product, less the combinations that are skipped.

    Args:
        modes: how engines hold adapters; `full` is among them, since every ratio is to it.
        ranks: of random and extracted adapters.
        targets: the layers that those sit on; several sets or patterns in one are joined by +.
        sizes: WIDTHxHEIGHTxFRAMES, with -bN for a batch; empty is the configuration's.
        dtypes: of weights and activations; empty is the configuration's.
        backends: what runs the engines.
        quantize: how the blocks' linear layers are stored.
        skip: combinations to leave out.
    """

    modes: Annotated[tuple[Mode, ...], Few] = get_args(Mode)
    ranks: Annotated[tuple[Rank, ...], Field(strict=False, max_length=64)] = ()
    targets: Annotated[tuple[Text, ...], Few] = ("cross-attention",)
    sizes: Annotated[tuple[str, ...], Field(strict=False, max_length=64)] = ()
    dtypes: Annotated[tuple[Dtype, ...], Field(strict=False)] = ()
    backends: Annotated[tuple[Backend, ...], Few] = ("onnxruntime",)
    quantize: Annotated[tuple[Scheme, ...], Few] = ("none",)
    skip: Annotated[tuple[Combination, ...], Field(strict=False)] = ()

    @field_validator("modes", "ranks", "targets", "sizes", "dtypes", "backends", "quantize")
    @classmethod
    def _once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value!r} is listed twice")
        return values

    @field_validator("modes")
    @classmethod
    def _baseline(cls, modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
        if "full" not in modes:
            raise ValueError("needs 'full', which every ratio is to")
        return modes

    @field_validator("sizes")
    @classmethod
    def _sizes(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        for size in sizes:
            if not SIZE.fullmatch(size):
                raise ValueError(f"{size!r} isn't a size; write '832x480x81', or '832x480x81-b2'")
        return sizes


class CardWish(_Model):
    """The GPU that a study is measured on, as NVML has it: `nvidia-smi -L` shows names."""

    name: Text
    memory_gib: Annotated[int, Field(ge=1)] | None = None
    power_limit_w: Annotated[int, Field(ge=1)] | None = None


class Bench(_Model):
    """How groups are measured: what `wanrt bench` is given.

    Args:
        device: cpu or cuda.
        card: which GPU; without it this machine's first, which a cluster can't tell.
        cards: on how many different cards every group is measured; 3 or more give an interval over
            cards.
        threads: of a CPU.
        time_budget_s: for each group's measuring.
        half_width: of the 95 % intervals, as a share.
        loads: of every engine, instead of what the pilot says.
        rounds: of each load, likewise.
        warmup: forwards to discard before each measured one.
        steps: of a sampler, for what a video takes; with `cfg` each takes two forwards.
        cfg: whether guidance is on.
        workload: a named workload, which says size, steps and guidance.
        limit_minutes: without a sign of progress, after which a bench is ended.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    card: CardWish | None = None
    cards: Annotated[int, Field(ge=1, le=1000)] = 1
    threads: Annotated[int, Field(ge=1)] | None = None
    time_budget_s: Annotated[float, Field(ge=0, le=1e6, strict=False)] = 120.0
    half_width: Annotated[float, Field(gt=0, lt=1)] = 0.005
    loads: Annotated[int, Field(ge=1, le=1000)] | None = None
    rounds: Annotated[int, Field(ge=1, le=1000)] | None = None
    warmup: Annotated[int, Field(ge=0, le=1000)] = 1
    steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    cfg: bool = False
    workload: Text | None = None
    limit_minutes: Annotated[float, Field(gt=0, le=1e6, strict=False)] = 30.0

    @model_validator(mode="after")
    def _go_together(self) -> Bench:
        if self.workload is not None and (self.steps is not None or self.cfg):
            raise ValueError("workload says steps and guidance: leave out steps and cfg")
        if self.device == "cpu" and self.card is not None:
            raise ValueError("card is a GPU, so it needs device = 'cuda'")
        return self


class Study(_Model):
    """One study.

    Args:
        name: part of what it shows.
        config: the model: a shipped configuration's name, or a .toml file.
        base: the base checkpoint, or random.
        finetuned: the full fine-tune; without it `full` has the base's weights.
        expert: which of Wan2.2's two models.
        prefuse: LoRAs merged into every engine's base, such as a step-distilled one.
        verify: whether outputs are compared with diffusers' model.
        estimate: devices for which the best possible speed is worked out beside what is measured.
    """

    name: Annotated[str, Field(pattern=NAME, max_length=60)]
    config: Text
    base: Text = "random"
    finetuned: Text | None = None
    expert: Expert | None = None
    prefuse: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    verify: bool = True
    estimate: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    adapters: Adapters = Adapters()
    grid: Grid
    bench: Bench = Bench()

    @model_validator(mode="after")
    def _go_together(self) -> Study:
        adapted = set(self.grid.modes) != {"full"}
        if self.adapters.source == "extract" and (self.finetuned is None or self.base == "random"):
            raise ValueError("adapters.source = 'extract' needs base and finetuned")
        if self.adapters.source == "files":
            if self.grid.ranks or "targets" in self.grid.model_fields_set:
                raise ValueError("grid.ranks and grid.targets are the files' own: leave them out")
        elif adapted and not self.grid.ranks:
            raise ValueError("grid.ranks is missing: all modes but full need ranks")
        return self


TABLES: dict[str, type[BaseModel]] = {
    "adapters": Adapters, "grid": Grid, "skip": Combination, "bench": Bench, "card": CardWish,
}  # fmt: skip


def studies_dir() -> Path:
    """Return the folder of the shipped studies, of a wheel or of a checkout."""
    return config_dir() / "studies"


def list_studies() -> list[str]:
    """Return the names of the shipped studies."""
    return sorted(path.stem for path in studies_dir().glob("*.toml"))


def load_study(name_or_file: str) -> Study:
    """Read a shipped study by name, or a TOML file by path.

    Raises:
        ConfigError: there is no such study, it isn't TOML, or a value can't be; it names the key.
    """
    path = find_file(name_or_file, "study", studies_dir(), list_studies())
    return check_values(Study, read_values(path), str(path), TABLES)
