"""How both commands read their arguments and list them in --help, beyond what Typer does."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from wanrt.terminal.screen import print_line

__all__ = ["Command", "Version", "list_parameters"]

MOST_BYTES = 255


def print_version(asked: bool) -> None:
    """Print the installed version and exit, if asked."""
    if asked:
        print_line(f"wanexport {metadata.version('wanexport')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=print_version, is_eager=True, help="Show the version and exit."
    ),
]


class Command(TyperCommand):
    """A command that refuses values that can only be mistakes.

    `--base "$BASE"` with an unset variable is an empty string. It would mean the default, or the
    folder that the command runs in. Line breaks, escapes and marks of direction in a name would
    show something else than what is done. No file has a name of more than 255 bytes.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            typer.BadParameter: a value is blank, or can be no name.
        """
        if not ctx.resilient_parsing:
            self._check_values(ctx, list(args))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List arguments, then options by their panels, plainly.

        Typer draws panels only as boxes, which narrow the text and can't be copied.
        """
        for title, records in list_parameters(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)

    def _check_values(self, ctx: Any, args: list[str]) -> None:
        values, _, _ = self.make_parser(ctx).parse_args(args=args)
        for param in self.get_params(ctx):
            value = values.get(param.name)
            for text in value if isinstance(value, list | tuple) else [value]:
                problem = _find_problem(text) if isinstance(text, str) else ""
                if problem:
                    raise typer.BadParameter(problem, ctx=ctx, param=param)  # type: ignore[arg-type]


def list_parameters(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return a command's arguments and options with their help, by panel, those of none last."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        if (record := param.get_help_record(ctx)) is None:
            continue
        if param.param_type_name == "argument":
            name, _, _ = record[0].partition(" <")
            panels.setdefault("Arguments", []).append((name, record[1]))
        else:
            panel = getattr(param, "rich_help_panel", None) or "Options"
            panels.setdefault(panel, []).append(record)
    return panels | {"Options": panels.pop("Options", [])}


def _find_problem(text: str) -> str:
    """Say why a value can't be meant; nothing if it may be."""
    if not text.strip():
        return "it is empty; is a shell variable unset? Leave the option out for its default"
    if not text.isprintable():
        odd = next(character for character in text if not character.isprintable())
        return f"it holds the character U+{ord(odd):04X}; rename the file, or remove the character"
    if any(len(part.encode()) > MOST_BYTES for part in text.split("/")):
        return f"it has a name of more than {MOST_BYTES} bytes"
    return ""
