"""How both commands read their arguments, beyond what Typer checks."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["Command"]

MOST_BYTES = 255


class Command(TyperCommand):
    """A command that takes no value which nobody means.

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

    def _check_values(self, ctx: Any, args: list[str]) -> None:
        values, _, _ = self.make_parser(ctx).parse_args(args=args)
        for param in self.get_params(ctx):
            value = values.get(param.name)
            for text in value if isinstance(value, list | tuple) else [value]:
                problem = _find_problem(text) if isinstance(text, str) else ""
                if problem:
                    raise typer.BadParameter(problem, ctx=ctx, param=param)  # type: ignore[arg-type]


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
