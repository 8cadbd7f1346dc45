"""What a bench takes from the world: engines, a clock, memory; tests have others."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from wanrt.backends.load import check_engine
from wanrt.backends.tensorrt.memory import Scratch
from wanrt.engine.engine import DeviceKind, Runner
from wanrt.machine.cores import available_bytes
from wanrt.machine.describe import Machine, describe_machine
from wanrt.machine.nvml import Clocks, free_gpu_bytes, read_clocks, read_energy
from wanrt.manifest.fields import Dtype
from wanrt.manifest.folder import EngineFolder
from wanrt.results.values import Probe
from wanrt.terminal.progress import Reporter

if TYPE_CHECKING:
    from wanrt.bench.candidates import Candidate
    from wanrt.bench.loading.jobs import LoadJob
    from wanrt.bench.options import BenchOptions
    from wanrt.machine.devices import DeviceRates

__all__ = ["Testbed", "ThisMachine", "make_testbed"]


class Testbed(Protocol):
    """Where a bench takes place."""

    def check(self, folder: EngineFolder, reporter: Reporter) -> None:
        """Raise unless this machine can load the engine."""

    def check_rival(self, name: str) -> None:
        """Raise if there is no rival of that name."""

    def load(self, candidate: Candidate, workload: str, seed: int) -> Runner:
        """Load an engine or a rival, its inputs bound."""

    def probe(
        self, candidate: Candidate, baseline: Candidate | None, workload: str, seed: int
    ) -> Probe:
        """Find out what a candidate takes, in a process of its own."""

    def now(self) -> float:
        """Return a clock in seconds."""

    def available_bytes(self) -> int | None:
        """Return the device memory that could still be taken, or None if it isn't known."""

    def clocks(self) -> Clocks | None:
        """Return the GPU's clocks right now, or None where there are none to read."""

    def energy_j(self) -> float | None:
        """Return a count of the joules that the GPU uses, or None where nothing counts them."""

    def describe(self, rivals: bool = False) -> Machine:
        """Return the machine and its versions, torch's too if there are rivals."""

    def rates(self, dtype: Dtype) -> DeviceRates | None:
        """Return what the device computes and moves per second at most, or None if unknown."""


@dataclass(frozen=True)
class ThisMachine:
    """This machine."""

    device: DeviceKind = "cpu"
    threads: int | None = None
    mapped: bool = False
    weight_streaming: int | None = None
    cuda_graph: bool = True
    scratch: Scratch = field(default_factory=Scratch)
    """For the activations of all TensorRT engines: a bench runs one at a time."""

    def check(self, folder: EngineFolder, reporter: Reporter) -> None:
        """Raise unless this machine can load the engine."""
        check_engine(folder, self.device, reporter=reporter)

    def check_rival(self, name: str) -> None:
        """Raise if there is no rival of that name."""
        from wanrt.bench.loading.jobs import find_rival

        find_rival(name)

    def load(self, candidate: Candidate, workload: str, seed: int) -> Runner:
        """Load an engine into this process, or a rival into one of its own."""
        from wanrt.bench.loading.jobs import load_job
        from wanrt.bench.loading.process import open_hosted

        job = self._job(candidate, workload, seed)
        return load_job(job, self.scratch) if candidate.rival is None else open_hosted(job)

    def probe(
        self, candidate: Candidate, baseline: Candidate | None, workload: str, seed: int
    ) -> Probe:
        """Find out what a candidate takes, in a process of its own."""
        from wanrt.bench.probe import probe_job

        return probe_job(
            self._job(candidate, workload, seed), baseline.engine if baseline else None
        )

    def now(self) -> float:
        """Return a monotonic clock in seconds."""
        return time.perf_counter()

    def available_bytes(self) -> int | None:
        """Return the device memory that could still be taken, or None if it isn't known."""
        return available_bytes() if self.device == "cpu" else free_gpu_bytes()

    def clocks(self) -> Clocks | None:
        """Return the GPU's clocks right now, or None where there are none to read."""
        return None if self.device == "cpu" else read_clocks()

    def energy_j(self) -> float | None:
        """Return a count of the joules that the GPU uses, or None where nothing counts them."""
        return None if self.device == "cpu" else read_energy()

    def describe(self, rivals: bool = False) -> Machine:
        """Return the machine and its versions, torch's too if there are rivals."""
        return describe_machine(self.device, self.threads, rivals)

    def rates(self, dtype: Dtype) -> DeviceRates | None:
        """Measure this CPU, or look the GPU up; None if devices.toml doesn't know it."""
        from wanrt.machine.cpu_rates import measure_cpu
        from wanrt.machine.devices import load_devices, recognise_device

        if self.device == "cpu":
            return None if dtype == "bf16" else measure_cpu(dtype, self.threads)
        return recognise_device(self.describe().gpu or "", load_devices())

    def _job(self, candidate: Candidate, workload: str, seed: int) -> LoadJob:
        from wanrt.bench.loading.jobs import LoadJob

        return LoadJob(
            engine=candidate.engine,
            workload=workload,
            device=self.device,
            threads=self.threads,
            mapped=self.mapped,
            weight_streaming=self.weight_streaming,
            cuda_graph=self.cuda_graph,
            seed=seed,
            rival=candidate.rival,
        )


def make_testbed(options: BenchOptions) -> ThisMachine:
    """Return this machine, for engines to be loaded as the options say."""
    return ThisMachine(
        options.device,
        options.threads,
        options.mapped,
        options.weight_streaming,
        options.cuda_graph,
    )
