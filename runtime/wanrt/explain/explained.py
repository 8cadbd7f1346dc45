"""An engine and what its kernels do: read from its plan, or measured by running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wanrt.backends.load import profile_forward
from wanrt.errors import EngineError, UnsupportedError
from wanrt.explain.layers import read_layers
from wanrt.explain.plan import read_kernels
from wanrt.explain.profile import read_profile
from wanrt.explain.work import Work, bound_seconds, examine
from wanrt.machine.devices import DeviceRates
from wanrt.manifest.folder import EngineFolder, open_folder
from wanrt.manifest.read import check_sizes
from wanrt.manifest.schema import Manifest, Workload
from wanrt.terminal.progress import Reporter

__all__ = ["Explained", "explain_engine"]


@dataclass(frozen=True)
class Explained:
    """An engine and what its kernels do; of one that was measured, the seconds of its forward."""

    manifest: Manifest
    work: tuple[Work, ...]
    forward_s: float | None = None

    @property
    def workload(self) -> Workload:
        """The size that the shapes are of: the first, which a plan of several is tuned for."""
        return next(iter(self.manifest.workloads.values()))

    @property
    def moved(self) -> int:
        """Bytes that all kernels move."""
        return sum(one.kernel.bytes for one in self.work)

    @property
    def exchanges(self) -> int:
        """How often cards exchange."""
        return sum(bool(one.kernel.exchanged) for one in self.work)

    @property
    def received(self) -> int:
        """Bytes that one card receives from the others; it sends as many."""
        cards = self.manifest.cards
        return sum(one.kernel.exchanged for one in self.work) * (cards - 1) // cards

    @property
    def flops(self) -> int:
        """Of all GEMMs and attentions."""
        return sum(one.flops for one in self.work)

    def bound(self, device: DeviceRates) -> float | None:
        """Return the sum of the kernels' times at best, or None without a rate for one of them."""
        try:
            return sum(bound_seconds(self.work, device))
        except EngineError:
            return None


def explain_engine(folder: Path, reporter: Reporter) -> Explained:
    """Read a plan or TensorRT's account of one, or run an ONNX Runtime engine on the CPU twice.

    Raises:
        ManifestError: the folder isn't an engine's, or a file of it isn't right.
        UnsupportedError: the engine doesn't run on a CPU.
        EngineError: its plan, TensorRT's account of it or its profile can't be read.
    """
    opened = open_folder(folder)
    manifest = opened.manifest
    if manifest.backend == "onnxruntime":
        return _measure(opened, reporter)
    check_sizes(folder, manifest)
    plan = manifest.forward.plan
    if plan is not None and manifest.backend == "tensorrt-rtx":
        return Explained(manifest, examine(read_kernels(folder / plan.file)))
    if plan is None or plan.layers is None:
        raise EngineError(
            f"{folder}: its kernels can't be read: TensorRT's plans don't list them",
            "build it again: a build on a GPU keeps TensorRT's own account in layers.json",
        )
    return Explained(manifest, examine(read_layers(folder / plan.layers.file)))


def _measure(opened: EngineFolder, reporter: Reporter) -> Explained:
    if opened.manifest.dtype == "bf16":
        raise UnsupportedError(
            f"{opened.path}: bf16 doesn't run on ONNX Runtime's CPU, and on a GPU ONNX Runtime's "
            "profile has the times of launches alone",
            "explain an engine of --dtype fp32, or of --backend tensorrt-rtx",
        )
    with reporter.work("running two forwards"):
        text = profile_forward(opened, reporter)
    profile = read_profile(text, str(opened.path))
    return Explained(opened.manifest, examine(profile.kernels), profile.seconds)
