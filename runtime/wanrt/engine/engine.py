"""An engine in memory: what every backend offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, Self

from wanrt.engine.context import Context, check_split
from wanrt.engine.stack import AdapterArgument
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import Array

__all__ = ["DeviceKind", "Engine", "Runner"]

DeviceKind = Literal["cpu", "cuda"]
DEVICES: tuple[DeviceKind, ...] = ("cpu", "cuda")


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

    def swap(self, adapter: AdapterArgument) -> None:
        """Load a canonical adapter, or several with strengths; None goes back to the base."""

    def time_forward(self) -> float:
        """Run one forward on the bound inputs and return its seconds."""

    def close(self) -> None:
        """Free what was loaded; a second call does nothing."""


class Engine(Runner, Protocol):
    """A loaded engine. One thread at a time may use it; different engines may run in parallel.

    While a thread is in any of its methods, those of another raise `EngineError`. On a CPU a
    forward runs on the engine's own thread pool (`threads`), and releases Python's global lock.
    """

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""

    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Change the strengths of the loaded adapters, in the order of the last swap."""

    def prepare(self, /, **inputs: object) -> Context:  # noqa: ARG002 (engines of two graphs)
        """Compute once per prompt what a split engine's forwards read of text and image.

        Raises:
            EngineError: the engine has one graph.
        """
        check_split(self.manifest)
        raise NotImplementedError

    @property
    def context_s(self) -> float | None:
        """What preparing the bound context took, in seconds; None of an engine of one graph."""
        return None

    def bind(self, /, *, context: object = None, **inputs: object) -> None:
        """Check the data inputs and make them resident for `time_forward`.

        A split engine takes a context from `prepare`, or prepares one from all of the inputs.
        """

    def forward(self, /, *, context: object = None, **inputs: object) -> dict[str, Array]:
        """Run one forward on arrays or anything with DLPack; the outputs are the caller's own."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
