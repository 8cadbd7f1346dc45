"""A Ray cluster of several nodes on this machine, whose GPUs are scripted, and drivers of it.

Each node finds its own nvidia-smi and NVML before the real ones. Run as a program it is a driver:
`raycluster.py ADDRESS FOLDER UNITS.json [NAME=VERSION]...`; as `raycluster.py cell ...` a unit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["RayCluster", "cell", "drive", "start_driver", "wait_for"]

RAY = str(Path(sys.executable).with_name("ray"))
SMI = """#!/bin/sh
case "$*" in
*mig.mode*) printf '%s' "$FAKE_CARDS" ;;
*driver_version*) printf '%s' "$FAKE_DRIVER" ;;
*) exit 1 ;;
esac
"""
NVML = """
class NVMLError(Exception):
    pass
def nvmlInit():
    raise NVMLError("not here")
"""
H100 = "NVIDIA H100 80GB HBM3"


@dataclass
class RayCluster:
    """A head and other nodes, each a process group of its own."""

    place: Path
    address: str = ""
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self, *uuids: str, driver: str = "580.1", name: str = H100) -> subprocess.Popen[bytes]:
        """Start a node with some GPUs; the first one is the head."""
        bin_, lib = self.place / "bin", self.place / "lib"
        for folder, file, text in ((bin_, "nvidia-smi", SMI), (lib, "pynvml.py", NVML)):
            folder.mkdir(exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
            (folder / file).chmod(0o755)
        environment = os.environ | {
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PYTHONPATH": str(lib),
            "FAKE_CARDS": "".join(f"{u}, {name}, 81559, 700.00, Disabled\n" for u in uuids),
            "FAKE_DRIVER": "".join(f"{u}, {name}, {driver}, 700.00\n" for u in uuids),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        port = 20000 + os.getpid() % 20000
        first = not self.nodes
        head = ["--head", f"--port={port}", "--include-dashboard=false", "--temp-dir=/tmp/wr-ray"]
        where = head if first else [f"--address={self.address}"]
        self.address = self.address or f"127.0.0.1:{port}"
        argv = [RAY, "start", *where, "--block", "--num-cpus=1", f"--num-gpus={len(uuids)}",
                "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]  # fmt: skip
        with (self.place / f"node{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.nodes.append(node)
        started = self.place / f"node{len(self.nodes) - 1}.log"
        while "Ray runtime started" not in started.read_text(encoding="utf-8"):
            assert node.poll() is None, started.read_text(encoding="utf-8")
            time.sleep(0.1)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill all processes of a node at once."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        """Kill what is left."""
        for node in self.nodes:
            if node.poll() is None:
                self.kill(node)


def cell(folder: Path, name: str, seconds: float, **more: object) -> dict[str, object]:
    """Return a unit, as JSON, whose process saves its partial file every 0.2 s."""
    partial = folder / f".{name}@{{card}}.part"
    argv = [sys.executable, __file__, "cell", str(partial), str(seconds), "{card}"]
    kind = {"name": H100, "memory_gib": 80, "power_limit_w": 700}
    return {
        "name": name, "kind": "bench", "argv": argv, "partial": str(partial), "on": kind,
        "done": str(folder / f"{name}@{{card}}.json"), "resume": ["--resume"],
    } | more  # fmt: skip


def start_driver(
    cluster: RayCluster, folder: Path, units: list[dict[str, object]], *pins: str
) -> subprocess.Popen[str]:
    """Start a driver as a process of its own."""
    given = folder / "units.json"
    given.write_text(json.dumps(units), encoding="utf-8")
    argv = [sys.executable, __file__, cluster.address, str(folder), str(given), *pins]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def drive(cluster: RayCluster, folder: Path, units: list[dict[str, object]], *pins: str) -> str:
    """Run a driver to its end and return what it printed."""
    driver = start_driver(cluster, folder, units, *pins)
    out, _ = driver.communicate(timeout=240)
    return out


def wait_for(driver: subprocess.Popen[str], words: str) -> str:
    """Read what a driver prints up to a line with some words."""
    assert driver.stdout is not None
    read = ""
    for line in driver.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"never said {words!r}: {read}")


def _work(partial: Path, seconds: float, card: str, *flags: str) -> None:
    """Count in the partial file; on a card that is stuck do nothing, with a child that does."""
    count = int(partial.read_text()) if "--resume" in flags else 0
    sys.stderr.write(f"begins at {count}\n")
    sys.stderr.flush()
    if card.startswith("GPU-stuck"):
        child = subprocess.Popen(["sleep", "600"])
        (partial.parent / "stuck.pid").write_text(str(child.pid))
        signal.pause()
    if card.startswith("GPU-bad"):
        sys.exit("error: this engine can't be loaded")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        count += 1
        partial.with_suffix(".new").write_text(str(count))
        partial.with_suffix(".new").replace(partial)
        time.sleep(0.2)


def _drive(address: str, folder: str, given: str, *pins: str) -> None:
    from wanexport.cluster.ray_pool import open_ray
    from wanexport.cluster.run import run_units
    from wanexport.cluster.unit import CardKind, Unit

    units = []
    for one in json.loads(Path(given).read_text(encoding="utf-8")):
        for name in ("argv", "resume", "after"):
            one[name] = tuple(one.get(name, ()))
        one["on"] = CardKind(**one["on"]) if one.get("on") else None
        one |= {name: Path(one[name]) for name in ("done", "partial") if one.get(name)}
        units.append(Unit(**one))
    start = time.monotonic()
    with open_ray(address, Path(folder)) as pool:

        def log(text: str) -> None:
            sys.stdout.write(f"{time.monotonic() - start:.2f} {text}\n")
            sys.stdout.flush()

        outcomes = run_units(
            units, pool, Path(folder) / "cluster", pinned=dict(p.split("=") for p in pins), log=log
        )
    found = sorted((o.unit, o.status, o.reason) for o in outcomes)
    sys.stdout.write(f"outcomes {found}\n")


if __name__ == "__main__":
    if sys.argv[1] == "cell":
        _work(Path(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
    else:
        _drive(*sys.argv[1:])
