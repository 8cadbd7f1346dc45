"""This machine's CPU as a device: its matrix product and its memory, measured in about a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal

import numpy as np
import psutil

from wanrt.machine.cores import usable_cores
from wanrt.machine.describe import processor_name
from wanrt.machine.devices import DeviceRates
from wanrt.storage.dtypes import NUMPY, ONNX, Array

__all__ = ["measure_cpu"]

Clock = Callable[[], float]
Run = Callable[[], object]
CpuDtype = Literal["fp32", "fp16"]

SIDE = 1024  # of the product's square matrices
COPIED_BYTES = 128 << 20  # beyond any core's share of a last-level cache
SECONDS = 0.3
AT_LEAST = 3
OPSET, IR_VERSION = 13, 8


def measure_cpu(
    dtype: CpuDtype = "fp32",
    threads: int | None = None,
    clock: Clock = time.perf_counter,
) -> DeviceRates:
    """Measure what this CPU computes and moves per second: the fastest of several runs of each.

    The product is ONNX Runtime's Gemm, which also runs the engines; without ONNX Runtime it is
    numpy's, in fp32. The copy is numpy's, one slice per thread. `source` says which.

    Args:
        dtype: of the product.
        threads: one per usable core by default.
        clock: seconds.
    """
    threads = threads or usable_cores()
    product, dtype, library = _product(dtype, threads)
    flops_per_s = 2 * SIDE**3 / _fastest(product, clock)
    bytes_per_s = 2 * COPIED_BYTES / _fastest(_copy(threads), clock)
    return DeviceRates(
        name="cpu",
        full_name=f"{processor_name()}, {threads} threads",
        tflops={dtype: flops_per_s / 1e12},
        bandwidth_gb_s=bytes_per_s / 1e9,
        memory_gb=psutil.virtual_memory().total / 1e9,
        source=f"measured here: {library}, numpy's copy{_busy(threads)}",
    )


def _busy(threads: int) -> str:
    """Say it if other work may have taken a part of what was measured."""
    load = os.getloadavg()[0]
    return (
        f", too low: the machine was busy (load average {load:.1f})" if load > threads / 2 else ""
    )


def _fastest(run: Run, clock: Clock) -> float:
    """Return the seconds of the fastest run, after one that isn't counted."""
    run()
    times = [clock()]
    while len(times) <= AT_LEAST or times[-1] - times[0] < SECONDS:
        run()
        times.append(clock())
    return min(after - before for before, after in pairwise(times))


def _product(dtype: CpuDtype, threads: int) -> tuple[Run, CpuDtype, str]:
    """Return a run of the product, its dtype, and what computes it."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((SIDE, SIDE), np.float32)
    x = rng.standard_normal((SIDE, SIDE), np.float32)
    try:
        import onnxruntime as ort
    except ImportError:
        return (lambda: x @ weight.T), "fp32", f"numpy {np.__version__}'s product"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = _gemm_model(ONNX[dtype], weight.astype(NUMPY[dtype]))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {"x": x.astype(NUMPY[dtype])}
    return (lambda: session.run(None, inputs)), dtype, f"ONNX Runtime {ort.__version__}'s Gemm"


def _copy(threads: int) -> Run:
    source, target = np.ones((2, COPIED_BYTES // 8))
    slices = list(
        zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
    )
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda pair: np.copyto(*pair), slices))


def _gemm_model(element: int, weight: Array) -> bytes:
    """Return an ONNX model of y = x W^T; the runtime doesn't depend on onnx itself.

    The numbers are the fields of ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto and
    ValueInfoProto in onnx.proto.
    """
    trans_b = _message((1, b"transB"), (3, 1), (20, 2))
    node = _message((1, b"x"), (1, b"w"), (2, b"y"), (4, b"Gemm"), (5, trans_b))
    rows, columns = weight.shape
    tensor = _message((1, rows), (1, columns), (2, element), (8, b"w"), (9, weight.tobytes()))
    shape = _message(*((1, _message((1, side))) for side in weight.shape))
    kind = _message((1, _message((1, element), (2, shape))))
    graph = _message(
        (1, node),
        (2, b"gemm"),
        (5, tensor),
        (11, _message((1, b"x"), (2, kind))),
        (12, _message((1, b"y"), (2, kind))),
    )
    return _message((1, IR_VERSION), (7, graph), (8, _message((2, OPSET))))


def _message(*fields: tuple[int, int | bytes]) -> bytes:
    """Encode a protobuf message of integers, strings and messages."""
    encoded = []
    for number, value in fields:
        if isinstance(value, int):
            encoded += [_varint(number << 3), _varint(value)]
        else:
            encoded += [_varint(number << 3 | 2), _varint(len(value)), value]
    return b"".join(encoded)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
