"""What a study will write and how long it may take, before anything is made; imports no torch.

Bytes follow from the model's sizes (`wanexport.cost`). Minutes are rates that were measured on two
cores of an AMD EPYC (benchmarks/results/export_14b.md) times those sizes: good to a factor of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wanexport.cost import predict_engines, price_engines
from wanexport.lora.targets import choose_targets
from wanexport.model.formulas import count_parameters
from wanexport.model.names import module_shapes
from wanexport.storage.dtypes import itemsize
from wanexport.study.cells import AdapterChoice, Cell, Group
from wanexport.study.file import Bench, Study
from wanrt.machine.cores import usable_cores
from wanrt.machine.devices import DeviceRates, load_devices, recognise_device

__all__ = ["Forecast", "find_card", "forecast_bench", "forecast_build", "forecast_sources"]

START_S = 8.0  # Python, torch and diffusers
TRACE_S = 0.35  # a layer: traced, lowered, written
VERIFY_S = 38e-9  # a parameter: read, and computed twice in fp32
MERGE_S = 2.5e-9  # a byte: read, merged, hashed, written
MAKE_S = 4e-9  # a byte of random weights, and its hash
EXTRACT_S = 3.2e-8  # a parameter of a target: 0.86 s for 5120 x 5120
LOAD_S = 1e-9  # a byte of weights, in memory
CORE_FLOPS = 150e9  # a second, in fp32, that a forward reaches on one core
REACHED = 0.5  # of the best possible speed
PROBE_S = 2.0  # a process that loads an engine
LEAST_LOADS, LEAST_ROUNDS = 3, 3
GRAPH_BYTES, LAYER_BYTES, PLAN_LAYER_BYTES = 600_000, 64_000, 4 << 20


@dataclass(frozen=True)
class Forecast:
    """Bytes to write, and seconds."""

    write_bytes: int
    seconds: float

    def __add__(self, other: Forecast) -> Forecast:
        return Forecast(self.write_bytes + other.write_bytes, self.seconds + other.seconds)


def forecast_sources(study: Study, groups: Sequence[Group]) -> Forecast:
    """Return what making random bases, and the adapters, takes; groups share them."""
    found = Forecast(0, 0.0)
    if study.base == "random":
        per_dtype = {group.config.dtype: group for group in groups}
        for dtype, group in per_dtype.items():
            made = _parameters(group.cells[0]) * itemsize(dtype)
            found += Forecast(made, made * MAKE_S)
    if study.adapters.source == "files":
        return found
    adapters = dict.fromkeys(adapter for group in groups for adapter in group.adapters)
    for adapter in adapters:
        found += Forecast(2 * adapter.rank * sum(map(sum, _shapes(groups[0], adapter))), 0.0)
    if study.adapters.source == "extract":
        for adapter in {one.set_name: one for one in adapters}.values():
            touched = sum(math.prod(shape) for shape in _shapes(groups[0], adapter))
            found += Forecast(0, START_S + EXTRACT_S * touched)
    return found


def forecast_build(cell: Cell) -> Forecast:
    """Return what building an engine takes; how long TensorRT's builder searches isn't known."""
    request = cell.request
    (cost,) = price_engines(request)
    layers = request.config.architecture.num_layers
    written = cost.write_bytes + GRAPH_BYTES + LAYER_BYTES * layers
    if request.tensorrt is not None:
        written += PLAN_LAYER_BYTES * layers
    if request.backend == "tensorrt-rtx":  # without a GPU, all weights go into the plan
        written += cost.weight_bytes * 5 // 4
    seconds = START_S + TRACE_S * layers
    if cell.mode == "merged":
        seconds += MERGE_S * cost.write_bytes
    if request.verify:
        seconds += VERIFY_S * cost.parameters
    return Forecast(written, seconds)


def forecast_bench(bench: Bench, group: Group, device: DeviceRates | None) -> Forecast:
    """Return what measuring a group takes on one card; forwards count if the card is known."""
    requests = [cell.request for cell in group.cells]
    weights = price_engines(requests[0])[0].weight_bytes
    forward_s = 0.0
    if bench.device == "cpu":
        flops = sum(price_engines(requests[0])[0].flops["forward"].values())
        forward_s = flops / (CORE_FLOPS * usable_cores())
    elif device is not None:
        outlook = predict_engines(requests[0], device)
        forward_s = outlook.predictions[0]["forward"].seconds / REACHED
    rows = len(requests) + 1  # `full` twice
    load_s = weights * LOAD_S
    rounds = bench.rounds or LEAST_ROUNDS
    least = rows * (bench.loads or LEAST_LOADS)
    least_s = least * (load_s + rounds * (1 + bench.warmup) * forward_s)
    probes_s = rows * (PROBE_S + 2 * load_s + 2 * forward_s)
    return Forecast(0, max(bench.time_budget_s, least_s) + probes_s)


def find_card(study: Study) -> DeviceRates | None:
    """Return what a study's GPU can do at best; None if it isn't known, or a CPU measures."""
    card = study.bench.card
    return recognise_device(card.name, load_devices()) if card else None


def _parameters(cell: Cell) -> int:
    return sum(count_parameters(cell.request.config.architecture.dims).values())


def _shapes(group: Group, adapter: AdapterChoice) -> list[tuple[int, ...]]:
    arch = group.config.architecture
    shapes = module_shapes(arch)
    return [shapes[f"{m}.weight"] for m in choose_targets(arch, adapter.targets).modules]
