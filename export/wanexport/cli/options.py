"""Flags that several commands have, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from wanexport.build.request import MODES
from wanexport.model.config import Config, load_config, override
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Mode

__all__ = ["choose_modes", "resolve_config"]

if TYPE_CHECKING:
    ModeName = Mode
else:  # typer takes no list of a Literal
    ModeName = StrEnum("ModeName", {mode: mode for mode in MODES})

ConfigName = Annotated[
    str, typer.Option("--config", metavar="NAME|FILE", help="Shipped, a TOML, an engine.json.")
]
EngineDtype = Annotated[Dtype | None, typer.Option(help="Overrides the configuration's.")]
Width = Annotated[int | None, typer.Option(help="Pixels.")]
Height = Annotated[int | None, typer.Option(help="Pixels.")]
Frames = Annotated[int | None, typer.Option(help="Frames, 4k + 1.")]
Batch = Annotated[int | None, typer.Option(help="Videos per forward.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]


def resolve_config(name: str, dtype: Dtype | None, **size: int | None) -> Config:
    """Return a configuration with the flags that override it.

    Raises:
        ConfigError: there is no such configuration, or a flag's value doesn't go with it.
    """
    return override(load_config(name), dtype, size)


def choose_modes(names: Iterable[Mode] | None) -> tuple[Mode, ...]:
    """Return modes in the order they were asked for, each once."""
    return tuple(dict.fromkeys(MODES[MODES.index(name)] for name in names or ()))
