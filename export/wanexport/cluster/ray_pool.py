"""The cards of a Ray cluster. The only module that imports Ray, when a pool is opened.

Ray reserves GPUs and says when a machine is gone; which card a unit needs, NVML says: Ray calls
SXM, PCIe and NVL cards by one name. One actor per card starts a supervisor there and passes on what
it says, and a process under Ray gets an environment as it would have without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from wanexport.cluster.local_pool import start_supervisor
from wanexport.cluster.machine import ClusterMachine, describe_this
from wanexport.cluster.run import PoolEvent
from wanexport.cluster.supervise import Job, read_event
from wanexport.cluster.unit import Card
from wanexport.errors import ConfigError
from wanrt.errors import install_hint

__all__ = ["RayPool", "open_ray"]

OBJECT_STORE_BYTES = 100 << 20  # Ray takes 30 % of the memory by default; lines of text need little
LOOK_S = 3.0
RESERVE_S = 60.0  # for a card that another job of the cluster may have


class CardActor:
    """Runs one job after another on one card, in a worker of Ray's."""

    def find_gpu(self) -> str:
        """Return Ray's name of the GPU that it gave: its place in the driver's list, or UUID."""
        import ray

        return str(ray.get_runtime_context().get_accelerator_ids()["GPU"][0])

    def run(self, job: Job, gpu: str | None) -> Iterator[str]:
        """Yield a supervisor's lines until its job has ended."""
        with start_supervisor(job, gpu) as supervisor:
            assert supervisor.stdout is not None
            for line in supervisor.stdout:
                yield line.decode()


@contextmanager
def open_ray(address: str, folder: Path) -> Iterator[RayPool]:
    """Connect to a Ray cluster, or start one on this machine, for as long as the context lasts.

    Args:
        address: of the cluster's head, HOST:PORT; `auto` for the one that runs here, `local` for a
            new one of this machine alone.
        folder: the study's, on a path that all machines share.

    Raises:
        ConfigError: Ray isn't installed, or there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("ray isn't installed", install_hint("ray")) from None
    local = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address, log_to_driver=False, logging_level="error",
            **(local if address == "local" else {}),
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"no Ray cluster can be reached at {address}: {first}",
            "start one: ray start --head, and on the other machines ray start --address HOST:6379",
        ) from None
    try:
        yield RayPool(ray, folder.absolute())
    finally:
        ray.shutdown()


@dataclass
class RayPool:
    """A Ray cluster's cards; `wanexport.cluster.run.Pool` is its contract."""

    ray: ModuleType
    folder: Path
    _seen: set[str] = field(default_factory=set)
    _nodes: dict[str, str] = field(default_factory=dict)
    _actors: dict[Card, Any] = field(default_factory=dict)
    _streams: dict[Any, Card] = field(default_factory=dict)
    _looked: float = float("-inf")

    def find_new(self) -> list[ClusterMachine]:
        """Describe the nodes that joined since the last look."""
        if time.monotonic() - self._looked < LOOK_S:
            return []
        self._looked = time.monotonic()
        nodes = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        new = {name: node for name, node in nodes.items() if name not in self._seen}
        self._seen |= new.keys()
        describe = self.ray.remote(describe_this)
        asked = {
            name: describe.options(num_cpus=0, max_retries=0, **self._on(name)).remote(
                str(self.folder)
            )
            for name in new
        }
        machines = []
        for name, reference in asked.items():
            with suppress(self.ray.exceptions.RayError):  # it is gone again, and may come back
                machine = self.ray.get(reference)
                # Ray's nodes on one host are told apart by their ids
                machine = replace(machine, host=f"{machine.host} ({name[:6]})")
                self._nodes[machine.host] = name
                machines.append(machine)
        return machines

    def open(self, machine: ClusterMachine) -> list[Card]:
        """Start an actor for the processor, and one for each GPU that Ray has free there."""
        name = self._nodes[machine.host]
        total = next(n["Resources"] for n in self.ray.nodes() if n["NodeID"] == name)
        actor = self.ray.remote(CardActor)
        where = self._on(name)
        cards = [machine.processor]
        if machine.processor in self._actors:
            cards = []
        else:
            self._actors[machine.processor] = actor.options(num_cpus=0, **where).remote()
        reserved = [
            actor.options(num_cpus=0, num_gpus=1, **where).remote()
            for _ in range(int(total.get("GPU", 0)))
        ]
        asked = {one.find_gpu.remote(): one for one in reserved}
        ready, late = (
            self.ray.wait(list(asked), num_returns=len(asked), timeout=RESERVE_S)
            if asked
            else ([], [])
        )
        for reference in late:  # another job of the cluster has it
            self.ray.kill(asked[reference])
        for reference in ready:
            card = _find_card(machine, self.ray.get(reference))
            if card is not None:
                self._actors[card] = asked[reference]
                cards.append(card)
        return cards

    def start(self, card: Card, job: Job) -> None:
        """Start a job on a card that is free."""
        run = self._actors[card].run.options(num_returns="streaming")
        self._streams[run.remote(job, None if card.processor else card.id)] = card

    def wait(self, seconds: float) -> list[PoolEvent]:
        """Return a line of each card that has one."""
        if not self._streams:
            time.sleep(min(seconds, LOOK_S))
            return []
        streams = list(self._streams)
        ready, _ = self.ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = self.ray.wait(streams, num_returns=1, timeout=seconds, fetch_local=False)
        return [event for stream in ready for event in self._next(stream)]

    def _next(self, stream: Any) -> list[PoolEvent]:
        card = self._streams[stream]
        try:
            event = read_event(self.ray.get(next(stream)))
        except StopIteration:  # the supervisor ended without a last word: it was killed
            del self._streams[stream]
            return [PoolEvent(card, "lost", "its supervisor was killed")]
        except self.ray.exceptions.RayError as error:  # a dead node's actor is first unavailable
            del self._streams[stream]
            return [PoolEvent(card, "lost", f"{type(error).__name__}: {error}".splitlines()[0])]
        if event.kind not in ("line", "beat"):
            del self._streams[stream]
        return [PoolEvent(card, event)]

    def drop(self, card: Card) -> None:
        """Kill the card's actor; its supervisor then ends what it runs."""
        actor = self._actors.pop(card, None)
        if actor is not None:
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(actor)
        self._streams = {s: c for s, c in self._streams.items() if c != card}

    def _on(self, node: str) -> dict[str, object]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _find_card(machine: ClusterMachine, gpu: str) -> Card | None:
    """Return the card that Ray calls by its place in the driver's list, or by its UUID."""
    if gpu.isdecimal():
        return machine.gpus[int(gpu)] if int(gpu) < len(machine.gpus) else None
    return next((card for card in machine.gpus if card.id.startswith(gpu)), None)
