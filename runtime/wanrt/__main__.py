"""The `wanrt` command, also python -m wanrt: refuses packages that are too old."""

from __future__ import annotations

import sys
from typing import NoReturn

from wanrt.terminal.old_packages import refuse_old_packages

EXTRAS = {"bench": ("cpu", "gpu"), "combine": ("report",), "explain": ("cpu", "gpu"),
          "report": ("report",), "run": ("cpu", "gpu")}  # fmt: skip
"""Command -> the extras it may load; those of TensorRT are checked where they are loaded."""


def main() -> NoReturn:
    """Run the command and exit."""
    refuse_old_packages(*EXTRAS.get(next(iter(sys.argv[1:]), ""), ()))

    from wanrt.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
