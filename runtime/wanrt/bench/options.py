"""How to bench."""

from __future__ import annotations

from dataclasses import dataclass

from wanrt.engine.engine import DeviceKind

__all__ = ["EXTENDABLE", "BenchOptions"]

EXTENDABLE = {"half_width", "loads", "time_budget_s"}
"""Options that may change when a bench is resumed."""


@dataclass(frozen=True)
class BenchOptions:
    """How to bench; the defaults suit a first look.

    `half_width` is what the 95 % intervals of ratios should come to, `time_budget_s` what the
    measuring may take; the fewest loads and rounds may exceed it. `loads` and `rounds` (of each
    load) override what follows from them. `warmup` forwards are discarded at each visit of an
    engine. `rivals` run beside the engines; `probe` finds out in a process of its own what each
    engine takes to load. `weight_streaming` is how many bytes of weights a TensorRT engine keeps on
    the GPU, `cuda_graph` whether it runs as a CUDA graph.
    """

    device: DeviceKind = "cpu"
    threads: int | None = None
    mapped: bool = False
    warmup: int = 1
    half_width: float = 0.005
    time_budget_s: float = 120.0
    loads: int | None = None
    rounds: int | None = None
    seed: int = 0
    workload: str | None = None
    weight_streaming: int | None = None
    cuda_graph: bool = True
    rivals: tuple[str, ...] = ()
    probe: bool = True
