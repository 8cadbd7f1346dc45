"""What engines of a model would cost, from its configuration alone: no checkpoint, no torch.

`build/resolve.py` resolves a build; this is `wanexport estimate`: parameters, bytes, flops, memory,
and how fast a forward could be on named devices. The formulas are `wanexport.model.formulas`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wanexport.build.request import BuildRequest
from wanexport.lora.targets import TARGET_SETS, choose_targets
from wanexport.model.cards import check_cards, count_card_flops, count_exchanged
from wanexport.model.formulas import (
    GraphName,
    Lora,
    count_adapter,
    count_bytes,
    count_flops,
    count_memory,
    count_parameters,
)
from wanexport.model.names import module_shapes
from wanexport.storage.dtypes import itemsize
from wanrt.machine.devices import CPU, DeviceRates, find_device, load_devices
from wanrt.machine.predict import Prediction, predict_forward
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Mode

__all__ = [
    "CardsOutlook",
    "Cost",
    "Outlook",
    "choose_devices",
    "predict_engines",
    "price_engines",
]

GRAPHS: tuple[GraphName, ...] = ("forward", "step", "context")


@dataclass(frozen=True)
class Cost:
    """What one engine holds, and what running each of its graphs takes.

    Args:
        mode: full, merged, separate or swappable.
        rank: of its adapter; a swappable engine's largest.
        dtype: of weights and activations.
        parameters: of the model, and of the adapter where that stays beside it.
        weight_bytes: what loading the engine takes.
        write_bytes: what it adds to the disk beside its base, the graph apart.
        flops: per forward, step and context, by part.
        moved: bytes, likewise.
        memory: bytes that must be held at once, likewise.
    """

    mode: Mode
    rank: int | None
    dtype: Dtype
    parameters: int
    weight_bytes: int
    write_bytes: int
    flops: Mapping[GraphName, Mapping[str, int]]
    moved: Mapping[GraphName, Mapping[str, int]]
    memory: Mapping[GraphName, Mapping[str, int]]

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.mode if self.rank is None else f"{self.mode} r{self.rank}"


@dataclass(frozen=True)
class CardsOutlook:
    """How fast one forward could be over several cards of a kind.

    Args:
        cards: how many.
        forward: of one card's work, exchanges apart.
        lora: what a separate adapter of the largest rank adds to it, as a part of it; None without.
        exchanged: bytes that a card receives, and sends.
        exchange_s: seconds that takes at the link's full rate.
        memory: bytes that a card must hold at once.
    """

    cards: int
    forward: Prediction
    lora: float | None
    exchanged: int
    exchange_s: float
    memory: int

    @property
    def seconds(self) -> float:
        """The forward's time if nothing is computed during exchanges."""
        return self.forward.seconds + self.exchange_s

    @property
    def overlapped_s(self) -> float:
        """The forward's time if exchanges hide behind arithmetic, or it behind them."""
        return max(self.forward.seconds, self.exchange_s)


@dataclass(frozen=True)
class Outlook:
    """How fast engines could be on a device.

    Args:
        device: what computes.
        costs: the engines', in a dtype that the device has.
        predictions: each graph's of each engine.
        shares: by targets and rank, what a separate adapter adds to a forward, as a part of it.
        over_cards: of `full`, a forward over several cards.
    """

    device: DeviceRates
    costs: tuple[Cost, ...]
    predictions: tuple[Mapping[GraphName, Prediction], ...]
    shares: Mapping[str, Mapping[int, float]]
    over_cards: tuple[CardsOutlook, ...] = ()

    @property
    def dtype(self) -> Dtype:
        """What the device computes in."""
        return self.costs[0].dtype

    def fits(self, index: int, graph: GraphName) -> bool:
        """Tell whether the device holds what an engine's graph needs at once."""
        return sum(self.costs[index].memory[graph].values()) <= self.device.memory_gb * 1e9


def price_engines(request: BuildRequest) -> tuple[Cost, ...]:
    """Return the costs of the engines that a build would make, with random adapters of --rank."""
    wanted: list[tuple[Mode, int | None]] = []
    for mode in request.modes:
        if mode == "full":
            wanted.append((mode, None))
        elif mode == "swappable":
            wanted.append((mode, max(request.ranks)))  # one engine, padded to the largest
        else:
            wanted += [(mode, rank) for rank in request.ranks]
    return tuple(_price(request, mode, rank) for mode, rank in wanted)


def choose_devices(names: Sequence[str], dtype: Dtype) -> list[DeviceRates]:
    """Return devices by name, all by default; `cpu` is this machine, measured.

    Raises:
        WanrtError: there is no such device.
    """
    devices = load_devices()
    found = [None if name.lower() == CPU else find_device(name, devices) for name in names]
    chosen = {device.name if device else CPU: device for device in found} or {**devices, CPU: None}
    return [device or _measure(dtype) for device in chosen.values()]


