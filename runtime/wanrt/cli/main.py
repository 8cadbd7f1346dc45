"""The wanrt command: bench | report | combine | run | info | verify | explain.

Only this package prints.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from wanrt.cli.bench import bench
from wanrt.cli.combine import combine
from wanrt.cli.explain import explain
from wanrt.cli.info import info
from wanrt.cli.options import INTERRUPTED
from wanrt.cli.report import report
from wanrt.cli.run import run
from wanrt.cli.verify import verify
from wanrt.errors import WanrtError
from wanrt.storage.interrupt import end_like_ctrl_c
from wanrt.terminal.command import Command, Version
from wanrt.terminal.screen import print_line

app = typer.Typer(
    name="wanrt",
    help="Run and bench the engines that wanexport builds.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _program(version: Version = False) -> None:
    pass


for command in (bench, report, combine, run, info, verify, explain):
    app.command(cls=Command)(command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 something is wrong, 2 wrong usage, 130 interrupted."""
    try:
        end_like_ctrl_c()
        app(None if argv is None else list(argv), prog_name="wanrt")
    except WanrtError as error:
        print_line("error: " + str(error).replace("\n", "\\n"), sys.stderr)
        if error.hint:
            print_line(f"hint: {error.hint}", sys.stderr)
        sys.exit(1)
    except MemoryError:
        print_line("error: this machine has too little memory for that", sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)
