"""Our own commands in this process, where torch is loaded already."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable


class CommandError(Exception):
    """What a command said before it ended otherwise than it should."""


def run_command(
    main: Callable[[list[str]], object], argv: list[str], ok: tuple[int, ...] = (0,)
) -> str:
    """Run a command and return what it printed.

    Raises:
        CommandError: its exit status isn't in `ok`; the message is its last error.
    """
    said, printed = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            main(argv)
    except SystemExit as stop:
        if stop.code not in ok:
            errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
            reason = errors[-1] if errors else said.getvalue().strip()[-2000:]
            raise CommandError(f"{argv[0]}: {reason}") from None
    return printed.getvalue()
