"""One machine of a cluster: its cards as NVML has them, its versions, and whose versions count."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

import wanexport
import wanrt
from wanexport.cluster.unit import Card, CardKind
from wanexport.errors import ConfigError
from wanexport.storage.source_hash import hash_packages
from wanrt.machine.describe import describe_machine, processor_name
from wanrt.machine.smi import query_gpus

__all__ = ["ClusterMachine", "choose_versions", "describe_this", "find_differences"]

FIELDS = ("uuid", "name", "memory.total", "power.limit", "mig.mode.current")
VERSIONS = ("driver", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch", "wanrt", "python")
UNKNOWN = {"None", "none", "unknown"}


@dataclass(frozen=True)
class ClusterMachine:
    """What a machine says of itself; `shared` is whether it sees the study's folder."""

    host: str
    versions: dict[str, str]
    processor: Card
    gpus: tuple[Card, ...]
    shared: bool


def describe_this(folder: str) -> ClusterMachine:
    """Describe the machine that this runs on.

    Args:
        folder: the study's, which it must see at the same path.
    """
    host = platform.node()
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    facts = vars(describe_machine("cuda", None, rivals=True))
    versions = {name: str(facts[name]) for name in VERSIONS}
    versions["code"] = "+".join(
        hash_packages(Path(str(package.__file__)).parents[1], (package.__name__,))[:12]
        for package in (wanexport, wanrt)
    )
    return ClusterMachine(
        host=host,
        versions={name: what for name, what in versions.items() if what not in UNKNOWN},
        processor=Card(host, CardKind(processor_name(), memory_gib), host, processor=True),
        gpus=tuple(_list_gpus(host)),
        shared=Path(folder).is_dir(),
    )


def _list_gpus(host: str) -> list[Card]:
    """List the GPUs in the order of PCI buses; one cut into MIG instances keeps its place."""
    cards = []
    for uuid, name, memory, limit, mig in query_gpus(FIELDS) or []:
        watts = round(float(limit)) if limit.replace(".", "").isdecimal() else None
        gib = round(int(memory) / 1024) if memory.isdecimal() else None
        name += " cut by MIG" if mig == "Enabled" else ""
        cards.append(Card(uuid, CardKind(name, gib, watts), host))
    return cards


def choose_versions(
    machines: Sequence[ClusterMachine], pinned: Mapping[str, str]
) -> dict[str, str]:
    """Return the versions that count: of the largest group by cards among those that fit the pin.

    Raises:
        ConfigError: no machine has what is pinned.
    """
    fitting = [m for m in machines if all(m.versions.get(k) == v for k, v in pinned.items())]
    if not fitting:
        wish = ", ".join(f"{name} {what}" for name, what in pinned.items())
        raise ConfigError(f"no machine of the cluster has {wish}", "pin versions that one has")
    sizes: Counter[tuple[tuple[str, str], ...]] = Counter()
    for machine in fitting:
        group: tuple[tuple[str, str], ...] = tuple(sorted(machine.versions.items()))
        sizes[group] += 1000 * len(machine.gpus) + 1
    return dict(max(sizes.items(), key=lambda item: (item[1], item[0]))[0])


def find_differences(machine: ClusterMachine, versions: Mapping[str, str]) -> list[str]:
    """Say what a machine has in another version; what it hasn't installed doesn't count."""
    return [
        f"{name} {machine.versions[name]}, not {wanted}"
        for name, wanted in sorted(versions.items())
        if machine.versions.get(name, wanted) != wanted
    ]
