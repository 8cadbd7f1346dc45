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
from wanexport.cli.estimate import estimate
from wanexport.cli.inspect import inspect
from wanexport.errors import UsageError
from wanrt.errors import UserError, install_hint
from wanrt.storage.interrupt import end_like_ctrl_c
from wanrt.terminal.command import Command, Version
from wanrt.terminal.screen import print_line

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


for command in (build, estimate, inspect, adapter, compare, detach):
    app.command(cls=Command)(command)

INTERRUPTED = 130
EXTRAS = dict.fromkeys(
    ("torch", "diffusers", "onnx", "onnx_ir", "onnxscript", "polygraphy"), "export"
) | {"onnxruntime": "cpu"}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 something is wrong, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    try:
        end_like_ctrl_c()
        given = sys.argv[1:] if argv is None else list(argv)
        app(given, prog_name="wanexport", standalone_mode=True, obj=given)
    except UserError as error:
        _fail(str(error), error.hint, 2 if isinstance(error, UsageError) else 1)
    except MemoryError:
        _fail("this machine has too little memory for that", "")
    except KeyboardInterrupt:  # before typer could turn it into its exit status
        _end_interrupted()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _end_interrupted()
        raise
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _fail(f"{error.name} isn't installed", install_hint(extra))
    sys.exit(0)


def _end_interrupted() -> NoReturn:
    print_line("interrupted; nothing half-made is left", sys.stderr)
    sys.exit(INTERRUPTED)


def _fail(message: str, hint: str, code: int = 1) -> NoReturn:
    print_line("error: " + message.replace("\n", "\\n"), sys.stderr)
    if hint:
        print_line(f"hint: {hint}", sys.stderr)
    sys.exit(code)
