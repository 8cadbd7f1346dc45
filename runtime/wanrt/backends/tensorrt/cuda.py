"""The part of the CUDA runtime that the TensorRT backend needs, its errors as ours.

Handles of streams, events and graphs, and addresses of memory, are plain integers. `Cuda` is what
the backend knows; `open_cuda` returns the real one, over cuda-bindings. Not run yet: no GPU here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wanrt.errors import EngineError, UnsupportedError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ALIGNMENT", "Cuda", "Gpu", "find_gpu", "open_cuda"]

ALIGNMENT = 256
"""Bytes; of all that `malloc` returns, and what TensorRT asks of every tensor's address."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name, and its compute capability as 8.9."""

    name: str
    capability: str


class Cuda(Protocol):
    """CUDA on the current device. Every method raises an `EngineError` for an error of CUDA's.

    Copies and launches are enqueued on a stream and return before they are done, except that a
    copy from or to pageable host memory may wait.
    """

    def device(self) -> int:
        """Return the current device's number."""

    def gpu(self) -> Gpu:
        """Return what the current device is."""

    def malloc(self, size: int) -> int:
        """Return the address of that many bytes; `free` gives them back."""

    def free(self, address: int) -> None:
        """Free memory, after whatever still uses it."""

    def copy_in(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy host memory to the device."""

    def copy_out(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy device memory to the host."""

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy device memory on the device."""

    def create_stream(self) -> int:
        """Return a stream that doesn't wait for the default one; `destroy_stream` ends it."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""

    def synchronize(self, stream: int) -> None:
        """Wait for all that was enqueued on a stream."""

    def create_event(self) -> int:
        """Return an event that takes the time; `destroy_event` ends it."""

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""

    def record(self, event: int, stream: int) -> None:
        """Enqueue an event."""

    def elapsed_s(self, start: int, end: int) -> float:
        """Wait for `end`, and return the seconds since `start`."""

    def begin_capture(self, stream: int) -> None:
        """Have what is enqueued on a stream become a graph instead of running."""

    def end_capture(self, stream: int) -> int:
        """Return the graph, ready to launch; `destroy_graph` ends it."""

    def abandon_capture(self, stream: int) -> None:
        """End a capture that went wrong; never raises."""

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a graph."""

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph, after its last launch is done."""


def open_cuda() -> Cuda:
    """Return the CUDA runtime.

    Raises:
        UnsupportedError: cuda-bindings isn't installed, or there is no driver or GPU.
    """
    try:
        from cuda.bindings import runtime
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UnsupportedError(
            f"cuda-bindings can't be imported: {reason}", "pip install cuda-bindings"
        ) from None
    cuda = CudaRuntime(runtime)
    try:
        cuda.gpu()
    except EngineError as error:
        hint = "it needs an NVIDIA GPU and its driver; nvidia-smi lists both"
        raise UnsupportedError(f"no GPU: {error}", hint) from None
    return cuda


class CudaRuntime:
    """CUDA through cuda-bindings; `Cuda` is its contract."""

    def __init__(self, runtime: ModuleType) -> None:
        self._runtime: Any = runtime

    def device(self) -> int:
        """Return the current device's number."""
        return int(self._do("cudaGetDevice"))

    def gpu(self) -> Gpu:
        """Return what the current device is."""
        properties = self._do("cudaGetDeviceProperties", self.device())
        name = properties.name.partition(b"\0")[0].decode()
        return Gpu(name, f"{properties.major}.{properties.minor}")

    def malloc(self, size: int) -> int:
        """Return the address of that many bytes."""
        return int(self._do("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Free memory."""
        self._do("cudaFree", address)

    def copy_in(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy host memory to the device."""
        self._copy(to, source, size, "cudaMemcpyHostToDevice", stream)

    def copy_out(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy device memory to the host."""
        self._copy(to, source, size, "cudaMemcpyDeviceToHost", stream)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy device memory on the device."""
        self._copy(to, source, size, "cudaMemcpyDeviceToDevice", stream)

    def create_stream(self) -> int:
        """Return a stream that doesn't wait for the default one."""
        return int(self._do("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._do("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait for all that was enqueued on a stream."""
        self._do("cudaStreamSynchronize", stream)

    def create_event(self) -> int:
        """Return an event that takes the time."""
        return int(self._do("cudaEventCreate"))

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self._do("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Enqueue an event."""
        self._do("cudaEventRecord", event, stream)

    def elapsed_s(self, start: int, end: int) -> float:
        """Wait for `end`, and return the seconds since `start`."""
        self._do("cudaEventSynchronize", end)
        return float(self._do("cudaEventElapsedTime", start, end)) / 1000

    def begin_capture(self, stream: int) -> None:
        """Capture a stream; other threads may go on allocating meanwhile."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """Return the graph, ready to launch."""
        graph = self._do("cudaStreamEndCapture", stream)
        try:
            return int(self._do("cudaGraphInstantiate", graph, 0))
        finally:
            self._do("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """End a capture that went wrong, which CUDA calls an error of its own."""
        _, graph = self._runtime.cudaStreamEndCapture(stream)
        if graph is not None and int(graph):
            self._runtime.cudaGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a graph."""
        self._do("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""
        self._do("cudaGraphExecDestroy", graph)

    def _copy(self, to: int, source: int, size: int, kind: str, stream: int) -> None:
        kinds = self._runtime.cudaMemcpyKind
        self._do("cudaMemcpyAsync", to, source, size, getattr(kinds, kind), stream)

    def _do(self, name: str, *arguments: object) -> Any:
        """Call a function, which returns its error and at most one value."""
        error, *values = getattr(self._runtime, name)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(error)
            hint = ""
            if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
                hint = "free device memory, load fewer engines, or stream weights"
            raise EngineError(f"{name}: {text.decode()} (CUDA error {int(error)})", hint)
        return values[0] if values else None


def find_gpu() -> Gpu | None:
    """Return the first visible GPU; None without one, its driver, or cuda-bindings.

    CUDA_VISIBLE_DEVICES says which are visible, and in which order.
    """
    try:
        return open_cuda().gpu()
    except UnsupportedError:
        return None
