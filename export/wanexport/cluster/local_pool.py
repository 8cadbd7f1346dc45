"""This machine's processor and GPUs as a pool of cards, without Ray."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wanexport.cluster.machine import ClusterMachine, describe_this
from wanexport.cluster.run import PoolEvent
from wanexport.cluster.supervise import Job, read_event
from wanexport.cluster.unit import Card
from wanrt.machine.cores import usable_cores

__all__ = ["LocalPool", "open_local", "start_supervisor"]

BLOCK = 1 << 16


def start_supervisor(job: Job, gpu: str | None) -> subprocess.Popen[bytes]:
    """Start a supervisor of a job, which says what happens in lines of its output.

    It ends the job once its input closes.

    Args:
        job: what to run.
        gpu: the UUID of the only one that the job is to see; None for none.
    """
    environment = os.environ | {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": gpu or "",
        "OMP_NUM_THREADS": str(usable_cores()),  # Ray says 1
    }
    supervisor = subprocess.Popen(
        [sys.executable, "-P", "-m", "wanexport.cluster.supervise"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert supervisor.stdin is not None
    supervisor.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
    supervisor.stdin.flush()
    return supervisor


@contextmanager
def open_local(folder: Path) -> Iterator[LocalPool]:
    """Use this machine's cards for as long as the context lasts; what runs then is ended."""
    pool = LocalPool(folder.absolute())
    try:
        yield pool
    finally:
        for card in list(pool.running):
            pool.drop(card)


@dataclass
class LocalPool:
    """This machine's cards; `wanexport.cluster.run.Pool` is its contract."""

    folder: Path
    running: dict[Card, subprocess.Popen[bytes]] = field(default_factory=dict)
    _said: dict[Card, bytes] = field(default_factory=dict)
    _known: bool = False

    def find_new(self) -> list[ClusterMachine]:
        """Describe this machine, once."""
        found = [] if self._known else [describe_this(str(self.folder))]
        self._known = True
        return found

    def open(self, machine: ClusterMachine) -> list[Card]:
        """Return the processor and all GPUs."""
        return [machine.processor, *machine.gpus]

    def start(self, card: Card, job: Job) -> None:
        """Start a job on a card that is free."""
        self.running[card] = start_supervisor(job, None if card.processor else card.id)
        self._said[card] = b""

    def wait(self, seconds: float) -> list[PoolEvent]:
        """Return what the supervisors have said, at the latest after some time."""
        if not self.running:
            time.sleep(min(seconds, 0.05))
            return []
        with selectors.DefaultSelector() as selector:
            for card, supervisor in self.running.items():
                assert supervisor.stdout is not None
                selector.register(supervisor.stdout, selectors.EVENT_READ, card)
            ready = [key.data for key, _ in selector.select(seconds)]
        return [event for card in ready for event in self._read(card)]

    def _read(self, card: Card) -> list[PoolEvent]:
        supervisor = self.running[card]
        assert supervisor.stdout is not None
        read = os.read(supervisor.stdout.fileno(), BLOCK)
        if not read:  # it ended without a last word
            self._forget(card)
            return [PoolEvent(card, "lost", "its supervisor was killed")]
        *lines, self._said[card] = (self._said[card] + read).split(b"\n")
        events = [read_event(line.decode()) for line in lines]
        if any(event.kind not in ("line", "beat") for event in events):
            self._forget(card)
        return [PoolEvent(card, event) for event in events]

    def drop(self, card: Card) -> None:
        """End what runs on the card, and wait until it has."""
        supervisor = self.running.get(card)
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.close()
        while supervisor.stdout.read(BLOCK):
            pass
        self._forget(card)

    def _forget(self, card: Card) -> None:
        supervisor = self.running.pop(card)
        del self._said[card]
        for stream in (supervisor.stdin, supervisor.stdout):
            assert stream is not None
            stream.close()
        supervisor.wait()
