"""What a bench asks a process to load: an engine or, by an entry point, its rival."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from wanrt.backends.load import load_engine
from wanrt.backends.tensorrt.memory import Scratch
from wanrt.engine.engine import DeviceKind, Runner
from wanrt.engine.inputs import make_inputs
from wanrt.errors import EngineError, UnsupportedError, WanrtError, install_hint
from wanrt.manifest.folder import EngineFolder
from wanrt.manifest.schema import Backend

__all__ = ["LoadJob", "find_loader", "find_rival", "find_rivals", "load_job"]

GROUP = "wanrt.rivals"
EXTRA = install_hint("export")


@dataclass(frozen=True)
class LoadJob:
    """What to load, ready to be timed.

    Args:
        engine: what to load; of a rival the baseline, whose weights it takes.
        workload: whose shapes to run, by its name in the manifest.
        device: where.
        threads: on a CPU; by default one per usable core.
        mapped: leave the engine's weights in the file's pages.
        weight_streaming: of a TensorRT engine: bytes of weights that stay on the GPU.
        cuda_graph: of a TensorRT engine: run it as a CUDA graph.
        seed: of the inputs.
        rival: an entry point's name; None for the engine itself.
    """

    engine: EngineFolder
    workload: str
    device: DeviceKind = "cpu"
    threads: int | None = None
    mapped: bool = False
    weight_streaming: int | None = None
    cuda_graph: bool = True
    seed: int = 0
    rival: str | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.rival or str(self.engine.path)


def find_rivals() -> dict[str, EntryPoint]:
    """Return the installed rivals by name: entry points of the group `wanrt.rivals`, not loaded.

    Each names a function that takes a `LoadJob` and returns a `wanrt.engine.engine.Runner`.
    """
    return {point.name: point for point in entry_points(group=GROUP)}


def find_rival(name: str) -> EntryPoint:
    """Return an installed rival.

    Raises:
        EngineError: there is none of that name.
    """
    rivals = find_rivals()
    if name not in rivals:
        known = ", ".join(sorted(rivals))
        hint = f"there are: {known}" if known else f"wanexport brings some: {EXTRA}"
        raise EngineError(f"there is no rival {name!r}", hint)
    return rivals[name]


def find_loader(job: LoadJob) -> Callable[[LoadJob], Runner]:
    """Return what loads a job, the libraries that it needs imported.

    Raises:
        EngineError: there is no such rival.
        UnsupportedError: the rival's libraries aren't installed.
    """
    if job.rival is None:
        with suppress(ImportError, WanrtError):  # loading says what is missing
            _import_backend(job.engine.manifest.backend)
        return _load_engine
    try:
        loader: Callable[[LoadJob], Runner] = find_rival(job.rival).load()
    except ImportError as error:
        raise UnsupportedError(f"{job.rival} can't be imported: {error}", EXTRA) from error
    return loader


def load_job(job: LoadJob, scratch: Scratch | None = None) -> Runner:
    """Load a job with seeded inputs bound.

    Args:
        job: what to load.
        scratch: activation memory for TensorRT engines that never run at the same time.

    Raises:
        WanrtError: as `load_engine`, or as `find_loader`.
    """
    loader = find_loader(job)
    return loader(job) if job.rival is not None else _load_engine(job, scratch)


def _import_backend(backend: Backend) -> None:
    if backend == "onnxruntime":
        import onnxruntime  # noqa: F401
    else:
        from wanrt.backends.tensorrt import api as nvinfer
        from wanrt.backends.tensorrt import engine  # noqa: F401

        nvinfer.select(backend)


def _load_engine(job: LoadJob, scratch: Scratch | None = None) -> Runner:
    engine = load_engine(
        job.engine,
        device=job.device,
        threads=job.threads,
        mapped=job.mapped,
        workload=job.workload,
        weight_streaming=job.weight_streaming,
        cuda_graph=job.cuda_graph,
        scratch=scratch,
    )
    manifest = engine.manifest
    engine.bind(**make_inputs(manifest, manifest.workloads[job.workload], job.seed))
    return engine
