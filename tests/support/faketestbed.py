"""A bench's world by script: engines whose forwards take the time they are told, no sleeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, cycle
from typing import TYPE_CHECKING, Any

from wanrt.engine.stack import AdapterArgument, list_adapters
from wanrt.errors import EngineError, ResultsError, UnsupportedError
from wanrt.machine.describe import Machine
from wanrt.machine.nvml import Clocks
from wanrt.manifest.fields import Dtype
from wanrt.manifest.folder import EngineFolder
from wanrt.manifest.read import check_sizes
from wanrt.results.values import Probe
from wanrt.terminal.progress import Reporter

if TYPE_CHECKING:
    from wanrt.bench.candidates import Candidate
    from wanrt.machine.devices import DeviceRates

__all__ = ["FakeEngine", "FakeTestbed", "Script"]

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


@dataclass(frozen=True)
class Script:
    """What happens in a fake bench; engines go by their manifests' names.

    `forward_s` is cycled through, of a swappable engine by "NAME ADAPTER". `enqueue_s` is the
    host's share of every forward on a GPU. `interrupt_at` is the forward at which Ctrl-C comes.
    """

    forward_s: Mapping[str, Sequence[float]] = field(default_factory=dict)
    enqueue_s: Mapping[str, float] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    failing: Mapping[str, str] = field(default_factory=dict)
    failing_probes: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    available_bytes: int | None = 1 << 40
    load_s: float = 0.0
    rivals: Sequence[str] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    interrupt_at: int | None = None
    watts: float | None = None


@dataclass
class FakeTestbed:
    """A machine whose clock only its engines move."""

    script: Script
    clock: float = 0.0
    forwards: count[int] = field(default_factory=lambda: count(1))
    times: dict[str, cycle[float]] = field(default_factory=dict)

    def check(self, folder: EngineFolder, reporter: Reporter) -> None:  # noqa: ARG002
        """Raise as the script says, or if files aren't as recorded."""
        check_sizes(folder.path, folder.manifest)
        if folder.manifest.name in self.script.unsupported:
            raise UnsupportedError(self.script.unsupported[folder.manifest.name])

    def check_rival(self, name: str) -> None:
        """Raise unless the script knows the rival."""
        if name not in self.script.rivals:
            raise ResultsError(f"there is no rival {name}")

    def load(self, candidate: Candidate, workload: str, seed: int) -> FakeEngine:  # noqa: ARG002
        """Return an engine that follows the script."""
        self.clock += self.script.load_s
        return FakeEngine(self, candidate.rival or candidate.manifest.name)

    def probe(
        self,
        candidate: Candidate,
        baseline: Candidate | None,
        workload: str,  # noqa: ARG002 (the protocol's)
        seed: int,  # noqa: ARG002
    ) -> Probe:
        """Return what the script says, and the sizes that the manifests say."""
        if candidate.manifest.name in self.script.failing_probes:
            raise EngineError(self.script.failing_probes[candidate.manifest.name])
        weights = {file.sha256: file.bytes for file in candidate.manifest.weights}
        held = {file.sha256 for file in baseline.manifest.weights} if baseline else set()
        return Probe(
            warm_load_s=self.script.load_s,
            memory_bytes=self.script.memory_bytes.get(candidate.manifest.name),
            disk_bytes=sum(file.bytes for file in candidate.manifest.files),
            shared_bytes=sum(size for sha256, size in weights.items() if sha256 in held),
        )

    def now(self) -> float:
        """Return the seconds that all loads and forwards took until now."""
        return self.clock

    def available_bytes(self) -> int | None:
        """Return what the script says."""
        return self.script.available_bytes

    def clocks(self) -> Clocks | None:
        """Return nothing: there is no GPU."""
        return None

    def energy_j(self) -> float | None:
        """Return what the scripted watts came to by now, or nothing."""
        return None if self.script.watts is None else self.script.watts * self.clock

    def describe(self, rivals: bool = False) -> Machine:
        """Return a machine that doesn't exist."""
        versions = {"torch": "4.5.6"} if rivals else {}
        return replace(MACHINE, **(versions | dict(self.script.machine)))

    def rates(self, dtype: Dtype) -> DeviceRates | None:  # noqa: ARG002 (the protocol's)
        """Return nothing: nothing is computed."""
        return None

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
    """An engine that computes nothing; `wanrt.engine.engine.Runner` is its contract."""

    def __init__(self, testbed: FakeTestbed, name: str) -> None:
        self._testbed = testbed
        self._name = name
        self._adapter: str | None = None

    @property
    def timed(self) -> str:
        """What `time_forward` measures."""
        return "a scripted clock, nothing is run"

    @property
    def enqueue_s(self) -> float | None:
        """What the script says, the same for every forward."""
        return self._testbed.script.enqueue_s.get(self._name)

    def swap(self, adapter: AdapterArgument) -> None:
        """Change to another row of the script."""
        self._adapter = "+".join(path.stem for path, _ in list_adapters(adapter)) or None

    def time_forward(self) -> float:
        """Return the next scripted time."""
        if self._name in self._testbed.script.failing:
            raise EngineError(self._testbed.script.failing[self._name])
        return self._testbed.spend(self._name, self._adapter)

    def close(self) -> None:
        """Do nothing."""
