"""Estimates of what a build writes and how much memory it needs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from wanexport.build.targets import Target
from wanexport.checkpoint.locate import own_path
from wanexport.checkpoint.open import Checkpoint
from wanexport.lora.adapter import touched_parameters
from wanexport.model.names import computes_in_fp32
from wanexport.model.quantization import Format
from wanexport.storage.dtypes import itemsize
from wanexport.storage.hashes import join_digests, sha256_text
from wanexport.storage.links import pool_path
from wanexport.weights.quantize import quantize_refs
from wanrt.storage.dtypes import SAFETENSORS
from wanrt.storage.files import real_path

__all__ = ["count_memory", "count_plan_bytes", "count_written"]

TRACE_BYTES = 450 << 20  # peak of the trace, whatever the model's size
PLAN_BYTES = 4 << 20  # of a layer in a TensorRT plan, weights apart


def count_written(target: Target, pooled: set[Path]) -> int:
    """Estimate the bytes that making an engine writes, a TensorRT plan apart.

    What it pools is added to `pooled`.
    """
    arch, dtype = target.config.architecture, SAFETENSORS[target.config.dtype]
    width = itemsize(dtype)
    narrow = {f"{module}.weight" for module in target.quantized}
    nbytes = {
        name: math.prod(shape) * (1 if name in narrow else width)
        for name, shape in target.shapes.items()
    }
    written = 64_000 * arch.num_layers + 600_000  # model.onnx and the rotary table
    if target.copy:
        written += sum(nbytes.values())
    else:
        weights = target.weights
        digests = dict(weights.files)
        quantized = (target.quantized, target.form)
        cast = _pooled(target.out, weights.checkpoint, digests, dtype, *quantized)
        written += sum(n for path, n in cast.items() if path not in pooled and not path.exists())
        pooled.update(cast)
        written += sum(nbytes[name] for name in _rewritten(target))
    per_rank = {m: sum(target.shapes[f"{m}.weight"][:2]) * width for m in target.ranks}
    if target.mode == "separate":
        written += sum(per_rank[m] * r for m, r in target.ranks.items())
    if target.mode == "swappable":
        written += sum(per_rank[m] * r for s in target.adapters for m, r in s.ranks.items())
    return written


def count_plan_bytes(target: Target) -> int:
    """Estimate the bytes of a TensorRT plan."""
    if not target.tensorrt:
        return 0
    size = PLAN_BYTES * target.config.architecture.num_layers
    if target.tensorrt.refit in ("baked", "targets"):  # `targets` strips the adapter's alone
        free = set() if target.swap_rank is None else _rewritten(target)
        kept = {n: math.prod(shape) for n, shape in target.shapes.items() if n not in free}
        narrow = sum(kept.get(f"{module}.weight", 0) for module in target.quantized)
        wide = sum(kept.values()) - narrow
        size += (wide * itemsize(target.config.dtype) + narrow) * 5 // 4
    return size


def count_memory(target: Target) -> int:
    """Estimate the peak of anonymous memory: tracing's, and that of the largest work after it."""
    sizes = {name: math.prod(shape) for name, shape in target.shapes.items()}
    # what is read goes by in blocks; random weights are made a tensor at a time
    made = target.weights.checkpoint is not None
    work = 0 if made else itemsize(target.config.dtype) * max(sizes.values())
    for delta in (d for s in target.adapters for part in s.adapters for d in part.deltas):
        if not delta.is_low_rank:
            work = max(work, 20 * sizes[delta.parameter])  # DoRA: five times in fp32
    if target.verify:  # a block of diffusers' model beside the engine's, in fp32
        block = sum(size for name, size in sizes.items() if name.startswith("blocks.0."))
        work = max(work, 8 * block)
    return TRACE_BYTES + work


def _rewritten(target: Target) -> set[str]:
    """Return the parameters that an engine has values of its own for."""
    if target.mode != "merged":
        return touched_parameters(part for s in target.adapters for part in s.rest)
    (adapters,) = target.adapters
    if not adapters.adapters:  # not made yet
        return {f"{module}.weight" for module in adapters.ranks}
    return touched_parameters(adapters.adapters)


def _pooled(
    out: Path,
    checkpoint: Checkpoint | None,
    digests: Mapping[str, str],
    dtype: str,
    quantized: Collection[str],
    form: Format | None,
) -> dict[Path, int]:
    """Return the files of the pool that a checkpoint comes to, and their sizes.

    A file that holds anything to cast goes there as a whole; so does one on another file system.
    """
    if checkpoint is None:
        return {}
    device = next(path for path in (out, *real_path(out).parents) if path.exists()).stat().st_dev
    sizes: dict[Path, int] = {}
    held = ((own_path(file.path), layer) for layer in checkpoint.layers for file in layer.files)
    for path, layer in held:
        made = quantize_refs(layer.tensors, quantized, form)
        refs = [(n, ref) for n, ref in made.items() if ref.path == path]
        if {n for n, ref in layer.tensors.items() if ref.path == path} <= layer.hidden:
            continue
        stored = {
            name: ref.dtype
            if computes_in_fp32(name) or ref is not layer.tensors.get(name)
            else dtype
            for name, ref in refs
        }
        if any(ref.dtype != stored[name] or not ref.as_it_lies for name, ref in refs):
            size = sum(math.prod(ref.shape) * itemsize(stored[name]) for name, ref in refs)
            read = {str(path) for _, ref in refs for path in ref.paths}
            made_by = {sha256_text(ref.made_by) for _, ref in refs if ref.made_by}
            digest = join_digests([*(digests[path] for path in read), *made_by])
            sizes[pool_path(out / ".weights", digest, dtype)] = size
        elif refs and path.stat().st_dev != device:
            sizes[pool_path(out / ".weights", digests[str(path)])] = path.stat().st_size
    return sizes
