"""Small engine folders made by hand: y = x W^T + b, with a low-rank branch as the mode has it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file

MODULE = "blocks.0.attn2.to_q"
LORA_A, LORA_B = f"{MODULE}.lora_A", f"{MODULE}.lora_B"
WIDTH = 16
TOKENS = 6
ONNX = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
NUMPY = {"fp32": np.float32, "fp16": np.float16}


@dataclass(frozen=True)
class Tiny:
    """What a tiny engine is like."""

    mode: str = "full"
    rank: int | None = None
    max_rank: int | None = None
    dtype: str = "fp32"
    model: str = "tiny"
    name: str = "tiny-full"
    adapters: tuple[int, ...] = ()
    random_weights: bool = True
    verified: bool = True
    full_finetune: bool = True
    storage: str = "own"
    workloads: dict[str, int] = field(default_factory=lambda: {"64x32x1": TOKENS})
    width: int = WIDTH


def numpy_dtype(dtype: str) -> Any:
    """Return numpy's dtype; bf16 is ml_dtypes'."""
    import ml_dtypes

    return ml_dtypes.bfloat16 if dtype == "bf16" else NUMPY[dtype]


def adapter_tensors(rank: int, width: int = WIDTH, dtype: str = "fp32") -> dict[str, Any]:
    """Return a seeded A [r, in] and B [out, r]."""
    rng = np.random.default_rng(rank)
    kind = numpy_dtype(dtype)
    return {
        LORA_A: rng.standard_normal((rank, width)).astype(kind),
        LORA_B: rng.standard_normal((width, rank)).astype(kind),
    }


def write_adapter(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    """Write a canonical adapter; `metadata` overrides what marks it as one."""
    facts = {
        "format": "wanexport-adapter",
        "version": "1",
        "rank": "4",
        "source_sha256": "0" * 64,
        "random_weights": "true",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=facts | metadata)
    return path


def weights(tiny: Tiny) -> dict[str, Any]:
    """Return the tensors of the engine's weight file."""
    rng = np.random.default_rng(0)
    kind = numpy_dtype(tiny.dtype)
    w = rng.standard_normal((tiny.width, tiny.width)).astype(np.float32)
    lora = adapter_tensors(tiny.rank, tiny.width) if tiny.rank else {}
    if tiny.mode == "merged":
        w = w + lora[LORA_B] @ lora[LORA_A]
    tensors = {"weight": w.astype(kind), "bias": rng.standard_normal(tiny.width).astype(kind)}
    if tiny.mode == "separate":
        tensors |= {name: value.astype(kind) for name, value in lora.items()}
    return tensors


def make_engine(folder: Path, tiny: Tiny) -> Path:
    """Write an engine folder."""
    folder.mkdir(parents=True)
    tensors = weights(tiny)
    file = folder / "weights" / "tiny.safetensors"
    file.parent.mkdir()
    save_file(tensors, file)
    onnx.save(_model(tiny, tensors, file), folder / "model.onnx")
    adapters = []
    for stack, rank in enumerate(tiny.adapters):
        path = folder / "adapters" / f"r{rank}.safetensors"
        write_adapter(path, adapter_tensors(rank, tiny.width, tiny.dtype))
        file_of = {"file": f"adapters/r{rank}.safetensors", "rank": rank, "stack": stack}
        adapters.append(file_of | _hash(path))
    manifest = manifest_dict(tiny, _hash(folder / "model.onnx"), _hash(file), adapters)
    manifest["weights"][0]["mtime_ns"] = file.stat().st_mtime_ns
    write_manifest(folder, manifest)
    return folder


