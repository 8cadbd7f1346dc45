"""Devices by name: what each computes and moves per second at most, from `devices.toml`."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wanrt.errors import WanrtError
from wanrt.manifest.fields import Dtype
from wanrt.storage.regular import TOML_BYTES, read_regular_text

__all__ = ["CPU", "DeviceRates", "find_device", "load_devices", "recognise_device"]

CPU = "cpu"  # names this machine's, whose rates wanrt.machine.cpu_rates measures
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class DeviceError(WanrtError):
    """There is no such device, or devices.toml can't be used as it is."""


class DeviceRates(BaseModel):
    """A device's rates: dense, as its maker gives them, or measured.

    `tflops` holds the dtypes that it computes in, in 10^12 flop/s. `names` are patterns of what the
    driver calls it. `bandwidth_gb_s` and `memory_gb` count 10^9 bytes. `compute_capability` is
    NVIDIA's, as 12.0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Text
    full_name: Text
    names: Annotated[tuple[Text, ...], Field(strict=False)] = ()  # TOML knows only lists
    tflops: Annotated[dict[Dtype, Positive], Field(min_length=1)]
    bandwidth_gb_s: Positive
    memory_gb: Positive
    source: Text
    url: str = ""
    compute_capability: Text | None = None


def devices_file() -> Path:
    """Return devices.toml, of a wheel or of a checkout."""
    packaged = Path(__file__).parents[1] / "devices.toml"
    return packaged if packaged.is_file() else Path(__file__).parents[3] / "configs/devices.toml"


def load_devices(path: Path | None = None) -> dict[str, DeviceRates]:
    """Read devices by name, in the file's order.

    Raises:
        DeviceError: the file can't be read, isn't TOML, or a device's values are wrong.
    """
    path = path or devices_file()
    try:
        raw = tomllib.loads(read_regular_text(path, TOML_BYTES))
    except OSError as error:
        raise DeviceError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError
        raise DeviceError(f"{path} is not TOML: {error}") from None
    return {name: _parse(name, table, path) for name, table in raw.items()}


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


def _parse(name: str, table: object, path: Path) -> DeviceRates:
    if not isinstance(table, dict):
        raise DeviceError(f"{path}: {name}: is {table!r}; it should be a table")
    if "name" in table:
        raise DeviceError(f"{path}: {name}.name: unknown key", "the table's own name is the name")
    try:
        return DeviceRates.model_validate({"name": name, **table})
    except ValidationError as error:
        # a misspelt key is also a missing one; the misspelling says more
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    place = ".".join([name, *(str(part) for part in first["loc"] if part != "[key]")])
    if first["type"] == "extra_forbidden":
        known = ", ".join(key for key in DeviceRates.model_fields if key != "name")
        raise DeviceError(f"{path}: {place}: unknown key", f"known: {known}")
    if first["type"] == "missing":
        raise DeviceError(f"{path}: {place}: missing key")
    wanted = first["msg"].removeprefix("Input should be ")
    raise DeviceError(f"{path}: {place}: is {first['input']!r}; it should be {wanted}")
