"""`wanexport env`: what a report of a bug has to say of where it happened."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from wanrt.terminal.screen import print_line

__all__ = ["env"]


def env(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, for scripts.")
    ] = False,
) -> None:
    """Show versions, devices and caches, for reports of bugs."""
    from wanexport.environment import describe_environment

    facts = describe_environment()
    if as_json:
        print_line(json.dumps(facts, indent=1))
        return
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print_line(f"{name:{width}}  {value}")