def predict_engines(
    request: BuildRequest, device: DeviceRates, cards: Sequence[int] = ()
) -> Outlook:
    """Return how fast a build's engines could be on a device, and `full` over several of them.

    Where the device doesn't compute the request's dtype, they are taken in fp32. Devices without a
    link are predicted alone.

    Raises:
        ConfigError: a number of cards can't be had.
    """
    if request.config.dtype not in device.tflops:
        config = request.config.model_copy(update={"dtype": "fp32"})
        request = replace(request, config=config)
    costs = price_engines(request)
    predictions = tuple(
        {
            graph: predict_forward(cost.flops[graph], cost.moved[graph], device, cost.dtype)
            for graph in GRAPHS
        }
        for cost in costs
    )
    over_cards = _predict_cards(request, device, cards)
    return Outlook(device, costs, predictions, _shares(request, device), over_cards)


def _predict_cards(
    request: BuildRequest, device: DeviceRates, numbers: Sequence[int]
) -> tuple[CardsOutlook, ...]:
    arch, size, link = request.config.architecture, request.config.size, device.link
    dtype = request.config.dtype
    for cards in numbers:
        check_cards(cards, arch.num_attention_heads, size.tokens, size.batch)
    if link is None:
        return ()
    lora = _branches(_adapted(request), max(request.ranks)) if request.ranks else None
    width, found = itemsize(dtype), []
    for cards in numbers:
        own = size.tokens // cards
        forward, with_lora = (
            predict_forward(
                count_card_flops(arch.dims, size.tokens, cards, branches),
                count_bytes(arch.dims, own, width, lora=branches),
                device,
                dtype,
            )
            for branches in (None, lora)
        )
        exchanged = count_exchanged(arch.dims, size.tokens, width, cards)
        found.append(
            CardsOutlook(
                cards,
                forward,
                with_lora.parts_s["lora"] / forward.seconds if lora else None,
                exchanged,
                exchanged / (link.gb_s * 1e9),
                sum(count_memory(arch.dims, own, width).values()),
            )
        )
    return tuple(found)


def _shares(request: BuildRequest, device: DeviceRates) -> dict[str, dict[int, float]]:
    """Return what adapters on each set of layers, and on those asked for, cost at every rank."""
    asked = {choose_targets(request.config.architecture, request.targets).name: request.targets}
    sets = {name: (name,) for name in TARGET_SETS} | asked
    return {
        name: {
            rank: _share(_price(replace(request, targets=targets), "separate", rank), device)
            for rank in request.ranks
        }
        for name, targets in sets.items()
    }


def _share(cost: Cost, device: DeviceRates) -> float:
    forward = predict_forward(cost.flops["forward"], cost.moved["forward"], device, cost.dtype)
    lora = forward.parts_s["lora"]
    return lora / (forward.seconds - lora)


def _adapted(request: BuildRequest) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the layers that a request's adapters sit on."""
    arch = request.config.architecture
    every = module_shapes(arch)
    modules = choose_targets(arch, request.targets).modules
    return {module: every[f"{module}.weight"] for module in modules}


def _branches(shapes: Mapping[str, tuple[int, ...]], rank: int) -> Lora:
    return {m: (rank, fan_in, fan_out) for m, (fan_out, fan_in) in shapes.items()}


def _measure(dtype: Dtype) -> DeviceRates:
    from wanrt.machine.cpu_rates import measure_cpu

    return measure_cpu("fp16" if dtype == "fp16" else "fp32")


def _price(request: BuildRequest, mode: Mode, rank: int | None) -> Cost:
    config = request.config
    arch, size = config.architecture, config.size
    dims, width = arch.dims, itemsize(config.dtype)
    shapes = _adapted(request)
    unmerged = rank is not None and mode in ("separate", "swappable")
    lora = _branches(shapes, rank or 0) if unmerged else {}
    weights = sum(count_parameters(dims).values())
    written = 0
    if mode == "merged":
        written = sum(map(math.prod, shapes.values()))
    elif mode == "separate":
        written = count_adapter(lora)
    elif mode == "swappable":  # a file for every rank
        written = sum(r * sum(map(sum, shapes.values())) for r in request.ranks)
    return Cost(
        mode=mode,
        rank=rank,
        dtype=config.dtype,
        parameters=weights + count_adapter(lora),
        weight_bytes=(weights + (count_adapter(lora) if mode == "separate" else 0)) * width,
        write_bytes=written * width,
        flops={g: count_flops(dims, size.tokens, size.batch, lora, g) for g in GRAPHS},
        moved={
            g: count_bytes(dims, size.tokens, width, size.batch, lora, g, mode == "swappable")
            for g in GRAPHS
        },
        memory={g: count_memory(dims, size.tokens, width, size.batch, lora, g) for g in GRAPHS},
    )
