"""Machines that never were: drifting, throttled, noisy, and different at every load of an engine.

A forward of a candidate takes base x load effect x drift x throttling x AR(1) noise, and now and
then it is an outlier. `SimulatedTestbed` is a bench's world made of that, on a clock of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from faketestbed import MACHINE

from wanrt.bench.candidates import Candidate
from wanrt.engine.stack import AdapterArgument
from wanrt.machine.describe import Machine
from wanrt.machine.devices import DeviceRates
from wanrt.machine.nvml import Clocks
from wanrt.manifest.fields import Dtype
from wanrt.manifest.folder import EngineFolder
from wanrt.results.values import Probe
from wanrt.terminal.progress import Reporter

CHUNK = 4096


@dataclass(frozen=True)
class Weather:
    """What disturbs a machine; times in seconds, spreads as standard deviations of a logarithm."""

    noise: float = 0.01
    correlation: float = 0.7
    outliers: float = 0.02
    outlier_low: float = 0.05
    outlier_high: float = 0.40
    drift: float = 0.03
    drift_s: float = 3000.0
    throttled_every_s: float = 60.0
    throttled_s: float = 5.0
    throttled_by: float = 0.05
    load_effect: float = 0.003


@dataclass
class SimulatedTestbed:
    """A bench's world: engines of a true speed on a machine of some weather.

    `true_s` is an engine's forward by name; others take one second. `load_effects` are those of
    engines that vary more from load to load than the weather says. Loading takes `load_s`.
    """

    seed: int
    true_s: Mapping[str, float] = field(default_factory=dict)
    weather: Weather = field(default_factory=Weather)
    load_effects: Mapping[str, float] = field(default_factory=dict)
    load_s: float = 5.0
    clock: float = 0.0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._phase = float(self._rng.uniform(0, self.weather.throttled_every_s))
        self._direction = float(self._rng.choice([-1, 1]))
        self._noise = 0.0
        self._drawn: list[tuple[float, float]] = []

    def check(self, folder: EngineFolder, reporter: Reporter) -> None:
        pass

    def check_rival(self, name: str) -> None:
        raise AssertionError(name)

    def load(self, candidate: Candidate, workload: str, seed: int) -> SimulatedEngine:  # noqa: ARG002
        return self.load_named(candidate.manifest.name)

    def load_named(self, name: str) -> SimulatedEngine:
        """Load an engine: as fast as it truly is, times what this load happens to be."""
        self.clock += self.load_s
        spread = self.load_effects.get(name, self.weather.load_effect)
        effect = float(self._rng.normal(0, spread))
        return SimulatedEngine(self, self.true_s.get(name, 1.0) * math.exp(effect))

    def probe(self, *_: object) -> Probe:
        return Probe()

    def now(self) -> float:
        return self.clock

    def available_bytes(self) -> int | None:
        return 1 << 50

    def clocks(self) -> Clocks | None:
        return None

    def energy_j(self) -> float | None:
        return None

    def describe(self, rivals: bool = False) -> Machine:  # noqa: ARG002
        return MACHINE

    def rates(self, dtype: Dtype) -> DeviceRates | None:  # noqa: ARG002
        return None

    def spend(self, seconds: float) -> float:
        """Return what a forward of so many seconds takes here and now, and let that pass."""
        w = self.weather
        if not self._drawn:
            spread = w.noise * math.sqrt(1 - w.correlation**2)
            shocks = self._rng.normal(0, spread, CHUNK)
            wild = np.where(
                self._rng.random(CHUNK) < w.outliers,
                np.log1p(self._rng.uniform(w.outlier_low, w.outlier_high, CHUNK)),
                0.0,
            )
            self._drawn = list(zip(shocks.tolist(), wild.tolist(), strict=True))
        shock, wild_one = self._drawn.pop()
        self._noise = w.correlation * self._noise + shock
        slowdown = self._noise + wild_one + self._direction * w.drift * self.clock / w.drift_s
        if (self.clock + self._phase) % w.throttled_every_s < w.throttled_s:
            slowdown += math.log1p(w.throttled_by)
        taken = seconds * math.exp(slowdown)
        self.clock += taken
        return taken


class SimulatedEngine:
    """A load of an engine: as fast as that load happens to be."""

    def __init__(self, testbed: SimulatedTestbed, seconds: float) -> None:
        self._testbed = testbed
        self._seconds = seconds

    timed, enqueue_s = "a simulated clock", None

    def swap(self, adapter: AdapterArgument) -> None:
        pass

    def time_forward(self) -> float:
        return self._testbed.spend(self._seconds)

    def close(self) -> None:
        pass
