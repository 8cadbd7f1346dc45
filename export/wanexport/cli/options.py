"""Flags that several commands share, and how their values are used."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from wanexport.build.request import MODES
from wanexport.lora.targets import TARGET_SETS
from wanexport.model.config import Config, list_configs, load_config, override
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Mode

__all__ = ["MODEL", "choose_modes", "complete_targets", "parse_numbers", "resolve_config"]

MODEL = "Model and size"

if TYPE_CHECKING:
    ModeName = Mode
else:  # typer takes no list of a Literal
    ModeName = StrEnum("ModeName", {mode: mode for mode in MODES})


def _complete_config(incomplete: str) -> list[str]:
    return [name for name in list_configs() if name.startswith(incomplete)]


def complete_targets(incomplete: str) -> list[str]:
    """Return the names of target sets that begin so."""
    return [name for name in TARGET_SETS if name.startswith(incomplete)]


def parse_numbers(flag: str, given: Iterable[str]) -> tuple[int, ...]:
    """Return the numbers of `--rank 8,16 --rank 32`, each once and in order.

    Raises:
        typer.BadParameter: one of them isn't a positive whole number.
    """
    words = [word.strip() for text in given for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word)):
            raise typer.BadParameter(
                f"{flag} {word!r} isn't a positive whole number: write {flag} 8,16"
            )
    return tuple(sorted({int(word) for word in words}))


ConfigName = Annotated[
    str,
    typer.Option(
        "--config",
        metavar="NAME|FILE",
        help="Name of a shipped configuration, or path of a .toml or engine.json file.",
        autocompletion=_complete_config,
        rich_help_panel=MODEL,
    ),
]
EngineDtype = Annotated[
    Dtype | None,
    typer.Option(
        help="Data type of weights and activations [default: the configuration's].",
        rich_help_panel=MODEL,
    ),
]
Width = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Width of the video [default: the configuration's].",
        rich_help_panel=MODEL,
    ),
]
Height = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Height of the video [default: the configuration's].",
        rich_help_panel=MODEL,
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Frames of the video, 4k + 1 [default: the configuration's].",
        rich_help_panel=MODEL,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Videos per forward [default: the configuration's].",
        rich_help_panel=MODEL,
    ),
]
TargetNames = Annotated[
    list[str] | None,
    typer.Option(
        "--targets",
        metavar="|".join([*TARGET_SETS, "GLOB"]),
        help="Linear layers that adapters sit on, by set or by a pattern of diffusers' names; "
        "repeat to add [default: cross-attention, or those of --lora].",
        autocompletion=complete_targets,
        rich_help_panel=MODEL,
    ),
]
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
