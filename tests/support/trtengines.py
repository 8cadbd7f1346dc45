"""TensorRT engine folders for the fake library: y = sum of x W^T over two modules, plus a bias.

The adapter that a merged engine was built with changes the first module alone. Of a split engine
the second module is the context graph's, k = t W^T, and y = x W^T + bias + the sum of k's rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tinyengines import numpy_dtype, write_adapter

Q, K = "blocks.0.attn2.to_q", "blocks.0.attn2.to_k"
MODULES = (Q, K)
WIDTH, MAX_RANK = 16, 4
TEXT_ROWS, KEYS = 3, "blocks.0.attn2.k"
FILES = {
    "forward": ("model.onnx", "engine.plan"),
    "context": ("context.onnx", "context.plan"),
    "denoise": ("denoise.onnx", "denoise.plan"),
}
TRT = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
SAFETENSORS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True)
class Trt:
    """What an engine is like; `plan` and `fake` override the manifest's plan and the fake's."""

    mode: str = "full"
    refit: str = "none"
    dtype: str = "fp32"
    backend: str = "tensorrt"
    workloads: dict[str, int] = field(default_factory=lambda: {"small": 6})
    fused: tuple[tuple[str, ...], ...] = ()
    seed: int = 0
    split: bool = False
    plan: dict[str, Any] = field(default_factory=dict)
    fake: dict[str, Any] = field(default_factory=dict)

    @property
    def graphs(self) -> dict[str, tuple[str, ...]]:
        """The modules of each graph."""
        return {"context": (K,), "denoise": (Q,)} if self.split else {"forward": MODULES}


def draw(seed: int, *shape: int) -> Any:
    """Return seeded values in fp32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def base(trt: Trt) -> dict[str, Any]:
    """Return the pristine parameters."""
    kind = numpy_dtype(trt.dtype)
    found = {f"{m}.weight": draw(trt.seed + i, WIDTH, WIDTH) for i, m in enumerate(MODULES)}
    return {n: v.astype(kind) for n, v in (found | {"bias": draw(9, WIDTH)}).items()}


def adapter(seed: int, *modules: str, rank: int = 2) -> dict[str, Any]:
    """Return an adapter's matrices in fp32."""
    return {
        f"{module}.{half}": draw(seed + i, *shape)
        for i, module in enumerate(modules)
        for half, shape in (("lora_A", (rank, WIDTH)), ("lora_B", (WIDTH, rank)))
    }


