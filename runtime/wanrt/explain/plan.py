"""The kernels of a TensorRT-RTX plan, read from its text as data: no library, no GPU."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wanrt.errors import EngineError
from wanrt.explain.kernel import Kernel, Operand

__all__ = ["read_kernels"]

MAGIC: Final = b"vtrt"
VERSION_AT: Final = 24  # four bytes: 1, 7, 1, 116 is 1.7.1.116
KNOWN_VERSIONS: Final = {(1, 7, 1, 116)}
MAX_TEXT: Final = 64 << 20  # the text of 40 layers takes some 5 MB
MAX_LINE: Final = 1 << 20
DTYPES: Final = {
    "bf16": "bf16", "half": "fp16", "float": "fp32", "int32": "int32", "int64": "int64",
    "int8": "int8", "uint8": "uint8", "bool": "bool", "fp8_e4m3": "fp8", "fp4_e2m1": "fp4",
}  # fmt: skip
RECORD: Final = re.compile(rb"\n  (\w+)=\{ ([^\n]*)")
TENSORS: Final = ("tensor", "sub_tensor")
FUNCTIONS: Final = ("function", "runtime_function", "runtime_fusion")
EXCHANGES: Final = ("comm_alltoall", "comm_allgather")
KERNELS: Final = (*FUNCTIONS, *EXCHANGES, "fully_connected", "concat")
WAITING: Final = ("signal", "wait")  # of one stream for another: nothing is moved
QUOTED: Final = re.compile(r'"([^"]*)"')
SIZE: Final = re.compile(r"[0-9]{1,18}")
LAYER: Final = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """Return the kernels of a plan in the order in which they are listed.

    Raises:
        EngineError: it isn't a TensorRT-RTX plan of a version whose text is known.
    """
    tensors: dict[str, Operand] = {}
    kernels: list[Kernel] = []
    for kind, line in _listed(path):
        if kind in TENSORS:
            operand = _tensor(path, line)
            tensors[operand.name] = operand
        elif kind in KERNELS:
            kernels.append(_kernel(path, kind, line, tensors))
        elif kind not in WAITING:
            raise _unreadable(path, f"it lists a {kind!r}, which isn't known")
    if not kernels:
        raise _unreadable(path, "it lists no kernels")
    return tuple(kernel for kernel in kernels if not _is_twice(kernel, kernels))


def _is_twice(kernel: Kernel, kernels: list[Kernel]) -> bool:
    """Tell whether a concatenation is listed again as the function that it became."""
    return kernel.kind == "concat" and any(
        other is not kernel and other.outputs == kernel.outputs for other in kernels
    )


def _listed(path: Path) -> Iterator[tuple[str, str]]:
    try:
        yield from _records(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def _records(path: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and text of each line that describes a tensor or a kernel."""
    with path.open("rb") as file:
        header = file.read(VERSION_AT + 4)
        if len(header) < VERSION_AT + 4 or not header.startswith(MAGIC):
            raise _unreadable(path, "it isn't a TensorRT-RTX plan")
        version = tuple(header[VERSION_AT:])
        if version not in KNOWN_VERSIONS:
            shown = ".".join(map(str, version))
            raise _unreadable(path, f"it is of TensorRT-RTX {shown}, whose text isn't known")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            start = plan.find(b"\ndescriptors {")
            # Later texts are the insides of fusions, which the first one lists already.
            end = plan.find(b"\0", start, start + MAX_TEXT) if start >= 0 else -1
            if end < 0:
                raise _unreadable(path, "it has no descriptors")
            for record in RECORD.finditer(plan, start, end):
                if len(record[2]) > MAX_LINE:
                    raise _unreadable(path, "a line of it is too long")
                yield record[1].decode(), record[2].decode("utf-8", "replace")


def _tensor(path: Path, line: str) -> Operand:
    name, dtype = _text(line, "name"), _text(line, "type")
    shape = _braces(line, "dims").split()
    if not name or dtype not in DTYPES or not all(SIZE.fullmatch(size) for size in shape):
        raise _unreadable(path, f"tensor {name!r} has type {dtype!r} and dimensions {shape}")
    place = (_text(line, "base") or name, _text(line, "const_offset"))
    return Operand(name, DTYPES[dtype], tuple(int(size) for size in shape), place)


def _kernel(path: Path, kind: str, line: str, tensors: dict[str, Operand]) -> Kernel:
    suffix = "_args" if kind in FUNCTIONS else ""
    name, stream = _text(line, "name"), _text(line, "stream")
    sides = []
    for side in ("input", "output"):
        names = QUOTED.findall(_braces(line, side + suffix))
        unknown = [operand for operand in names if operand not in tensors]
        if unknown:
            raise _unreadable(path, f"kernel {name!r} has an operand {unknown[0]!r} without a type")
        sides.append(tuple(tensors[operand] for operand in names))
    if not sides[1] or not SIZE.fullmatch(stream):
        raise _unreadable(path, f"kernel {name!r} has no output or no stream")
    nodes = tuple(LAYER.findall(_text(line, "layers")))
    return Kernel(kind, name, sides[0], sides[1], nodes, stream=int(stream))


def _text(line: str, key: str) -> str:
    found = re.search(rf'(?<!\w){key}=(?:"([^"]*)"|([^\s{{}}"]+))', line)
    return (found[1] or found[2] or "") if found else ""


def _braces(line: str, key: str) -> str:
    found = re.search(rf"(?<!\w){key}=\{{([^}}]*)\}}", line)
    return found[1] if found else ""


def _unreadable(path: Path, why: str) -> EngineError:
    return EngineError(f"{path}: its kernels can't be read: {why}", "nothing is guessed from it")
