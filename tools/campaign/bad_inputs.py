"""Generated bad inputs: every option and argument of every command, every kind of bad file.

The options are asked of the apps themselves, so that a new one is attacked as soon as it is there.
"""

from __future__ import annotations

import os
import random
import shutil
from enum import Enum
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from typer.core import TyperArgument, TyperOption
from typer.main import get_command

from campaign.bad_files import KINDS, make_bad
from campaign.children import run_command
from campaign.tally import Case
from campaign.workshop import ENGINE, Snapshot, Workshop, find_leftovers, snapshot

__all__ = ["BadInputs"]

VALID: dict[str, dict[str, tuple[str, ...]]] = {
    "wanexport": {
        "build": ("--config", "tiny.toml", "--base", "random", "--mode", "full", "--out", "new",
                  "--verify", "none"),
        "estimate": ("--config", "tiny.toml", "--rank", "4", "--device", "h100"),
        "inspect": ("lora.safetensors",),
        "adapter": ("lora.safetensors", "--for", ENGINE, "-o", "new.safetensors"),
        "detach": (ENGINE, "-o", "new"),
        "compare": (ENGINE, ENGINE),
    },
    "wanrt": {
        "bench": ("engines", "--time-budget", "0", "--loads", "1", "--rounds", "1", "--no-probe"),
        "report": ("bench.json", "-o", "new.html"),
        "run": (ENGINE, "--save", "new.safetensors"),
        "info": (ENGINE,),
        "verify": (ENGINE,),
        "explain": (ENGINE,),
    },
}  # fmt: skip
"""A command line of each command that works."""

SAMPLES = {
    "config": "tiny.toml", "lora": "lora.safetensors", "adapter": "a.safetensors",
    "results": "bench.json", "compare": "bench.json", "json": "bench.json",
    "files": "a.safetensors",
    "inputs": "outputs.safetensors", "save": "outputs.safetensors", "file": "lora.safetensors",
    "base": "checkpoint", "finetuned": "checkpoint", "engine": ENGINE, "folder": ENGINE,
    "engines": ENGINE,
}  # fmt: skip
"""What is valid where a parameter names a file, to be spoilt."""

NUMBERS = ("-1", "0", "1", "3", "5", "1.5", "1e308", "nan", "99999999999999999999", "2147483648",
           "1000", "\u0664", "0x10")  # fmt: skip
WORDS = ("", " ", "inf", "4,4", "--", "-x", "*", "%s", "{}", "../..", "/", ".", "~", "a/b", "\\",
         "'", "x" * 300, "\x1b[2J", "\u202e", "\udcff", "a\nb", "random", "random:-1", "auto",
         "12.0", "hf:x/y", ":", ":0.5", "lora.safetensors:nan", "lora.safetensors:1e39", "4GiB",
         "-4GiB", "5%", "lora.safetensors", "engines", "bench.json")  # fmt: skip
OUTPUTS = ("save", "output", "json", "csv", "markdown")
REPEATS = ("warmup", "loads", "rounds", "threads")  # so much takes as long as that, rightly
OURS = ("empty", "cut short", "bytes changed", "JSON", "a tensor changed")
"""How bad a file can be and still begin as this project's own, which a command may replace."""
EXAMPLES = 20
Parameter = TyperOption | TyperArgument


