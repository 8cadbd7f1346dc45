"""The errors a user of wanexport can meet: what is wrong, where, and what to do about it."""

from __future__ import annotations

__all__ = ["WanExportError"]


class WanExportError(Exception):
    """A user's mistake or a machine's limit; the CLI prints it in two lines and exits with 1.

    Args:
        message: what is wrong and where, one sentence.
        hint: what to do about it; empty if there is nothing to say.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(WanExportError):
    """A configuration file or flag can't be used as it is."""


class UsageError(ConfigError):
    """Flags that have no effect together, or contradict one another; the CLI exits with 2."""


class CheckpointError(WanExportError):
    """A checkpoint can't be read, or isn't of the architecture that the configuration names."""


class AdapterError(WanExportError):
    """A LoRA file can't be read, or can't be applied in full."""


class BuildError(WanExportError):
    """An engine can't be built or isn't what its manifest would say."""


class VerificationError(BuildError):
    """The engine's outputs differ from the reference by more than its dtype allows."""
