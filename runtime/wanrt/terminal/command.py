"""How both commands read their arguments, beyond what Typer checks."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["Command"]


class Command(TyperCommand):
    """A command that takes no empty value.

    `--base "$BASE"` with an unset variable is an empty string. It would mean the default, or the
    folder that the command runs in, and never what was meant.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            typer.BadParameter: a value is empty or blank.
        """
        if not ctx.resilient_parsing:
            self._refuse_empty(ctx, list(args))
        return super().parse_args(ctx, args)

    def _refuse_empty(self, ctx: Any, args: list[str]) -> None:
        values, _, _ = self.make_parser(ctx).parse_args(args=args)
        for param in self.get_params(ctx):
            value = values.get(param.name)
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str) and not text.strip():
                    raise typer.BadParameter(
                        "it is empty; is a shell variable unset? Leave the option out for its "
                        "default",
                        ctx=ctx,
                        param=param,  # type: ignore[arg-type]
                    )
