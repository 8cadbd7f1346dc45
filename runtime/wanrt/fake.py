"""A bench's world by script: engines whose forwards take the time they are told, no sleeping.

`wanrt bench --fake SCRIPT.json` and the tests use it. The script, every part optional:

    {"forward_s": {"NAME": [0.10, 0.11], "NAME ADAPTER": [0.12]},   cycled through; by manifest name
     "unsupported": {"NAME": "why"}, "failing": {"NAME": "why"},
     "memory_bytes": {"NAME": 1000}, "available_bytes": 10000,
     "machine": {"processor": "..."}, "interrupt_at": 40}           Ctrl-C at the 40th forward
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import count, cycle
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from wanrt.errors import EngineError, ResultsError, UnsupportedError
from wanrt.machine import Machine
from wanrt.manifest import Manifest, read_manifest
from wanrt.tensors import Array

__all__ = ["FakeEngine", "FakeLab", "Script", "read_script"]

MACHINE = Machine(
    processor="Fake CPU",
    cores=2,
    threads=2,
    memory_bytes=8 << 30,
    gpu=None,
    driver=None,
    onnxruntime="1.2.3",
    wanrt="0.1.0",
    python="3.11.0",
    system="Fake",
    load_average=0.0,
)


class Script(BaseModel):
    """What happens in a fake bench."""

    model_config = ConfigDict(extra="forbid")

    forward_s: dict[str, list[float]] = {}
    unsupported: dict[str, str] = {}
    failing: dict[str, str] = {}
    memory_bytes: dict[str, int] = {}
    available_bytes: int | None = 1 << 40
    machine: dict[str, str | int | float] = {}
    interrupt_at: int | None = None


def read_script(path: Path) -> Script:
    """Read a script.

    Raises:
        ResultsError: it can't be read.
    """
    try:
        return Script.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ResultsError(f"{path} is no script of a fake bench: {error}") from None


@dataclass
class FakeLab:
    """A machine whose clock only its engines move."""

    script: Script
    clock: float = 0.0
    taken: int = 0
    forwards: count[int] = field(default_factory=lambda: count(1))
    times: dict[str, cycle[float]] = field(default_factory=dict)

    def check(self, folder: Path) -> Manifest:
        """Return the manifest, or raise as the script says."""
        manifest = read_manifest(folder)
        if manifest.name in self.script.unsupported:
            raise UnsupportedError(self.script.unsupported[manifest.name])
        return manifest

    def load(self, folder: Path, workload: str) -> FakeEngine:  # noqa: ARG002 (the protocol's)
        """Return an engine that follows the script."""
        manifest = read_manifest(folder)
        self.taken += self.script.memory_bytes.get(manifest.name, 0)
        return FakeEngine(self, manifest)

    def now(self) -> float:
        """Return the seconds that all forwards took until now."""
        return self.clock

    def private_bytes(self) -> int:
        """Return what the loaded engines took."""
        return self.taken

    def available_bytes(self) -> int | None:
        """Return what the script says."""
        return self.script.available_bytes

    def describe(self) -> Machine:
        """Return a machine that doesn't exist."""
        return replace(MACHINE, **self.script.machine)  # type: ignore[arg-type]

    def spend(self, name: str, adapter: str | None) -> float:
        """Return the next scripted forward of an engine and let its time pass."""
        if next(self.forwards) == self.script.interrupt_at:
            raise KeyboardInterrupt
        key = f"{name} {adapter}" if adapter else name
        scripted = self.script.forward_s.get(key, [0.1])
        seconds = next(self.times.setdefault(key, cycle(scripted)))
        self.clock += seconds
        return seconds


class FakeEngine:
    """An engine that computes nothing; `wanrt.engine.Engine` is its contract."""

    def __init__(self, lab: FakeLab, manifest: Manifest) -> None:
        self._lab = lab
        self._manifest = manifest
        self._adapter: str | None = None

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""
        return self._manifest

    @property
    def timed(self) -> str:
        """What `time_forward` measures."""
        return "a scripted clock, nothing is run"

    def bind(self, **inputs: object) -> None:
        """Accept anything."""

    def forward(self, **inputs: object) -> dict[str, Array]:
        """Refuse: there is nothing to compute."""
        raise EngineError(f"a fake engine computes nothing from {len(inputs)} inputs")

    def swap(self, adapter: Path | str | None) -> None:
        """Change to another row of the script."""
        self._adapter = Path(adapter).stem if adapter is not None else None

    def time_forward(self) -> float:
        """Return the next scripted time."""
        if self._manifest.name in self._lab.script.failing:
            raise EngineError(self._lab.script.failing[self._manifest.name])
        return self._lab.spend(self._manifest.name, self._adapter)

    def close(self) -> None:
        """Give back the scripted memory."""
        self._lab.taken -= self._lab.script.memory_bytes.get(self._manifest.name, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
