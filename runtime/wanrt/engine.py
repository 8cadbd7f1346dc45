"""An engine in memory: what every backend offers, and the choice of the backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from wanrt.errors import EngineError, ManifestError, UnsupportedError
from wanrt.manifest import Manifest, read_manifest
from wanrt.tensors import Array

if TYPE_CHECKING:
    from wanrt.trt_memory import Scratch

__all__ = ["Device", "Engine", "Runner", "check_engine", "load_engine"]

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("cpu", "cuda")

LINKED = ("hardlink", "pool", "own")


class Runner(Protocol):
    """What can be timed: an engine with its inputs bound, or a rival."""

    @property
    def timed(self) -> str:
        """What `time_forward` measures, in one sentence."""

    @property
    def enqueue_s(self) -> float | None:
        """The host's seconds of the last timed forward until all of it was enqueued.

        None where the host computes it, or before there was one.
        """

    def swap(self, adapter: Path | str | None) -> None:
        """Load a canonical adapter; None goes back to the base."""

    def time_forward(self) -> float:
        """Run one forward on the bound inputs and return its seconds."""

    def close(self) -> None:
        """Free what was loaded; a second call does nothing."""


class Engine(Runner, Protocol):
    """A loaded engine. One thread at a time may use it; different engines may run in parallel.

    `swap` and a forward of the same engine must not overlap. On a CPU a forward runs on the
    engine's own thread pool (`threads`), and releases Python's global lock.
    """

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""

    def bind(self, **inputs: object) -> None:
        """Check the data inputs and make them resident for `time_forward`."""

    def forward(self, **inputs: object) -> dict[str, Array]:
        """Run one forward on arrays or anything with DLPack; the outputs are the caller's own."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_engine(
    path: Path | str,
    *,
    device: Device | None = None,
    threads: int | None = None,
    mapped: bool = False,
    workload: str | None = None,
    stream: int | None = None,
    weight_streaming: int | None = None,
    cuda_graph: bool = True,
    scratch: Scratch | None = None,
) -> Engine:
    """Load the engine folder at `path`; use it as a context manager.

    One thread at a time may use an engine; different engines may run in parallel threads. Inputs
    that were bound or passed to `forward` are read in place where they can be and stay referenced
    until the next call or `close`.

    Args:
        path: the engine folder.
        device: where the engine runs; by default a TensorRT engine's is cuda, another's cpu.
        threads: ONNX Runtime: of the engine's own pool; by default one per usable core.
        mapped: ONNX Runtime: leave the weights in the file's pages, shared with other processes,
            rather than repack them in private memory; loads at once, runs slower on a CPU.
        workload: accept this workload's shapes only, by its name in the manifest.
        stream: TensorRT: the CUDA stream to enqueue everything on, as an integer; by default the
            engine has its own.
        weight_streaming: TensorRT: bytes of weights that stay on the GPU, the others are streamed
            to it in every forward; the plan must have been built for that.
        cuda_graph: TensorRT: run as a CUDA graph, except while weights are streamed.
        scratch: TensorRT: activation memory to share among engines of which at most one runs at
            any time.

    Raises:
        ManifestError: engine.json or a file it names isn't right.
        UnsupportedError: this machine lacks what the engine needs.
        EngineError: the backend refuses the engine, or there is no such workload.
    """
    folder = Path(path)
    manifest = check_engine(folder, device)
    if workload is not None and workload not in manifest.workloads:
        raise EngineError(
            f"{folder} has no workload {workload!r}", f"it has: {', '.join(manifest.workloads)}"
        )
    ort_only = {"threads": threads is not None, "mapped": mapped}
    trt_only = {
        "stream": stream is not None,
        "weight_streaming": weight_streaming is not None,
        "cuda_graph=False": not cuda_graph,
    }
    if manifest.backend == "onnxruntime":
        from wanrt.ort import OrtEngine

        _refuse(folder, manifest, trt_only)
        return OrtEngine(
            folder,
            manifest,
            device=device or "cpu",
            threads=threads,
            mapped=mapped,
            workload=workload,
        )
    from wanrt.cuda import open_cuda
    from wanrt.trt_engine import TrtEngine

    _refuse(folder, manifest, ort_only)
    return TrtEngine(
        folder,
        manifest,
        open_cuda(),
        workload=workload,
        stream=stream,
        weight_streaming=weight_streaming,
        cuda_graph=cuda_graph,
        scratch=scratch,
    )


def check_engine(folder: Path, device: Device | None = None) -> Manifest:
    """Return a folder's manifest after every check that needs no loading.

    Raises:
        ManifestError: engine.json or a file isn't right, or linked weights have another mtime.
        UnsupportedError: this machine lacks what the engine needs.
    """
    manifest = read_manifest(folder)
    check_times(folder, manifest)
    if manifest.backend == "onnxruntime":
        from wanrt.ort_session import check_runtime

        check_runtime(manifest, device or "cpu")
        return manifest
    from wanrt.trt_check import check_plan

    check_plan(folder, manifest)
    if device == "cpu":
        raise UnsupportedError(
            f"a {manifest.backend} engine runs on a GPU alone", "run it with --device cuda"
        )
    return manifest


def _refuse(folder: Path, manifest: Manifest, options: dict[str, bool]) -> None:
    for name, given in options.items():
        if given:
            raise UnsupportedError(
                f"{folder} is a {manifest.backend} engine, {name} is nothing to it"
            )


def check_times(folder: Path, manifest: Manifest) -> None:
    """Refuse linked weights whose modification time isn't the recorded one.

    A linked file shares its bytes with a checkpoint or the pool, so that writing over that in
    place changes the engine. Copies and reflinks can't change so; only their sizes are compared.
    """
    for weights in manifest.weights:
        path = folder / weights.file
        if weights.storage in LINKED and path.stat().st_mtime_ns != weights.mtime_ns:
            raise ManifestError(
                f"{path}: its mtime isn't the recorded one: the engine was copied or moved, "
                "or somebody wrote over these bytes",
                f"compare the bytes: wanrt verify {folder} --restore-mtime; "
                "if they differ, rebuild with --force",
            )