class BadInputs:
    """Runs commands with one or two things wrong."""

    def __init__(self, workshop: Workshop, room: Path) -> None:
        self._workshop = workshop
        self._room = room
        self._commands = dict(_list_commands())

    def try_some(self, rng: random.Random) -> list[Case]:
        """Generate some cases and run them."""
        found: list[Case] = []
        command = rng.choice(sorted(self._commands))

        @seed(rng.getrandbits(64))
        @settings(
            max_examples=EXAMPLES, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.data())
        def attempt(data: st.DataObject) -> None:
            found.append(self._attempt(*command, data))

        attempt()
        return found[1:]  # the first one is the simplest, the same every time

    def _attempt(self, app: str, name: str, data: st.DataObject) -> Case:
        self._lay_out()
        argv = [app, name, *VALID[app][name]]
        kinds: list[str] = []
        outputs: dict[str, bool] = {}  # whether what lies there begins as this project's own
        for _ in range(data.draw(st.sampled_from([1, 1, 2]))):
            parameter = data.draw(st.sampled_from(self._commands[app, name]))
            value, kind = self._spoil(parameter, data)
            kinds.append(f"{parameter.name}={kind}")
            argv = _put(argv, parameter, value)
            if parameter.name in OUTPUTS:
                outputs[str(self._room / (value or ""))] = kind.startswith(OURS)
        before = snapshot(self._room)
        replaceable = {path for path, ours in outputs.items() if ours or "--force" in argv}
        outcome = run_command(argv, self._room)
        problem = outcome.problem()
        if not problem and (changed := _changed(before, snapshot(self._room)) - replaceable):
            problem = f"changed: {', '.join(changed)}"
        if not problem and (left := find_leftovers(self._room)):
            problem = f"left: {', '.join(left)}"
        said = outcome.said.strip().splitlines()[-1:] if problem else []
        text = ascii(" ".join([*argv[2:], *kinds, *said]))
        return Case("bad inputs", f"{app} {name}", problem, text)

    def _spoil(self, parameter: Parameter, data: st.DataObject) -> tuple[str | None, str]:
        """Return a value for a parameter, None for a flag, and what is wrong with it."""
        if getattr(parameter, "is_flag", False):
            return None, "set"
        name = parameter.name or ""
        sample = SAMPLES.get(name)
        if sample is None or data.draw(st.integers(0, 3)) == 0:
            return data.draw(st.sampled_from(_list_words(parameter))), "a word"
        kind = data.draw(st.sampled_from(sorted(KINDS)))
        path = self._room / f"bad-{name}{Path(sample).suffix}"
        if os.path.lexists(path):
            return path.name, kind
        make_bad(
            kind,
            path,
            self._workshop.root / sample,
            random.Random(data.draw(st.integers(0, 2**32))),
        )
        return path.name, kind

    def _lay_out(self) -> None:
        shutil.rmtree(self._room, ignore_errors=True)
        shutil.copytree(self._workshop.root, self._room, copy_function=os.link)


def _list_commands() -> list[tuple[tuple[str, str], list[Parameter]]]:
    import wanexport.cli.main
    import wanrt.cli.main

    apps: dict[str, Any] = {
        "wanexport": get_command(wanexport.cli.main.app), "wanrt": get_command(wanrt.cli.main.app)
    }  # fmt: skip
    return [
        ((app, name), [param for param in command.params if param.name != "help"])
        for app, group in apps.items()
        for name, command in group.commands.items()
    ]


def _list_words(parameter: Parameter) -> list[str]:
    """Return what might be given for an option: mostly of its type, so that it gets further."""
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [*(str(member.value) for member in kind), "x"]
    if kind in (int, float):
        return [word for word in NUMBERS if word != "1000" or parameter.name not in REPEATS]
    return [*WORDS, *NUMBERS[:4]]


def _put(argv: list[str], parameter: Parameter, value: str | None) -> list[str]:
    """Return a command line with a parameter's value in place of the valid one."""
    if parameter.param_type_name == "argument":
        return [*argv[:2], value or "", *argv[3:]]
    flags = [*parameter.opts, *parameter.secondary_opts]
    if value is None:
        return [*argv, flags[-1]]
    there = next((n for n, word in enumerate(argv) if word in flags), None)
    if there is not None:
        return [*argv[: there + 1], value, *argv[there + 2 :]]
    return [*argv, flags[0], value]


def _changed(before: Snapshot, now: Snapshot) -> set[str]:
    """Return the files that were there and aren't the same; outputs have other names."""
    return {path for path, held in before.items() if now.get(path) != held}
