"""Exchanging adapters: matrices written into a swappable engine's inputs, or merged into weights.

A merged engine's swap never reads what it wrote: every matrix is merged from the pristine base and
the adapter, both in fp32, and rounded once. Going back refits the engine's own bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wanrt.backends.tensorrt.context import Execution
from wanrt.backends.tensorrt.cuda import Cuda
from wanrt.backends.tensorrt.library import dtype_name, open_plan
from wanrt.backends.tensorrt.memory import Blocks, Scratch
from wanrt.backends.tensorrt.weights import MISMATCH, REBUILD, MappedFiles, Refit, Value
from wanrt.engine.adapter import pad_matrix
from wanrt.engine.stack import Stack
from wanrt.engine.tensors import show_shape
from wanrt.errors import EngineError, WanrtError
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.plan import MergePlan, Swap, WeightRange
from wanrt.storage.dtypes import NUMPY, Array, numpy_dtype

__all__ = ["MergedAdapter", "PaddedAdapter", "Swapper"]

Tensors = Mapping[str, Array]


class Swapper(Protocol):
    """What puts a checked canonical adapter into an engine."""

    def load(self, stack: Stack) -> None:
        """Put adapters in; an empty stack takes them out. A failure leaves those before."""

    def set_strengths(self, stack: Stack) -> None:
        """Change the strengths of the adapters that were loaded last."""

    @property
    def needs_reload(self) -> bool:
        """Whether a failure left parts of two adapters in, which only another `load` can mend."""

    def close(self) -> None:
        """Free what it holds."""


class PaddedAdapter:
    """A swappable engine's A and B: inputs that stay in place, so that CUDA graphs stay valid."""

    def __init__(
        self, specs: Iterable[TensorSpec], cuda: Cuda, stream: int, blocks: Blocks
    ) -> None:
        self._specs = list(specs)
        self._cuda = cuda
        self._stream = stream
        self.addresses = {
            spec.name: blocks.take(spec.name, _zeros(spec).nbytes) for spec in self._specs
        }

    def load(self, stack: Stack) -> None:
        """Copy strengths and matrices to the device, padded with zeros, one by one."""
        for spec in self._specs:
            self._copy(spec, stack)

    def set_strengths(self, stack: Stack) -> None:
        """Copy the strengths alone."""
        for spec in self._specs:
            if spec.role == "strengths":
                self._copy(spec, stack)

    def _copy(self, spec: TensorSpec, stack: Stack) -> None:
        values = _zeros(spec)
        stack.write(spec, values)
        address = self.addresses[spec.name]
        self._cuda.copy_in(address, values.ctypes.data, values.nbytes, self._stream)
        self._cuda.synchronize(self._stream)

    @property
    def needs_reload(self) -> bool:
        """Never, unless the device fails."""
        return False

    def close(self) -> None:
        """Do nothing: the blocks are the engine's."""


@dataclass(frozen=True)
class _Merge:
    """A merge plan, ready to run."""

    plan: MergePlan
    execution: Execution


