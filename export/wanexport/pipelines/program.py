"""How `python -m wanexport.pipelines.embed` and `.decode` start and end, and find models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wanexport.errors import PipelineError, UsageError
from wanexport.storage.hub import cached_snapshot
from wanrt.storage.interrupt import end_like_ctrl_c
from wanrt.terminal.command import Command
from wanrt.terminal.program import run_program

__all__ = ["Device", "Model", "find_model", "run_command"]

EXTRAS = dict.fromkeys(("torch", "diffusers", "transformers", "ftfy", "PIL"), "pipelines")

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a diffusers pipeline, or its repository in the Hugging Face cache.",
    ),
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="Device of torch that the encoders and the VAE use.")
]


def run_command(function: Callable[..., None]) -> NoReturn:
    """Run a function as a program of its own and exit as wanexport does."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    app.command(cls=Command)(function)
    name = f"python -m wanexport.pipelines.{function.__name__}"

    def run() -> None:
        end_like_ctrl_c()
        app(sys.argv[1:], prog_name=name)

    run_program(run, EXTRAS, (UsageError,))


def find_model(name: str) -> Path:
    """Return the folder of a diffusers pipeline.

    Raises:
        PipelineError: no pipeline has that name.
    """
    path = Path(name) if Path(name).exists() else cached_snapshot(name, PipelineError)
    if not (path / "model_index.json").is_file():
        raise PipelineError(
            f"{path} isn't a diffusers pipeline: it has no model_index.json",
            "hf download Wan-AI/Wan2.1-I2V-14B-480P-Diffusers --exclude 'transformer/*'",
        )
    return path
