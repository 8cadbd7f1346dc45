"""The `wanexport` command, also python -m wanexport: refuses packages that are too old."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from wanrt.terminal.old_packages import refuse_old_packages


def main() -> NoReturn:
    """Run the command and exit."""
    refuse_old_packages(*_extras(sys.argv[1:]))

    from wanexport.cli.main import main as run

    run()


def _extras(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the extras that a command may load; TensorRT's are checked where they are loaded."""
    match argv:
        case [("build" | "adapter" | "compare" | "detach" | "extract" | "inspect" | "resize"), *_]:
            return ("export", "cpu", "gpu")
        case ["estimate", *flags] if "--compiled" in flags:
            return ("export",)
    return ()


if __name__ == "__main__":
    main()