class MergedAdapter:
    """A merged engine's adapter, exchanged by refitting the matrices that change.

    One matrix and what TensorRT fused with it are merged and refitted at a time, so that the device
    needs room for no more.
    """

    def __init__(
        self,
        folder: Path,
        swap: Swap,
        own: Mapping[str, WeightRange],
        refit: Refit,
        files: MappedFiles,
        cuda: Cuda,
        stream: int,
        scratch: Scratch,
        *,
        host_code: bool,
    ) -> None:
        self._folder = folder
        self._swap = swap
        self._own = own
        self._files = files
        self._cuda = cuda
        self._stream = stream
        self._scratch = scratch
        self._host_code = host_code
        self.needs_reload = False
        self._pairs = _pair(folder, swap)
        self._refit = refit
        self._merges: dict[tuple[int, int], _Merge] = {}
        self._blocks = Blocks(cuda)
        self._tensors: Tensors | None = None
        self._wanted: Tensors | None = None
        self._outputs = 0
        # what a parameter holds: a range, the A that it was merged with, or None: nobody knows
        self._held: dict[str, object] = {name: self._own_range(name) for name in swap.base}
        self._unsure: list[str] = []

    def load(self, stack: Stack) -> None:
        """Merge and refit what these adapters, or those before, touch."""
        tensors = stack.folded() if stack.adapters else None
        try:
            self._become(tensors)
        except BaseException:
            with suppress(WanrtError):  # then `needs_reload` says so
                self._become(self._tensors)
            raise
        self._tensors = tensors

    def set_strengths(self, stack: Stack) -> None:
        """Merge again: strengths are part of the weights."""
        self.load(stack)

    def close(self) -> None:
        """Free merge plans and buffers."""
        for merge in self._merges.values():
            merge.execution.close()
        self._merges.clear()
        self._blocks.close()

    def _become(self, tensors: Tensors | None) -> None:
        self._wanted = tensors
        with closing(self._blocks):
            for name in list(self._held):
                if self._held[name] is not self._source(name):
                    self._outputs = 0
                    self._refit.apply([name], self._value, self._begin)
                    self._held |= {one: self._source(one) for one in self._unsure}
            self._cuda.synchronize(self._stream)
        self.needs_reload = False

    def _begin(self, names: list[str]) -> None:
        self.needs_reload = True
        self._unsure = list(names)
        self._held |= dict.fromkeys(names)

    def _source(self, name: str) -> object:
        """Return what a parameter shall hold: an object by whose identity it is known."""
        if self._wanted is None or name not in self._swap.base:
            return self._own_range(name)
        pair = self._pairs.get(name)
        if pair is not None and pair[0] in self._wanted:
            return self._wanted[pair[0]]
        same = self._swap.base[name] == self._own.get(name)
        return self._own[name] if same else self._swap.base[name]

    def _own_range(self, name: str) -> WeightRange:
        if name not in self._own:
            raise EngineError(f"{self._folder}: {MISMATCH}: no weights {name}", REBUILD)
        return self._own[name]

    def _value(self, name: str) -> Value:
        source = self._source(name)
        if isinstance(source, WeightRange):
            return self._files.value(source)
        return self._merge(name)

    def _merge(self, name: str) -> Value:
        """Run the merge plan of a matrix; each has an output of its own until all are refitted."""
        assert self._wanted is not None
        base = self._swap.base[name]
        spec_a, spec_b = self._pairs[name]
        a, b = self._wanted[spec_a], self._wanted[spec_b]
        merge = self._open_merge(name, base, (b.shape[0], a.shape[1]))
        rank = merge.plan.max_rank
        arrays = {
            "lora_A": pad_matrix(a, (rank, a.shape[1]), "fp32"),
            "lora_B": pad_matrix(b, (b.shape[0], rank), "fp32"),
        }
        weight = self._files.value(base)
        sources = {key: (array.ctypes.data, array.nbytes) for key, array in arrays.items()}
        for key, (source, size) in (sources | {"weight": (weight.address, weight.size)}).items():
            address = self._blocks.take(key, size)
            self._cuda.copy_in(address, source, size, self._stream)
            merge.execution.place(key, address)
        merged = self._blocks.take(f"merged {self._outputs}", base.bytes)
        self._outputs += 1
        merge.execution.place("merged", merged)
        merge.execution.run()
        self._cuda.synchronize(self._stream)  # until here the arrays must live
        return Value(merged, base.bytes, base.dtype, on_device=True)

    def _open_merge(self, name: str, base: WeightRange, shape: tuple[int, int]) -> _Merge:
        if math.prod(shape) * NUMPY[base.dtype].itemsize != base.bytes:
            raise EngineError(
                f"{self._folder}: {MISMATCH}: {name} isn't {show_shape(shape)}", REBUILD
            )
        if shape in self._merges:
            return self._merges[shape]
        plan = next((plan for plan in self._swap.merges if plan.shape == shape), None)
        if plan is None:
            raise EngineError(
                f"{self._folder}: {name} of shape {show_shape(shape)} has no merge plan", REBUILD
            )
        path = self._folder / plan.file
        engine = open_plan(path, host_code=self._host_code)
        dtype = dtype_name(engine.get_tensor_dtype("merged"))
        if dtype != base.dtype:
            raise EngineError(
                f"{path}: {MISMATCH}: it gives {dtype}, {name} is {base.dtype}", REBUILD
            )
        execution = Execution(
            str(path), engine, self._cuda, self._stream, self._scratch, graphs=False
        )
        execution.shape(0, _merge_shapes(plan))
        self._merges[shape] = _Merge(plan, execution)
        return self._merges[shape]


def _pair(folder: Path, swap: Swap) -> dict[str, tuple[str, str]]:
    """Return the names of A and B by the parameter that they change: a module's `weight`."""
    halves: dict[str, dict[str, str]] = {}
    for spec in swap.inputs:
        halves.setdefault(f"{spec.module}.weight", {})[spec.role] = spec.name
    for name, pair in halves.items():
        if name not in swap.base or len(pair) != 2:
            raise EngineError(f"{folder}: the manifest has no base or no pair for {name}", REBUILD)
    return {name: (pair["lora_A"], pair["lora_B"]) for name, pair in halves.items()}


def _merge_shapes(plan: MergePlan) -> dict[str, tuple[int, ...]]:
    rows, columns = plan.shape
    return {
        "weight": plan.shape,
        "lora_A": (plan.max_rank, columns),
        "lora_B": (rows, plan.max_rank),
    }


def _zeros(spec: TensorSpec) -> Array:
    shape = tuple(dim for dim in spec.shape if isinstance(dim, int))
    return np.zeros(shape, numpy_dtype(spec.dtype))
