"""The choice of the backend that an engine is made for; the only module that names them all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wanrt.engine.engine import DeviceKind, Engine
from wanrt.engine.inputs import make_inputs
from wanrt.errors import EngineError, UnsupportedError
from wanrt.manifest.contents import check_contents
from wanrt.manifest.folder import EngineFolder, check_files, open_folder
from wanrt.manifest.schema import Manifest
from wanrt.manifest.unsupported import find_unsupported
from wanrt.storage.regular import JSON_BYTES, read_regular_text
from wanrt.terminal.progress import Reporter

if TYPE_CHECKING:
    from wanrt.backends.tensorrt.memory import Scratch

__all__ = ["check_engine", "is_emulated", "load_engine", "profile_forward"]

UPGRADE = "install a newer wanexport"


def load_engine(
    engine: Path | str | EngineFolder,
    *,
    device: DeviceKind | None = None,
    threads: int | None = None,
    mapped: bool = False,
    emulated: bool = False,
    keep_context: bool | None = None,
    workload: str | None = None,
    stream: int | None = None,
    weight_streaming: int | None = None,
    cuda_graph: bool = True,
    scratch: Scratch | None = None,
    reporter: Reporter | None = None,
) -> Engine:
    """Load an engine folder; use the engine as a context manager.

    One thread at a time may use an engine: a second one gets an `EngineError`. Different engines
    may run in parallel threads. Inputs that were bound or passed to `forward` are read in place
    where they can be and stay referenced until the next call or `close`.

    Args:
        engine: the engine folder, by its path or as it was opened.
        device: where the engine runs; by default a TensorRT engine's is cuda, another's cpu.
        threads: ONNX Runtime: of the engine's own pool; by default one per usable core.
        mapped: ONNX Runtime: leave the weights in the file's pages, shared with other processes,
            rather than repack them in private memory; loads at once, runs slower on a CPU.
        emulated: ONNX Runtime: run a bf16 engine on a CPU, which has no bf16, by the form of its
            graph that computes in fp32 and rounds to bf16. It is slow, and no measure of bf16.
        keep_context: keep a split engine's context graph loaded after `prepare`; by default on a
            CPU alone, so that its weights don't take a GPU's memory.
        workload: accept this workload's shapes only, by its name in the manifest.
        stream: TensorRT: the CUDA stream to enqueue everything on, as an integer; by default the
            engine has its own.
        weight_streaming: TensorRT: bytes of weights that stay on the GPU, the others are streamed
            to it in every forward; the plan must have been built for that.
        cuda_graph: TensorRT: run as a CUDA graph, except while weights are streamed.
        scratch: TensorRT: activation memory to share among engines of which at most one runs at
            any time.
        reporter: receives progress where copied weights are rehashed; silent by default.

    Raises:
        ManifestError: engine.json or a file it names isn't right.
        UnsupportedError: this machine lacks what the engine needs.
        EngineError: the backend refuses the engine, or there is no such workload.
    """
    opened = engine if isinstance(engine, EngineFolder) else open_folder(Path(engine))
    check_engine(opened, device, emulated=emulated, reporter=reporter)
    folder, manifest = opened.path, opened.manifest
    if workload is not None and workload not in manifest.workloads:
        raise EngineError(
            f"{folder} has no workload {workload!r}", f"it has: {', '.join(manifest.workloads)}"
        )
    ort_only = {
        "threads": threads is not None,
        "mapped": mapped,
        "emulated": emulated,
    }
    trt_only = {
        "stream": stream is not None,
        "weight_streaming": weight_streaming is not None,
        "cuda_graph=False": not cuda_graph,
    }
    if manifest.backend == "onnxruntime":
        from wanrt.backends.onnxruntime.engine import OrtEngine
        from wanrt.backends.onnxruntime.graph import SessionSettings

        _refuse(folder, manifest, trt_only)
        settings = SessionSettings(
            device=device or "cpu",
            threads=threads,
            mapped=mapped,
            emulated=emulated and is_emulated(manifest, device),
            static=len(manifest.workloads) == 1 or workload is not None,
            keep_context=device != "cuda" if keep_context is None else keep_context,
        )
        return OrtEngine(folder, manifest, settings, workload)
    from wanrt.backends.tensorrt.cuda import open_cuda
    from wanrt.backends.tensorrt.engine import TrtEngine

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
        keep_context=bool(keep_context),
    )


def profile_forward(opened: EngineFolder, reporter: Reporter | None = None) -> str:
    """Return ONNX Runtime's own profile of forwards of an engine on the CPU, as its JSON.

    It runs the manifest's first workload on random inputs, twice: the first forward makes what the
    second one finds there. A swappable engine has no adapter loaded, which takes as long as one.

    Args:
        opened: an engine of ONNX Runtime.
        reporter: receives progress; silent by default.

    Raises:
        ManifestError: a file of the engine isn't right.
        UnsupportedError: ONNX Runtime isn't installed, or the engine's dtype doesn't run on a CPU.
        EngineError: ONNX Runtime refuses the engine, or its profile can't be read.
    """
    from wanrt.backends.onnxruntime.engine import OrtEngine
    from wanrt.backends.onnxruntime.graph import SessionSettings

    check_engine(opened, "cpu", reporter=reporter)
    name, workload = next(iter(opened.manifest.workloads.items()))
    with tempfile.TemporaryDirectory(prefix="wanrt-profile-") as room:
        settings = SessionSettings(
            device="cpu",
            threads=None,
            mapped=False,
            emulated=False,
            static=True,
            profile=Path(room) / "profile",
        )
        engine = OrtEngine(opened.path, opened.manifest, settings, name)
        with engine:
            engine.bind(**make_inputs(opened.manifest, workload, seed=0))
            for _ in range(2):
                engine.time_forward()
            return _read_profile(engine.end_profile())


def _read_profile(path: Path) -> str:
    try:
        return read_regular_text(path, JSON_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"ONNX Runtime's profile can't be read: {error}") from None


def is_emulated(manifest: Manifest, device: DeviceKind | None = None) -> bool:
    """Tell whether an engine's dtype can only be emulated there: bf16 on ONNX Runtime's CPU."""
    on_cpu = manifest.backend == "onnxruntime" and device != "cuda"
    return on_cpu and manifest.dtype == "bf16"


def check_engine(
    folder: EngineFolder,
    device: DeviceKind | None = None,
    *,
    emulated: bool = False,
    reporter: Reporter | None = None,
) -> None:
    """Make every check of an engine that needs no loading.

    Args:
        folder: the engine folder.
        device: where the engine is to run; by default where its backend does.
        emulated: accept an engine that can only be emulated there.
        reporter: receives progress where copied weights are rehashed; silent by default.

    Raises:
        ManifestError: a file isn't right, a graph or constants have other bytes, or linked weights
            were written over.
        UnsupportedError: this machine lacks what the engine needs.
    """
    manifest = folder.manifest
    check_files(folder, reporter)
    check_contents(folder)
    reason = find_unsupported(manifest)
    if reason:
        raise UnsupportedError(f"this engine {reason}", UPGRADE)
    if manifest.backend == "onnxruntime":
        from wanrt.backends.onnxruntime.session import check_runtime

        check_runtime(device or "cpu")
        if manifest.quantization and device == "cuda":
            raise UnsupportedError(
                f"ONNX Runtime has no {manifest.quantization.scheme} products on CUDA: it would "
                "run them on the CPU",
                "run it with --device cpu",
            )
        if is_emulated(manifest, device):
            _check_emulated(manifest, allowed=emulated)
        return
    from wanrt.backends.tensorrt.check import check_plan

    check_plan(manifest)
    if device == "cpu":
        raise UnsupportedError(
            f"a {manifest.backend} engine runs on a GPU alone", "run it with --device cuda"
        )


def _check_emulated(manifest: Manifest, *, allowed: bool) -> None:
    if allowed and manifest.forward.emulated is not None:
        return
    hint = "run it with --device cuda, or build it with --dtype fp32"
    if allowed:
        hint += ", or rebuild it for an emulated form"
    raise UnsupportedError("bf16 doesn't run on ONNX Runtime's CPU", hint)


def _refuse(folder: Path, manifest: Manifest, options: dict[str, bool]) -> None:
    others = "TensorRT" if manifest.backend == "onnxruntime" else "ONNX Runtime"
    for name, given in options.items():
        if given:
            raise UnsupportedError(
                f"{name} applies to {others} engines only; {folder} is a {manifest.backend} engine"
            )
