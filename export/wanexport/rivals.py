"""diffusers' own model in torch, with an engine's weights: what `wanrt bench --with` compares with.

The parameters are the byte ranges that the engine's graph names, mapped from its files; what
diffusers keeps in fp32 is cast, as it does. The eager model has run on a GPU, the compiled one
never.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wanexport.model.config import Architecture
from wanexport.storage.dtypes import torch_dtype
from wanexport.verify.built_engine import open_built
from wanexport.verify.reference_model import empty_model, load_parameters, take_inputs
from wanrt.bench.loading.jobs import LoadJob
from wanrt.engine.inputs import make_inputs
from wanrt.engine.stack import AdapterArgument, list_adapters
from wanrt.errors import EngineError, UnsupportedError
from wanrt.machine.cores import usable_cores
from wanrt.manifest.fields import Dtype
from wanrt.manifest.folder import check_files
from wanrt.manifest.schema import Manifest

__all__ = ["TorchRival", "load_compiled", "load_eager"]

PLAIN = ("full", "merged")
"""Modes whose graph is diffusers' model and nothing beside it."""


class TorchRival:
    """diffusers' model with its inputs resident; `wanrt.engine.engine.Runner` is its contract."""

    def __init__(
        self, name: str, run: Callable[..., tuple[Tensor]], feeds: dict[str, Tensor], device: str
    ) -> None:
        self._name = name
        self._run: Callable[..., tuple[Tensor]] | None = run
        self._feeds = feeds
        self._device = device
        self.sample: Tensor | None = None
        """What the last forward returned."""
        self.enqueue_s: float | None = None
        """The host's seconds of the last forward until all of it was enqueued, on a GPU."""

    @property
    def timed(self) -> str:
        """What `time_forward` measures, in one sentence."""
        until = "" if self._device == "cpu" else " until synchronized"
        return f"diffusers' forward{until}, inputs resident, inference mode, host clock"

    def swap(self, adapter: AdapterArgument) -> None:
        """Do nothing: a rival has no adapter.

        Raises:
            EngineError: one was given.
        """
        if list_adapters(adapter):
            raise EngineError(f"{self._name} takes no adapter")

    def time_forward(self) -> float:
        """Run one forward and return its seconds."""
        if self._run is None:
            raise EngineError(f"{self._name} is closed")
        with torch.inference_mode():
            self._synchronize()
            start = time.perf_counter()
            self.sample = self._run(**self._feeds, return_dict=False)[0]
            enqueued = time.perf_counter()
            self._synchronize()
            seconds = time.perf_counter() - start
        self.enqueue_s = None if self._device == "cpu" else enqueued - start
        return seconds

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self._run = self.sample = None
        self._feeds.clear()

    def _synchronize(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize()


def load_eager(job: LoadJob, dtype: Dtype | None = None) -> TorchRival:
    """Load diffusers' model as it is.

    Args:
        job: what to load.
        dtype: what torch computes in; the engine's own by default.

    Raises:
        ManifestError: the engine folder isn't right.
        EngineError: the engine carries an adapter, or its graph isn't diffusers' model.
        UnsupportedError: torch can't use the device.
    """
    return _load(job, "torch-eager", lambda model: model, dtype)


def load_compiled(job: LoadJob) -> TorchRival:
    """Load diffusers' model under `torch.compile` and run it once, which compiles it.

    What an earlier run left in torch's own cache is not compiled again.

    Raises:
        UnsupportedError: there is no compiler to compile with, or as `load_eager`.
    """
    _check_compiler()
    # torch's pool of compiling processes would outlive the compilation, and count nowhere
    torch._inductor.config.compile_threads = 1
    rival = _load(job, "torch-compile", torch.compile)
    rival.time_forward()
    return rival


def _load(
    job: LoadJob,
    name: str,
    wrap: Callable[..., Callable[..., tuple[Tensor]]],
    computed_in: Dtype | None = None,
) -> TorchRival:
    check_files(job.engine)
    folder, manifest = job.engine.path, job.engine.manifest
    if manifest.mode not in PLAIN:
        raise EngineError(
            f"{name} takes the weights of a full or merged engine; "
            f"{folder} is a {manifest.mode} one"
        )
    if job.device != "cpu" and not torch.cuda.is_available():
        raise UnsupportedError(f"torch {torch.__version__} finds no CUDA device")
    torch.set_num_threads(job.threads or usable_cores())
    built = open_built(job.engine)
    arch = built.arch
    dtype = torch_dtype(computed_in or manifest.dtype)
    model = empty_model(arch, arch.num_layers)
    names = [parameter for parameter, _ in model.named_parameters()]
    load_parameters(model, "", names, built.read, dtype)
    model.eval().to(job.device)
    return TorchRival(name, wrap(model), _feeds(job, manifest, arch, dtype), job.device)


def _feeds(
    job: LoadJob, manifest: Manifest, arch: Architecture, dtype: torch.dtype
) -> dict[str, Tensor]:
    inputs = make_inputs(manifest, manifest.workloads[job.workload], job.seed)
    fed = {
        # numpy has no bf16 that torch knows; fp32 holds every value of it
        name: torch.from_numpy(value.astype("float32")).to(job.device)
        for name, value in inputs.items()
    }
    return take_inputs(arch, fed, dtype)


def _check_compiler() -> None:
    """Check for what torch.compile needs on a CPU and, for its launchers, on a GPU."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UnsupportedError(
            f"torch.compile needs a C++ compiler, and there is no {compiler}",
            "install one (apt-get install g++), or name yours by CXX",
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise UnsupportedError(
            f"torch.compile needs Python's headers, and there is no {header}",
            "install them: apt-get install python3-dev",
        )
