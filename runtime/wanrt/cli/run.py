"""`wanrt run`: one forward, inputs from a seed or a file, outputs to a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import (
    DeviceName,
    EngineFolder,
    Force,
    OnDevice,
    Quiet,
    Threads,
    WeightStreaming,
    WorkloadName,
    device_kind,
)
from wanrt.terminal.screen import print_line
from wanrt.terminal.units import show_bytes

if TYPE_CHECKING:
    from wanrt.engine.engine import DeviceKind
    from wanrt.storage.dtypes import Array
    from wanrt.terminal.progress import Reporter

__all__ = ["run", "run_engine"]

FILES = "Inputs and outputs"
OUTPUTS = rb'.{8}\{"__metadata__":\{"(engine|inputs)":'  # what `save_tensors` begins with


def run(
    folder: EngineFolder,
    save: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="File for the outputs, .safetensors.", rich_help_panel=FILES
        ),
    ],
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Seed of random inputs.", rich_help_panel=FILES),
    ] = 0,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Inputs by name, .safetensors [default: random].",
            rich_help_panel=FILES,
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:STRENGTH]",
            help="Adapter to load, made by wanexport adapter; repeat to load several side by side.",
            rich_help_panel=FILES,
        ),
    ] = None,
    workload: WorkloadName = None,
    device: OnDevice = DeviceName.auto,
    threads: Threads = None,
    weight_streaming: WeightStreaming = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run one forward and save its outputs.

    On a CPU a bf16 engine is emulated: it computes in fp32 and rounds every result to bf16.
    """
    from wanrt.engine.tensors import show_shape
    from wanrt.engine.values import is_finite
    from wanrt.errors import EngineError
    from wanrt.storage.files import check_writable, real_path
    from wanrt.terminal.progress import Reporter

    if save.suffix != ".safetensors":
        raise typer.BadParameter(f"--save writes safetensors: name it {save.stem}.safetensors")
    adapters = [parse_adapter(argument) for argument in adapter or ()]
    sources = [*filter(None, (inputs,)), *(path for path, _ in adapters)]
    if any(real_path(given) == real_path(save) for given in sources):
        raise typer.BadParameter("the outputs would replace what they are made from")
    check_writable(save, sources, OUTPUTS, force=force)
    outputs = run_engine(
        folder,
        device=device_kind(device),
        threads=threads,
        weight_streaming=weight_streaming,
        seed=seed,
        inputs=inputs,
        workload=workload,
        adapters=adapters,
        reporter=Reporter(quiet=quiet),
    )
    if bad := next((name for name, array in outputs.items() if not is_finite(array)), None):
        raise EngineError(
            f"{folder}: output {bad} isn't finite, so nothing is saved",
            "look for overflow (fp16) or large values in the inputs and the adapter",
        )
    source = str(inputs) if inputs else f"seed {seed}"
    save_tensors(save, outputs, {"engine": str(folder), "inputs": source})
    for name, array in outputs.items():
        print_line(f"{name} {array.dtype} {show_shape(array.shape)}")
    print_line(f"saved {save}", sys.stderr)


def run_engine(
    folder: Path,
    *,
    device: DeviceKind | None,
    threads: int | None = None,
    weight_streaming: int | None = None,
    seed: int = 0,
    inputs: Path | None = None,
    workload: str | None = None,
    adapters: Sequence[tuple[Path, float]] = (),
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
        adapters: canonical adapters with their strengths, for an engine that can swap.
        reporter: receives progress; silent by default.

    Raises:
        WanrtError: any of them can't be used.
    """
    from wanrt.backends.load import check_engine, is_emulated, load_engine
    from wanrt.engine.inputs import make_inputs
    from wanrt.manifest.folder import open_folder
    from wanrt.terminal.progress import Reporter

    opened = open_folder(folder)
    manifest = opened.manifest
    emulated = is_emulated(manifest, device)
    reporter = reporter or Reporter(quiet=True)
    check_engine(opened, device, emulated=emulated, reporter=reporter)
    name = workload or next(iter(manifest.workloads))
    pinned = name if inputs is None else workload
    with reporter.work(f"loading {show_bytes(opened.bytes)}"):
        engine = load_engine(
            opened,
            device=device,
            threads=threads,
            emulated=emulated,
            workload=pinned,
            weight_streaming=weight_streaming,
        )
    if emulated:
        reporter.log("emulated: bf16 rounding, fp32 arithmetic")
    with engine:
        if adapters:
            with reporter.work("loading the adapter"):
                engine.swap(adapters)
        with reporter.work("running"):
            if inputs is not None:
                return engine.forward(**read_tensors(inputs))
            return engine.forward(**make_inputs(manifest, manifest.workloads[name], seed))


def parse_adapter(argument: str) -> tuple[Path, float]:
    """Parse FILE[:STRENGTH].

    Raises:
        AdapterError: the strength isn't a number.
    """
    from wanrt.engine.stack import split_strength
    from wanrt.errors import AdapterError

    try:
        path, strength = split_strength(argument)
    except ValueError as error:
        problem = f"{argument}: {str(error)!r} is not a strength"
        raise AdapterError(problem, "write FILE:0.8") from None
    return Path(path), strength


def read_tensors(path: Path) -> dict[str, Array]:
    """Return a safetensors file's tensors; bf16 comes as ml_dtypes'.

    Raises:
        EngineError: it can't be read, or holds NaN or infinite values.
    """
    from safetensors import SafetensorError, safe_open

    from wanrt.engine.values import is_finite
    from wanrt.errors import EngineError
    from wanrt.storage.regular import check_regular

    tensors: dict[str, Array] = {}
    name = ""
    try:
        check_regular(path)
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (the handle isn't a mapping)
                tensors[name] = file.get_tensor(name)
    except OSError as error:
        raise EngineError(f"{path} can't be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise EngineError(f"{path} can't be read: {error}") from None
    except (TypeError, KeyError, AttributeError, ValueError):  # F8 and F4 have no numpy dtype
        raise EngineError(f"{path}: {name} is of a dtype that no engine takes") from None
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise EngineError(f"{path}: input {name} holds values that aren't finite")
    return tensors


def save_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole.

    Raises:
        ResultsError: it can't be written.
    """
    from safetensors.numpy import save

    from wanrt.storage.files import write_file

    write_file(path, save(dict(tensors), metadata=metadata))
