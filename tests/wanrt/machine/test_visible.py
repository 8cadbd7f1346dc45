"""Which GPU is looked at, by a made-up driver: NVML as a module, nvidia-smi as a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from wanrt.machine import nvml
from wanrt.machine.describe import describe_machine
from wanrt.machine.nvml import (
    Clocks,
    free_gpu_bytes,
    gpu_processes,
    gpu_utilisation,
    read_clocks,
    read_energy,
)

UUIDS = ("GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000")
SAME = ("Fake H100",) * 3
MIXED = ("Fake A2", "Fake H100", "Fake H100")


class FakeError(Exception):
    """What the library raises."""


class FakeNvml:
    """Three GPUs; the n-th has n + 1 bytes free, is n + 1 % busy and runs at n + 1 MHz."""

    NVML_CLOCK_SM = 1
    NVMLError = FakeError

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def nvmlInit(self) -> None:  # noqa: N802
        if not self._names:
            raise FakeError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._names)

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:  # noqa: N802
        return place

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return UUIDS[handle]

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return self._names[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(free=handle + 1)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=handle + 1)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=-handle - 1)]

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        assert kind == self.NVML_CLOCK_SM
        return handle + 1

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        if handle == 2:
            raise FakeError("not supported")
        return 1500 * handle

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:  # noqa: N802
        if handle == 2:
            raise FakeError("not supported")
        return 0x4 | 0x1


class Driver:
    """The fake driver, to be given GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch = monkeypatch
        self._command = folder / "nvidia-smi"
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    def has(self, names: tuple[str, ...], **environment: str) -> None:
        self._patch.setitem(sys.modules, "pynvml", FakeNvml(names))
        pairs = zip(UUIDS, names, strict=False)
        limits = ("700.00", "[N/A]", "350.00")
        lines = "\n".join(
            f"{uuid}, {name}, 580.{i}, {limits[i]}" for i, (uuid, name) in enumerate(pairs)
        )
        self._command.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        self._command.chmod(0o755)
        for key, value in environment.items():
            self._patch.setenv(key, value)
        nvml._open.cache_clear()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Driver]:
    yield Driver(monkeypatch, tmp_path)
    nvml._open.cache_clear()


# CUDA_VISIBLE_DEVICES -> which of three equal GPUs
VISIBLE = {
    "0": 0, "1": 1, " 2 ,0": 2, "2,1": 2,
    "3": None, "-1": None, "": None, "NoDevFiles": None,
    UUIDS[1]: 1, "GPU-bbbb": 2, "GPU-aaaa2,0": 1,
    "GPU-aaaa": None, "GPU-cccc": None,
    "MIG-GPU-aaaa1111-0000/1/0": None, "MIG-12345678": None,
}  # fmt: skip


@pytest.mark.parametrize("visible", VISIBLE)
def test_the_gpu_is_cuda_s_first_visible_one(driver: Driver, visible: str) -> None:
    driver.has(SAME, CUDA_VISIBLE_DEVICES=visible)
    place = VISIBLE[visible]
    assert free_gpu_bytes() == (None if place is None else place + 1)
    machine = describe_machine("cuda", None)
    assert machine.gpu == ("unknown GPU" if place is None else "Fake H100")
    assert machine.driver == f"580.{place or 0}"


def test_all_facts_are_the_same_gpu_s(driver: Driver) -> None:
    driver.has(SAME, CUDA_VISIBLE_DEVICES="1")
    assert gpu_processes() == (-2,)
    assert gpu_utilisation() == 0.02
    assert read_clocks() == Clocks(2, 2, ("power cap",))
    machine = describe_machine("cuda", None)
    assert (machine.gpu_processes, machine.gpu_utilisation) == ((-2,), 0.02)
    assert (machine.gpu_uuid, machine.gpu_power_limit_w) == (UUIDS[1], None)
    driver.has(SAME, CUDA_VISIBLE_DEVICES="2")
    assert describe_machine("cuda", None).gpu_power_limit_w == 350.0


def test_without_the_variable_it_is_the_first(driver: Driver) -> None:
    driver.has(SAME)
    assert free_gpu_bytes() == 1


def test_among_several_models_an_index_needs_the_order_of_buses(driver: Driver) -> None:
    driver.has(MIXED, CUDA_VISIBLE_DEVICES="1")
    assert free_gpu_bytes() is None
    assert describe_machine("cuda", None).gpu == "unknown GPU"
    driver.has(MIXED, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert free_gpu_bytes() == 2
    assert describe_machine("cuda", None).gpu == "Fake H100"
    driver.has(MIXED, CUDA_DEVICE_ORDER="FASTEST_FIRST", CUDA_VISIBLE_DEVICES=UUIDS[0])
    assert describe_machine("cuda", None).gpu == "Fake A2"


def test_what_the_driver_does_not_tell_is_unknown(driver: Driver) -> None:
    driver.has(SAME, CUDA_VISIBLE_DEVICES="2")
    assert free_gpu_bytes() == 3
    assert read_clocks() is None
    driver.has(())
    assert (free_gpu_bytes(), gpu_processes(), gpu_utilisation(), read_clocks()) == (
        None, (), None, None,
    )  # fmt: skip
    assert describe_machine("cuda", None).driver == "unknown"


def test_a_cpu_s_machine_has_no_gpu(driver: Driver) -> None:
    driver.has(SAME)
    machine = describe_machine("cpu", None)
    assert (machine.gpu, machine.driver, machine.gpu_utilisation) == (None, None, None)


@pytest.mark.parametrize(("visible", "joules"), [("1", 1.5), ("2", None), ("-1", None)])
def test_energy_is_in_joules_where_it_is_counted(
    driver: Driver, visible: str, joules: float | None
) -> None:
    driver.has(SAME, CUDA_VISIBLE_DEVICES=visible)
    assert read_energy() == joules