def merge(parameters: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with an adapter merged in fp32 and rounded once."""
    merged = dict(parameters)
    for name in tensors:
        if name.endswith(".lora_A"):
            module = name.removesuffix(".lora_A")
            old = parameters[f"{module}.weight"]
            new = old.astype(np.float32) + tensors[f"{module}.lora_B"] @ tensors[name]
            merged[f"{module}.weight"] = new.astype(old.dtype)
    return merged


def compute(parameters: dict[str, Any], x: Any, t: Any = None) -> Any:
    """Return what an engine of these parameters computes; a split one, given `t`."""
    values = {name: value.astype(np.float32) for name, value in parameters.items()}
    y = x.astype(np.float32) * 0 + values["bias"]
    for module in MODULES:
        of_text = module == K and t is not None
        given = (t if of_text else x).astype(np.float32)
        part = given @ values[f"{module}.weight"].T
        if f"{module}.lora_A" in values:
            part = part + (given @ values[f"{module}.lora_A"].T) @ values[f"{module}.lora_B"].T
        y = y + (part.sum(0) if of_text else part)
    return y.astype(parameters["bias"].dtype)


def save_adapter(path: Path, tensors: dict[str, Any]) -> Path:
    """Write a canonical adapter."""
    return write_adapter(path, tensors)


def make_trt(folder: Path, trt: Trt | None = None) -> Path:
    """Write an engine folder."""
    trt = trt or Trt()
    folder.mkdir(parents=True)
    (folder / "weights").mkdir()
    pristine = base(trt)
    own = dict(pristine)
    save_file(pristine, folder / "weights/base.safetensors")
    files = ["weights/base.safetensors"]
    ranges = pristine_ranges = _ranges(folder, files[0])
    if trt.mode == "merged":
        own = merge(pristine, adapter(1, Q))
        save_file({f"{Q}.weight": own[f"{Q}.weight"]}, folder / "weights/merged.safetensors")
        files.append("weights/merged.safetensors")
        ranges = ranges | _ranges(folder, files[1])
    if trt.mode == "separate":
        kind = numpy_dtype(trt.dtype)
        lora = {name: value.astype(kind) for name, value in adapter(1, Q).items()}
        own |= lora
        save_file(lora, folder / "weights/lora.safetensors")
        files.append("weights/lora.safetensors")
        ranges = ranges | _ranges(folder, files[1])
    swaps = trt.mode == "merged" and trt.refit in ("targets", "all")
    graphs = {
        name: _graph(folder, trt, name, own, ranges, pristine_ranges if swaps else None)
        for name in trt.graphs
    }
    manifest = {
        "schema_version": 1, "name": folder.name, "model": "tiny", "mode": trt.mode,
        "rank": None if trt.mode in ("full", "swappable") else 2,
        "max_rank": MAX_RANK if trt.mode == "swappable" else None,
        "targets": [] if trt.mode == "full" else list(MODULES), "dtype": trt.dtype,
        "backend": trt.backend, "random_weights": True, "full_finetune": True,
        "graphs": graphs,
        "workloads": {name: _workload(trt, rows) for name, rows in trt.workloads.items()},
        "weights": [
            {"file": f, **_hash(folder / f), "mtime_ns": (folder / f).stat().st_mtime_ns,
             "origin": "base", "storage": "own"} for f in files
        ],
        "adapters": [], "sources": [], "config": {"name": "tiny"},
        "command": ["build", "--backend", trt.backend], "compared_by": {"model": "tiny"},
        "inputs": {}, "tools": {}, "verification": {"method": "none"},
    }  # fmt: skip
    (folder / "engine.json").write_text(json.dumps(manifest))
    return folder


def own_parameters(trt: Trt) -> dict[str, Any]:
    """Return what the engine computes with when it is loaded."""
    if trt.mode == "merged":
        return merge(base(trt), adapter(1, Q))
    kind = numpy_dtype(trt.dtype)
    lora = adapter(1, Q) if trt.mode == "separate" else {}
    return base(trt) | {name: value.astype(kind) for name, value in lora.items()}


def _graph(
    folder: Path, trt: Trt, name: str, own: dict[str, Any], ranges: Any, base_ranges: Any
) -> dict[str, Any]:
    """Write a graph's files and return its entry in the manifest."""
    modules, (model, file) = trt.graphs[name], FILES[name]
    of_context = name == "context"
    held = {n: v for n, v in own.items() if n.rpartition(".")[0] in modules}
    held |= {} if of_context else {"bias": own["bias"]}
    (folder / model).write_bytes(b"the graph")
    (folder / file).write_text(json.dumps(_fake_plan(trt, name, held) | trt.fake))
    plan: dict[str, Any] = {
        "file": file, **_hash(folder / file), "key": "0" * 64,
        "library": "11.4.0.106", "gpu": "Fake GPU", "compute_capabilities": ["8.9"],
        "hardware_compatibility": "none", "version_compatible": False, "refit": trt.refit,
        "weight_streaming": False, "profiles": list(trt.workloads),
        "weights": {} if trt.refit == "baked" else {n: r for n, r in ranges.items() if n in held},
    }  # fmt: skip
    if base_ranges is not None:
        plan["swap"] = _swap(folder, trt, name, base_ranges)
    return {
        "file": model, **_hash(folder / model),
        "weight_bytes": sum(v.nbytes for v in held.values()), "inputs": _inputs(trt, name),
        "outputs": [_output(trt, name)], "plan": plan | trt.plan,
    }  # fmt: skip


def _output(trt: Trt, name: str) -> dict[str, Any]:
    if name == "context":
        return {"name": KEYS, "dtype": trt.dtype, "shape": [TEXT_ROWS, WIDTH]}
    return {"name": "y", "dtype": trt.dtype, "shape": [_rows(trt), WIDTH]}


def _rows(trt: Trt) -> int | str:
    return next(iter(trt.workloads.values())) if len(trt.workloads) == 1 else "rows"


def _inputs(trt: Trt, name: str) -> list[dict[str, Any]]:
    text: dict[str, Any] = {"name": "t", "dtype": trt.dtype, "shape": [TEXT_ROWS, WIDTH]}
    latents: dict[str, Any] = {"name": "x", "dtype": trt.dtype, "shape": [_rows(trt), WIDTH]}
    found = [text if name == "context" else latents]
    if trt.mode == "swappable":
        strengths = {"name": "strengths", "dtype": "fp32", "shape": [MAX_RANK]}
        found += _adapter_inputs(trt.dtype, trt.graphs[name])
        found += [strengths | {"role": "strengths"}]
    return [*found, _output(trt, "context") | {"role": "context"}] if name == "denoise" else found


def _adapter_inputs(dtype: str, modules: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {"name": f"{module}.{half}", "dtype": dtype, "shape": shape, "role": half, "module": module}
        for module in modules
        for half, shape in (("lora_A", [MAX_RANK, WIDTH]), ("lora_B", [WIDTH, MAX_RANK]))
    ]


def _fake_plan(trt: Trt, name: str, own: dict[str, Any]) -> dict[str, Any]:
    modules, given = trt.graphs[name], "t" if name == "context" else "x"
    io = {
        spec["name"]: {"dtype": TRT[spec["dtype"]], "input": is_input, "shape": [
            -1 if isinstance(size, str) else size for size in spec["shape"]]}
        for is_input, specs in ((True, _inputs(trt, name)), (False, [_output(trt, name)]))
        for spec in specs
    }  # fmt: skip
    names = {"baked": (), "targets": [f"{m}.weight" for m in modules]}.get(trt.refit, list(own))
    held = {n: v.astype(np.float32).tolist() for n, v in own.items() if n not in names}
    rows = [TEXT_ROWS if given == "t" else rows for rows in trt.workloads.values()]
    return {
        "kind": name, "io": io, "modules": list(modules), "host_code": False,
        "profiles": [{given: [count, WIDTH]} for count in rows],
        "scratch": [1000 * rows for rows in trt.workloads.values()],
        "weights": {n: {"dtype": TRT[trt.dtype], "shape": v.shape} for n, v in own.items()},
        "refittable": list(names), "baked": held, "fused": list(trt.fused),
        "streamable": 4096, "least_budget": 100,
    }  # fmt: skip


def _swap(folder: Path, trt: Trt, name: str, ranges: dict[str, Any]) -> dict[str, Any]:
    shapes = {"weight": [WIDTH] * 2, "lora_A": [MAX_RANK, WIDTH], "lora_B": [WIDTH, MAX_RANK]}
    io = {key: {"dtype": "FLOAT", "input": True, "shape": s} for key, s in shapes.items()}
    io["merged"] = {"dtype": "FLOAT", "input": False, "shape": shapes["weight"]}
    for key in ("weight", "merged"):
        io[key]["dtype"] = TRT[trt.dtype]
    path = folder / f"{name if trt.split else ''}merge-{WIDTH}x{WIDTH}.plan"
    fake = {"kind": "merge", "io": io, "profiles": [{}], "scratch": [500], "weights": {},
            "refittable": [], "baked": {}, "fused": [], "streamable": 0, "least_budget": 0,
            "host_code": False}  # fmt: skip
    path.write_text(json.dumps(fake))
    return {
        "inputs": _adapter_inputs("fp32", trt.graphs[name]),
        "base": {f"{module}.weight": ranges[f"{module}.weight"] for module in trt.graphs[name]},
        "merges": [
            {"file": path.name, **_hash(path), "shape": [WIDTH, WIDTH], "max_rank": MAX_RANK}
        ],
    }


def _ranges(folder: Path, file: str) -> dict[str, Any]:
    data = (folder / file).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, facts in header.items():
        begin, end = facts["data_offsets"]
        dtype = SAFETENSORS[facts["dtype"]]
        found[name] = {
            "file": file, "offset": 8 + length + begin, "bytes": end - begin, "dtype": dtype,
        }  # fmt: skip
    return found


def _workload(trt: Trt, rows: int) -> dict[str, Any]:
    text = {"t": [TEXT_ROWS, WIDTH]} if trt.split else {}
    cost = {"flops": {"linear": 1024}, "bytes": {"linear": 1024}}
    return {
        "width": 64, "height": 32, "frames": 1, "batch": 1, "tokens": rows,
        "shapes": {"x": [rows, WIDTH], **text}, **cost, "activation_bytes": 0,
        "context": cost if trt.split else None,
    }  # fmt: skip


def _hash(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
