"""Devices by name: what each computes and moves per second at most, from `devices.toml`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from wanrt.errors import WanrtError
from wanrt.manifest.fields import Dtype
from wanrt.storage.tables import read_tables, shipped_file

__all__ = ["CPU", "DeviceRates", "Link", "find_device", "load_devices", "recognise_device"]

CPU = "cpu"  # names this machine's, whose rates wanrt.machine.cpu_rates measures
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class DeviceError(WanrtError):
    """There is no such device, or devices.toml can't be used as it is."""


class Link(BaseModel):
    """What cards of one host exchange over: 10^9 bytes a second in each direction."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Text
    gb_s: Positive


class DeviceRates(BaseModel):
    """A device's rates: dense, as its maker gives them, or measured.

    `tflops` holds the dtypes that it computes in, in 10^12 flop/s. `names` are patterns of what the
    driver calls it. `bandwidth_gb_s` and `memory_gb` count 10^9 bytes. `compute_capability` is
    NVIDIA's, as 12.0. `link` is None where cards of the kind can't exchange, or aren't known to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Text
    full_name: Text
    names: Annotated[tuple[Text, ...], Field(strict=False)] = ()  # TOML knows only lists
    tflops: Annotated[dict[Dtype, Positive], Field(min_length=1)]
    bandwidth_gb_s: Positive
    memory_gb: Positive
    link: Link | None = None
    source: Text
    url: str = ""
    compute_capability: Text | None = None


def devices_file() -> Path:
    """Return devices.toml, of a wheel or of a checkout."""
    return shipped_file("devices.toml")


def load_devices(path: Path | None = None) -> dict[str, DeviceRates]:
    """Read devices by name, in the file's order.

    Raises:
        DeviceError: the file can't be read, isn't TOML, or a device's values are wrong.
    """
    return read_tables(path or devices_file(), DeviceRates, DeviceError)


def find_device(name: str, devices: Mapping[str, DeviceRates]) -> DeviceRates:
    """Return a device by name; case, spaces and dashes don't matter.

    Raises:
        DeviceError: there is none of that name.
    """
    known = {_plain(device): device for device in devices}
    if _plain(name) in known:
        return devices[known[_plain(name)]]
    near = difflib.get_close_matches(_plain(name), list(known), n=2)
    hint = " or ".join(repr(known[plain]) for plain in near)
    raise DeviceError(
        f"there is no device {name!r}",
        f"did you mean {hint}?" if hint else f"known: {', '.join([*devices, CPU])}",
    )


def recognise_device(reported: str, devices: Mapping[str, DeviceRates]) -> DeviceRates | None:
    """Return the device that a driver reports under a name, or None."""
    for device in devices.values():
        if any(fnmatchcase(reported, pattern) for pattern in device.names):
            return device
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()
