"""The errors a user can meet: what is wrong, where, and what to do about it."""

from __future__ import annotations

__all__ = ["UserError", "WanrtError", "install_hint"]


def install_hint(extra: str, options: str = "") -> str:
    """Return how to install an extra, which no package index has yet."""
    return f"pip install '.[{extra}]'{options and ' ' + options}, in a checkout of wanexport"


class UserError(Exception):
    """A user's mistake or a machine's limit; the CLI prints it in two lines and exits with 1.

    Args:
        message: what is wrong and where, one sentence.
        hint: what to do about it; empty if there is nothing to say.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class WanrtError(UserError):
    """An error of the runtime."""


class ManifestError(WanrtError):
    """engine.json is missing, malformed, newer than this release, or points outside its folder."""


class EngineError(WanrtError):
    """An engine can't be loaded or run on this machine, or was fed something it can't take."""


class UnsupportedError(EngineError):
    """This machine or backend can't run the engine; a bench skips it instead of failing."""


class AdapterError(WanrtError):
    """A file isn't a canonical adapter, or not one for this engine."""


class ResultsError(WanrtError):
    """A bench has nothing to measure, or a results file can't be read."""
