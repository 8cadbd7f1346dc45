"""What engines would cost as compiled: plans of one and two layers, read without a GPU.

`wanexport estimate --compiled` has TensorRT-RTX build a model's stem, head and a layer or two with
random weights. What the second layer adds is an inner block's, and the model has so many of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.checkpoint.random_weights import ensure_demo_checkpoint
from wanexport.errors import UsageError
from wanexport.tensorrt.settings import PlanSettings
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import Work, bound_seconds, examine
from wanrt.machine.devices import DeviceRates
from wanrt.manifest.schema import Mode
from wanrt.terminal.progress import Reporter

__all__ = ["CompiledCost", "compile_engines", "read_block", "shrink"]

PLAN_NAME = "engine.plan"


@dataclass(frozen=True)
class CompiledCost:
    """What a whole engine's kernels come to on devices of one compute capability.

    Args:
        mode: full (whose kernels merged engines have, too), separate or swappable.
        rank: of its adapter.
        capability: what the plans were built for.
        kernels: how many a forward launches.
        moved: bytes, each operand of a kernel once.
        flops: of GEMMs and attentions.
        bound_s: by device, the seconds that its kernels take at best, one after the other.
    """

    mode: Mode
    rank: int | None
    capability: str
    kernels: int
    moved: int
    flops: int
    bound_s: dict[str, float]

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.mode if self.rank is None else f"{self.mode} r{self.rank}"


def compile_engines(
    request: BuildRequest, devices: Sequence[DeviceRates], reporter: Reporter
) -> tuple[CompiledCost, ...]:
    """Return what a request's engines cost as compiled, for each capability of the devices.

    Nothing of it stays on the disk; it takes the weights of three layers and a plan there.

    Raises:
        WanExportError: TensorRT-RTX isn't installed, doesn't build for a capability, or fails.
    """
    if request.config.dtype == "fp32":
        raise UsageError("--compiled needs fp16 or bf16", "add --dtype bf16")
    by_capability: dict[str, list[DeviceRates]] = {}
    for device in devices:
        if device.compute_capability is not None:
            by_capability.setdefault(device.compute_capability, []).append(device)
    if not by_capability:
        raise UsageError(
            "--compiled needs a device with a compute capability", "add --device 'RTX 5090'"
        )
    with tempfile.TemporaryDirectory(prefix="wanexport-") as room:
        return tuple(
            _compile(request, mode, rank, capability, held, Path(room), reporter)
            for capability, held in by_capability.items()
            for mode, rank in _list_engines(request)
        )


def _list_engines(request: BuildRequest) -> Iterator[tuple[Mode, int | None]]:
    yield "full", None
    if "separate" in request.modes:
        yield from (("separate", rank) for rank in request.ranks)
    if "swappable" in request.modes:
        yield "swappable", max(request.ranks)


def _compile(
    request: BuildRequest,
    mode: Mode,
    rank: int | None,
    capability: str,
    devices: Sequence[DeviceRates],
    room: Path,
    reporter: Reporter,
) -> CompiledCost:
    one, two = (
        read_block(replace(shrink(request, layers, capability), modes=(mode,), ranks=_ranks(rank)),
              room / f"base-{layers}", reporter)
        for layers in (1, 2)
    )  # fmt: skip
    inner = request.config.architecture.num_layers - 1

    def whole(first: float, both: float) -> float:
        return first + inner * (both - first)

    return CompiledCost(
        mode,
        rank,
        capability,
        round(whole(len(one), len(two))),
        round(whole(*(sum(w.kernel.bytes for w in work) for work in (one, two)))),
        round(whole(*(sum(w.flops for w in work) for work in (one, two)))),
        {
            device.name: whole(*(sum(bound_seconds(work, device)) for work in (one, two)))
            for device in devices
        },
    )


def _ranks(rank: int | None) -> tuple[int, ...]:
    return () if rank is None else (rank,)


def shrink(request: BuildRequest, layers: int, capability: str) -> BuildRequest:
    """Return a request of so many layers, one size and one capability."""
    arch = request.config.architecture.model_copy(update={"num_layers": layers})
    changes = {"architecture": arch, "dynamic_sizes": (), "name": f"layers-{layers}"}
    settings = PlanSettings(backend="tensorrt-rtx", refit="baked", capabilities=(capability,))
    config = request.config.model_copy(update=changes)
    return replace(request, config=config, tensorrt=settings, verify=False)


def read_block(request: BuildRequest, base: Path, reporter: Reporter) -> tuple[Work, ...]:
    """Build a request's only engine and return what its plan's kernels do; the base alone stays.

    Args:
        request: of one engine of a few layers, as `shrink` makes it.
        base: a checkpoint's folder, made of random weights unless it is there.
        reporter: receives progress.

    Raises:
        WanExportError: the engine can't be built.
        EngineError: its plan can't be read.
    """
    config = request.config
    if not base.exists():
        with reporter.bytes("making random weights", None) as piece:
            ensure_demo_checkpoint(base, config.architecture, config.dtype, 0, piece.advance)
    with tempfile.TemporaryDirectory(prefix="engines-", dir=base.parent) as folder:
        request = replace(request, base=str(base), out=Path(folder))
        (built,) = build_engines(request, reporter)
        return examine(read_kernels(request.out / built.target.name / PLAN_NAME))
