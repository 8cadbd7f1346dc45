"""The wanexport command: every command of it, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from wanexport.cli import tensorrt_options
from wanexport.cli.adapter import adapter
from wanexport.cli.build import build
from wanexport.cli.compare import compare
from wanexport.cli.detach import detach
from wanexport.cli.env import env
from wanexport.cli.estimate import estimate
from wanexport.cli.extract import extract
from wanexport.cli.inspect import inspect
from wanexport.cli.resize import resize
from wanexport.cli.study import study
from wanexport.errors import UsageError
from wanrt.storage.interrupt import end_like_ctrl_c
from wanrt.terminal.command import Command, Version
from wanrt.terminal.program import run_program

__all__ = ["app", "main"]

app = typer.Typer(
    name="wanexport",
    context_settings={"token_normalize_func": tensorrt_options.respell},
    help="Build engines of fine-tuned Wan2.1 models, with LoRA merged, separate or swappable.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _program(version: Version = False) -> None:
    pass


for command in (build, estimate, inspect, adapter, extract, resize, study, compare, detach, env):
    app.command(cls=Command)(command)

EXTRAS = dict.fromkeys(
    ("torch", "diffusers", "onnx", "onnx_ir", "onnxscript", "polygraphy"), "export"
) | {"onnxruntime": "cpu"}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 something is wrong, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded

    def run() -> None:
        end_like_ctrl_c()
        given = sys.argv[1:] if argv is None else list(argv)
        app(given, prog_name="wanexport", standalone_mode=True, obj=given)

    run_program(run, EXTRAS, (UsageError,))
