"""An unset shell variable is never taken for a default, whatever the option."""

from __future__ import annotations

import pytest
import typer.main
from commands import wanexport, wanrt

from wanexport.build.request import BuildRequest
from wanexport.cli.main import app as exporter
from wanexport.errors import UsageError
from wanexport.lora.find import LoraArgument
from wanexport.model.config import DEMO, load_config
from wanrt.cli.main import app as runtime

RUN = {"wanexport": wanexport, "wanrt": wanrt}
APPS = {"wanexport": exporter, "wanrt": runtime}


def _takes_values() -> list[tuple[str, str, str]]:
    """Return (application, command, option or argument) of all that takes a value."""
    found = []
    for name, app in APPS.items():
        group = typer.main.get_command(app)
        for command, entry in group.commands.items():  # type: ignore[attr-defined]
            for param in entry.params:
                flag = param.opts[0] if param.param_type_name == "option" else ""
                if not (getattr(param, "is_flag", False) or flag == "--help"):
                    found.append((name, command, flag))
    return found


@pytest.mark.parametrize("value", ["", "  \t"])
@pytest.mark.parametrize(("app", "command", "flag"), _takes_values())
def test_an_empty_value_is_wrong_usage(app: str, command: str, flag: str, value: str) -> None:
    arguments = [flag, value] if flag else [value]
    code, out, err = RUN[app](command, *arguments)
    assert (code, out) == (2, "")
    assert "empty" in err
    if flag:
        code, out, err = RUN[app](command, f"{flag}={value}")
        assert (code, out) == (2, "")


def test_one_empty_value_among_others() -> None:
    code, _, err = wanexport("build", "--rank", "4", "--lora", "a", "--lora", "")
    assert (code, "--lora" in err) == (2, True)
    code, _, err = wanrt("bench", "engines", "")
    assert code == 2


@pytest.mark.parametrize(
    "options", [{"base": ""}, {"finetuned": " "}, {"loras": (LoraArgument(""),)}]
)
def test_programs_are_refused_as_well(options: dict[str, object]) -> None:
    ranks = () if "loras" in options else (4,)
    with pytest.raises(UsageError, match="is empty"):
        BuildRequest(config=load_config(DEMO), ranks=ranks, **options)  # type: ignore[arg-type]
