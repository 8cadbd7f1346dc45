"""The errors a user of wanexport can meet: what is wrong, where, and what to do about it."""

from __future__ import annotations

from wanrt.errors import UserError

__all__ = ["WanExportError"]


class WanExportError(UserError):
    """An error of the exporter."""


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


class PipelineError(WanExportError):
    """A pipeline asks an engine for what it can't do."""
