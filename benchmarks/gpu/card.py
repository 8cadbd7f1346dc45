"""The card: what it is, what is installed, and what it reaches at most in practice."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from wanrt.machine.describe import describe_machine

from .record import Step
from .settings import Settings

QUERY = (
    "name,uuid,driver_version,vbios_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,"
    "clocks.sm,temperature.gpu,power.draw,ecc.mode.current"
)
LIBRARIES = (
    "torch", "triton", "diffusers", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu",
    "onnxruntime", "tensorrt-cu13", "tensorrt-rtx-cu13-libs", "nvidia-cudnn-cu13",
    "nvidia-cublas", "cuda-bindings",
)  # fmt: skip
REPEATS = 20


def context(settings: Settings) -> Step:
    """Return what all results depend on."""
    card = _query("uuid") if settings.device == "cuda" else "none"
    return {
        "card": card,
        "device": settings.device,
        "small": settings.small,
        "layers": settings.layers,
        "deep_layers": settings.deep_layers,
        "sizes": [size.name for size in settings.sizes],
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def describe(settings: Settings) -> Step:
    """Return the machine as `wanrt bench` describes it, and what nvidia-smi says of the card."""
    machine = asdict(describe_machine(settings.device, None, rivals=True))
    smi = _query(QUERY) if settings.device == "cuda" else "none"
    return {"machine": machine, "nvidia_smi": smi}


def matmul_ceiling(settings: Settings) -> Step:
    """Multiply random square matrices with torch (cuBLAS): what engines are held against."""
    size = 256 if settings.small else 8192
    dtype = torch.bfloat16 if settings.device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=settings.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    seconds = _time(settings, lambda: torch.mm(a, b, out=out))
    return {"size": size, "dtype": str(dtype), "flops_per_s": 2 * size**3 / seconds}


def copy_ceiling(settings: Settings) -> Step:
    """Copy memory on the device; bytes read and bytes written both count."""
    size = (1 << 20) if settings.small else (1 << 32)
    a = torch.empty(size, dtype=torch.uint8, device=settings.device).random_()
    out = torch.empty_like(a)
    seconds = _time(settings, lambda: out.copy_(a))
    return {"bytes": size, "bytes_per_s": 2 * size / seconds}


def attention_ceiling(settings: Settings) -> Step:
    """Run torch's attention kernels alone, at the size of the model's self-attention."""
    tokens, heads = (120, 4) if settings.small else (32760, 40)
    dtype = torch.bfloat16 if settings.device == "cuda" else torch.float32
    q, k, v = (
        torch.randn(1, heads, tokens, 128, device=settings.device).to(dtype) for _ in range(3)
    )
    attend = functional.scaled_dot_product_attention
    flops = 4 * heads * tokens**2 * 128
    found: Step = {"tokens": tokens, "heads": heads}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                seconds = _time(settings, lambda: attend(q, k, v))
        except RuntimeError as error:  # this torch or card has none
            found[backend.name] = str(error).splitlines()[0]
        else:
            found[backend.name] = flops / seconds
    return found


def _time(settings: Settings, run: Callable[[], object]) -> float:
    """Return the median seconds of a run, by CUDA events where there is a GPU."""
    for _ in range(3):
        run()
    seconds = []
    for _ in range(REPEATS):
        if settings.device != "cuda":
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
            continue
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        run()
        after.record()
        after.synchronize()
        seconds.append(before.elapsed_time(after) / 1e3)
    return statistics.median(seconds)


def _query(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return out.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
