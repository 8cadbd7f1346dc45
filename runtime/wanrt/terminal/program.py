"""How a program made of commands ends: its exit status, and what is said of errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from wanrt.errors import UserError, install_hint
from wanrt.terminal.screen import print_line

__all__ = ["fail", "run_program"]

INTERRUPTED = 130


def run_program(
    run: Callable[[], object], extras: Mapping[str, str], usage: tuple[type[UserError], ...]
) -> NoReturn:
    """Run a program and exit: 0 done, 1 something is wrong, 2 wrong usage, 130 interrupted.

    Args:
        run: the program.
        extras: package -> the extra that installs it.
        usage: the errors that are wrong usage.
    """
    try:
        run()
    except UserError as error:
        fail(str(error), error.hint, 2 if isinstance(error, usage) else 1)
    except MemoryError:
        fail("this machine has too little memory for that", "")
    except KeyboardInterrupt:  # before typer could turn it into its exit status
        _end_interrupted()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _end_interrupted()
        raise
    except ModuleNotFoundError as error:
        extra = extras.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        fail(f"{error.name} isn't installed", install_hint(extra))
    sys.exit(0)


def _end_interrupted() -> NoReturn:
    print_line("interrupted; nothing half-made is left", sys.stderr)
    sys.exit(INTERRUPTED)


def fail(message: str, hint: str, code: int = 1) -> NoReturn:
    print_line("error: " + message.replace("\n", "\\n"), sys.stderr)
    if hint:
        print_line(f"hint: {hint}", sys.stderr)
    sys.exit(code)
