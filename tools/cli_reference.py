"""Write docs/cli.md: every command, argument and option, as the apps describe them in --help."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from wanexport.cli.main import app as wanexport_app
from wanrt.cli.main import app as wanrt_app
from wanrt.terminal.command import list_parameters

HEAD = """# Command line

Every command and option, as `--help` shows them. `make docs` writes this page.

Both commands also take `--version`, and `--install-completion`, which sets up completion for your
shell. Exit codes: 0 for success, 1 if something is wrong, 2 for wrong usage, 130 after Ctrl-C."""


def render_reference() -> str:
    """Return the page."""
    programs: dict[str, Any] = {
        "wanexport": get_command(wanexport_app),
        "wanrt": get_command(wanrt_app),
    }
    lines = [HEAD]
    for name, program in programs.items():
        lines += ["", f"## {name}", "", program.help]
        with program.make_context(name, [], resilient_parsing=True) as group:
            for command in program.commands.values():
                lines += _describe(command, group)
    return "\n".join(lines) + "\n"


def _describe(command: Any, group: Any) -> Iterator[str]:
    with command.make_context(command.name, [], parent=group, resilient_parsing=True) as ctx:
        usage = " ".join(command.collect_usage_pieces(ctx))
        yield from ("", f"### {ctx.command_path}", "")
        yield from ("```", f"{ctx.command_path} {usage}", "```", "", command.help)
        for title, records in list_parameters(command, ctx).items():
            yield from ("", f"| {title} | |", "|---|---|")
            for name, text in records:
                yield f"| `{_cell(name)}` | {_cell(text)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_reference(), encoding="utf-8")
