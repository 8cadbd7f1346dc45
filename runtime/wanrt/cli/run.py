"""One forward from the command line: inputs from a seed or a file, outputs to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wanrt.backends.load import check_engine, load_engine
from wanrt.engine.engine import Device
from wanrt.engine.inputs import make_inputs
from wanrt.errors import EngineError
from wanrt.storage.dtypes import Array
from wanrt.storage.files import write_file
from wanrt.terminal.progress import Reporter
from wanrt.terminal.units import show_bytes

__all__ = ["run_engine"]


def run_engine(
    folder: Path,
    *,
    device: Device | None,
    threads: int | None = None,
    weight_streaming: int | None = None,
    seed: int = 0,
    inputs: Path | None = None,
    workload: str | None = None,
    adapter: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Array]:
    """Return the outputs of one forward.

    Args:
        folder: the engine folder.
        device: where to run it; by default where its backend does.
        threads: of the engine's pool.
        weight_streaming: bytes of weights that a TensorRT engine keeps on the GPU.
        seed: of the random inputs, if no file is given.
        inputs: a safetensors file with the data inputs by name.
        workload: whose shapes to use; the manifest's first by default.
        adapter: a canonical adapter, for an engine that can swap.
        reporter: who is told of it; nobody by default.

    Raises:
        WanrtError: any of them can't be used.
    """
    manifest = check_engine(folder, device)
    name = workload or next(iter(manifest.workloads))
    pinned = name if inputs is None else workload
    reporter = reporter or Reporter(quiet=True)
    size = sum(file.bytes for file in manifest.files)
    with reporter.work(f"loading {show_bytes(size)}"):
        engine = load_engine(
            folder,
            device=device,
            threads=threads,
            workload=pinned,
            weight_streaming=weight_streaming,
        )
    with engine:
        if adapter is not None:
            with reporter.work("loading the adapter"):
                engine.swap(adapter)
        with reporter.work("running"):
            if inputs is not None:
                return engine.forward(**read_tensors(inputs))
            return engine.forward(**make_inputs(manifest, manifest.workloads[name], seed))


def read_tensors(path: Path) -> dict[str, Array]:
    """Return a safetensors file's tensors; bf16 comes as ml_dtypes'.

    Raises:
        EngineError: it can't be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{path} can't be read: {error}") from None


def save_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole.

    Raises:
        ResultsError: it can't be written.
    """
    write_file(path, save(dict(tensors), metadata=metadata))
