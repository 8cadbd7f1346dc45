"""What a bench asks a process to load: an engine or, by an entry point, its rival."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from wanrt.engine import Device, Runner, load_engine
from wanrt.errors import EngineError, UnsupportedError
from wanrt.inputs import make_inputs

__all__ = ["Job", "find_loader", "find_rival", "find_rivals", "load_job"]

GROUP = "wanrt.rivals"
EXTRA = "pip install 'wanexport[export]'"


@dataclass(frozen=True)
class Job:
    """What to load, ready to be timed.

    Args:
        folder: an engine folder; of a rival the baseline's, whose weights it takes.
        workload: whose shapes to run, by its name in the manifest.
        device: where.
        threads: on a CPU; by default one per usable core.
        mapped: leave the engine's weights in the file's pages.
        seed: of the inputs.
        rival: an entry point's name; None for the engine itself.
    """

    folder: Path
    workload: str
    device: Device = "cpu"
    threads: int | None = None
    mapped: bool = False
    seed: int = 0
    rival: str | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.rival or str(self.folder)


def find_rivals() -> dict[str, EntryPoint]:
    """Return the installed rivals by name: entry points of the group `wanrt.rivals`, not loaded.

    Each names a function that takes a `Job` and returns a `wanrt.engine.Runner`.
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


def find_loader(job: Job) -> Callable[[Job], Runner]:
    """Return what loads a job, the libraries that it needs imported.

    Raises:
        EngineError: there is no such rival.
        UnsupportedError: the rival's libraries aren't installed.
    """
    if job.rival is None:
        with suppress(ImportError):  # loading says what is missing
            import onnxruntime  # noqa: F401
        return _load_engine
    try:
        loader: Callable[[Job], Runner] = find_rival(job.rival).load()
    except ImportError as error:
        raise UnsupportedError(f"{job.rival} can't be imported: {error}", EXTRA) from error
    return loader


def load_job(job: Job) -> Runner:
    """Load a job with seeded inputs bound.

    Raises:
        WanrtError: as `load_engine`, or as `find_loader`.
    """
    return find_loader(job)(job)


def _load_engine(job: Job) -> Runner:
    engine = load_engine(
        job.folder,
        device=job.device,
        threads=job.threads,
        mapped=job.mapped,
        workload=job.workload,
    )
    manifest = engine.manifest
    engine.bind(**make_inputs(manifest, manifest.workloads[job.workload], job.seed))
    return engine
