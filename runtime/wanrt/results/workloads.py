"""Named workloads: which engines fit them, what a video of theirs takes, what others published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from wanrt.errors import ResultsError
from wanrt.manifest.fields import Positive
from wanrt.manifest.schema import Manifest
from wanrt.results.video import ForwardsPerStep, Published, Steps, Text, Video
from wanrt.storage.tables import read_tables, shipped_file

__all__ = ["NamedWorkload", "load_workloads"]


class Size(BaseModel):
    """A video's size in pixels and frames."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    width: Positive
    height: Positive
    frames: Positive


class NamedWorkload(BaseModel):
    """A workload by name. What it doesn't say is the engines' own: model, size or architecture.

    `architecture` holds fields that an engine's configuration must have, `experts` says whether
    it is a pair's, and `config` is the shipped configuration that builds engines for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Text
    model: Text | None = None
    config: Text | None = None
    size: Size | None = None
    architecture: dict[str, int] | None = None
    experts: bool | None = None
    steps: Steps
    forwards_per_step: ForwardsPerStep
    published: Annotated[tuple[Published, ...], Field(strict=False)] = ()

    @property
    def size_name(self) -> str | None:
        """The size as engines call theirs, of one sample: 832x480x81."""
        size = self.size
        return f"{size.width}x{size.height}x{size.frames}" if size else None

    @property
    def wants(self) -> str:
        """What an engine must be, in words."""
        return " at ".join(part for part in (self.model, self.size_name) if part)

    @property
    def video(self) -> Video:
        """What the units of a bench count."""
        return Video(self.steps, self.forwards_per_step, self.name, self.published)

    def fits(self, manifest: Manifest) -> bool:
        """Tell whether an engine has the size and the architecture."""
        if self.size_name is not None and self.size_name not in manifest.workloads:
            return False
        if self.experts is not None and self.experts != (manifest.expert is not None):
            return False
        has = manifest.config.get("architecture")
        has = has if isinstance(has, dict) else {}
        return all(has.get(key) == value for key, value in (self.architecture or {}).items())


def load_workloads(path: Path | None = None) -> dict[str, NamedWorkload]:
    """Read workloads by name, in the file's order.

    Raises:
        ResultsError: the file can't be read, isn't TOML, or a workload's values are wrong.
    """
    return read_tables(path or shipped_file("workloads.toml"), NamedWorkload, ResultsError)