def manifest_dict(
    tiny: Tiny, graph: dict[str, Any], file: dict[str, Any], adapters: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return engine.json's content."""
    rows: int | str = next(iter(tiny.workloads.values())) if len(tiny.workloads) == 1 else "rows"
    spec = {"dtype": tiny.dtype, "shape": [rows, tiny.width]}
    weight_bytes = sum(array.nbytes for array in weights(tiny).values())
    inputs: list[dict[str, Any]] = [
        {"name": "x", **spec},
        {"name": "timestep", "dtype": "fp32", "shape": [1], "range": [0.0, 1000.0]},
    ]
    if tiny.mode == "swappable":
        for role, shape in _lora_shapes(tiny).items():
            name = f"{MODULE}.{role}"
            inputs.append(
                {"name": name, "dtype": tiny.dtype, "shape": shape, "role": role, "module": MODULE}
            )
        inputs.append(
            {"name": "strengths", "dtype": "fp32", "shape": [tiny.max_rank], "role": "strengths"}
        )
    return {
        "schema_version": 1,
        "name": tiny.name,
        "model": tiny.model,
        "mode": tiny.mode,
        "rank": tiny.rank,
        "max_rank": tiny.max_rank,
        "targets": [] if tiny.mode == "full" else [MODULE],
        "dtype": tiny.dtype,
        "backend": "onnxruntime",
        "random_weights": tiny.random_weights,
        "full_finetune": tiny.full_finetune,
        "graphs": {
            "forward": {
                "file": "model.onnx", **graph, "weight_bytes": weight_bytes,
                "inputs": inputs, "outputs": [{"name": "y", **spec}],
            }
        },
        "workloads": {name: _workload(rows, tiny) for name, rows in tiny.workloads.items()},
        "weights": [
            {
                "file": "weights/tiny.safetensors",
                **file,
                "mtime_ns": 0,
                "origin": "base",
                "storage": tiny.storage,
            }
        ],
        "adapters": adapters,
        "sources": [{"path": "base", "sha256": "0" * 64}],
        "config": {"name": tiny.model},
        "command": ["build", "--config", f"{tiny.model}.toml", "--mode", tiny.mode],
        "compared_by": {"model": tiny.model},
        "inputs": {"base": "0" * 64},
        "tools": {"wanexport": "0.1.0"},
        "verification": {"method": "blocks", "dtype": "fp32", "tokens": 6, "error": 3e-7,
                         "tolerance": 1e-5}
        if tiny.verified
        else {"method": "none"},
    }  # fmt: skip


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write engine.json."""
    (folder / "engine.json").write_text(json.dumps(manifest), encoding="utf-8")


def read_raw(folder: Path) -> dict[str, Any]:
    """Return engine.json's content as it is."""
    content: dict[str, Any] = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    return content


def make_family(root: Path, **common: Any) -> Path:
    """Write full, merged r4, separate r4 and a swappable engine with adapters r2 and r4."""
    make_engine(root / "tiny-full", Tiny(**common))
    for mode in ("merged", "separate"):
        name = f"tiny-{mode}-r4"
        make_engine(root / name, Tiny(mode=mode, rank=4, name=name, **common))
    swappable = Tiny(mode="swappable", max_rank=4, adapters=(2, 4), name="tiny-swappable", **common)
    make_engine(root / "tiny-swappable", swappable)
    return root


def touch_ns(path: Path, delta_ns: int) -> None:
    """Move a file's modification time."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + delta_ns))


def write_over(path: Path) -> None:
    """Make a file look as if somebody wrote over it through another link."""
    os.link(path, path.parents[2] / f"linked-{path.parents[1].name}-{path.name}")
    touch_ns(path, 1)


def expect(tiny: Tiny, x: Any, lora: dict[str, Any] | None = None) -> Any:
    """Return what the engine computes, by numpy."""
    tensors = weights(tiny)
    y = x @ tensors["weight"].T + tensors["bias"]
    branch = lora if lora is not None else tensors
    if LORA_A in branch:
        y = y + (x @ branch[LORA_A].T) @ branch[LORA_B].T
    return y


def _lora_shapes(tiny: Tiny) -> dict[str, list[int]]:
    rank = tiny.max_rank or 0
    return {"lora_A": [rank, tiny.width], "lora_B": [tiny.width, rank]}


def _workload(rows: int, tiny: Tiny) -> dict[str, Any]:
    return {
        "width": 64,
        "height": 32,
        "frames": 1,
        "batch": 1,
        "tokens": rows,
        "shapes": {"x": [rows, tiny.width], "timestep": [1]},
        "flops": {"linear": 2 * rows * tiny.width**2},
        "bytes": {"linear": 4 * tiny.width**2},
        "activation_bytes": 0,
    }


def _hash(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _model(tiny: Tiny, tensors: dict[str, Any], file: Path) -> onnx.ModelProto:
    kind = ONNX[tiny.dtype]
    rows: int | str = next(iter(tiny.workloads.values())) if len(tiny.workloads) == 1 else "rows"
    inputs = [
        helper.make_tensor_value_info("x", kind, [rows, tiny.width]),
        helper.make_tensor_value_info("timestep", TensorProto.FLOAT, [1]),
    ]
    nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["base"], transB=1)]
    down = LORA_A
    if tiny.mode == "swappable":
        down = "scaled"
        nodes += [
            helper.make_node("Unsqueeze", ["strengths", "axis"], ["column"]),
            helper.make_node("Cast", [LORA_A], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["wide", "column"], ["strong"]),
            helper.make_node("Cast", ["strong"], [down], to=kind),
        ]
    if tiny.mode in ("separate", "swappable"):
        nodes += [
            helper.make_node("Gemm", ["x", down], ["down"], transB=1),
            helper.make_node("Gemm", ["down", LORA_B, "base"], ["total"], transB=1),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["base"], ["total"]))
    nodes += [  # the timestep takes part, with no effect
        helper.make_node("Sub", ["timestep", "timestep"], ["none"]),
        helper.make_node("Cast", ["none"], ["zero"], to=kind),
        helper.make_node("Add", ["total", "zero"], ["y"]),
    ]
    if tiny.mode == "swappable":
        for role, shape in _lora_shapes(tiny).items():
            inputs.append(helper.make_tensor_value_info(f"{MODULE}.{role}", kind, shape))
        slots = [tiny.max_rank]
        inputs.append(helper.make_tensor_value_info("strengths", TensorProto.FLOAT, slots))
    outputs = [helper.make_tensor_value_info("y", kind, [rows, tiny.width])]
    held = _external(tensors, file, kind)
    if tiny.mode == "swappable":
        held.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _external(tensors: dict[str, Any], file: Path, kind: int) -> list[onnx.TensorProto]:
    """Return initializers that are byte ranges of the safetensors file."""
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    found = []
    for name, array in tensors.items():
        begin, end = header[name]["data_offsets"]
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        facts = {"location": f"weights/{file.name}", "offset": 8 + length + begin}
        for key, value in (facts | {"length": end - begin}).items():
            tensor.external_data.add(key=key, value=str(value))
        found.append(tensor)
    return found
