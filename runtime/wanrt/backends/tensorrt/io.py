"""The inputs and outputs of a graph on TensorRT: checked, and put where its plan finds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wanrt.backends.tensorrt.context import Execution
from wanrt.backends.tensorrt.cuda import ALIGNMENT, Cuda
from wanrt.backends.tensorrt.dlpack import TensorView, view_tensor
from wanrt.backends.tensorrt.memory import Blocks
from wanrt.backends.tensorrt.weights import MISMATCH, REBUILD
from wanrt.engine.feeds import check_input, check_names
from wanrt.engine.tensors import match_shape, resolve_shape, show_shape
from wanrt.errors import EngineError
from wanrt.manifest.schema import Graph, Manifest
from wanrt.storage.dtypes import NUMPY, Array

__all__ = ["DeviceArray", "Feed", "TrtIo"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class DeviceArray:
    """An array in the device's memory."""

    address: int
    shape: Shape
    nbytes: int


@dataclass(frozen=True)
class Feed:
    """Checked inputs: where they are, what their symbols come to, and the profile for them.

    `context` are those that a context graph has made.
    """

    views: Mapping[str, TensorView]
    context: Mapping[str, DeviceArray]
    symbols: Mapping[str, int]
    profile: int


class TrtIo:
    """The data inputs and the outputs of a graph.

    A tensor on the GPU is read in place, another from a block that it is copied to. Blocks
    stay where they are as long as shapes do, so that a CUDA graph stays valid.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        graph: Graph,
        pinned: Mapping[str, Shape],
        cuda: Cuda,
        stream: int,
        blocks: Blocks,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._pinned = pinned
        self._cuda = cuda
        self._stream = stream
        self._blocks = blocks
        self._graph = graph
        self.data = {spec.name: spec for spec in graph.inputs if spec.role == "data"}
        self._context = {spec.name: spec for spec in graph.inputs if spec.role == "context"}
        known = {*self.data, *self._context}
        self._adapter = {spec.name: spec for spec in graph.inputs if spec.name not in known}
        self._held: Feed | None = None
        self.outputs: dict[str, DeviceArray] = {}

    def check(
        self, inputs: Mapping[str, object], context: Mapping[str, DeviceArray] | None = None
    ) -> Feed:
        """Check the inputs of a run, and find the profile of their shapes; nothing is changed.

        Args:
            inputs: the data inputs.
            context: of a denoise graph, by name what its context graph made.

        Raises:
            EngineError: an input is missing, unknown, of another dtype, or of shapes that aren't a
                workload's or the context's.
        """
        check_names(inputs, self.data, self._adapter)
        gpu = self._cuda.device()
        views = {n: view_tensor(n, inputs[n], self._stream, gpu) for n in self.data}
        symbols: dict[str, int] = {}
        for name, view in views.items():
            check_input(self.data[name], view.dtype, view.shape, symbols, self._pinned)
        held = {name: (context or {})[name] for name in self._context}
        for name, array in held.items():
            match_shape(self._context[name], array.shape, symbols)
        return Feed(views, held, symbols, self._find_profile(views))

    def place(
        self, execution: Execution, feed: Feed, outputs: Blocks | None = None, number: int = 0
    ) -> None:
        """Have a plan read these inputs, and write its outputs to blocks; return once copied.

        Args:
            execution: the plan's.
            feed: what `check` returned.
            outputs: blocks for the outputs; by default the graph's own.
            number: tells the feed's context from others.
        """
        shapes = {name: view.shape for name, view in feed.views.items()}
        shapes |= {name: array.shape for name, array in feed.context.items()}
        for name, spec in self._adapter.items():
            shapes[name] = tuple(dim for dim in spec.shape if isinstance(dim, int))
        execution.shape(feed.profile, shapes)
        for name, view in feed.views.items():
            execution.place(name, self._place_input(name, view))
        execution.switch(number, {name: array.address for name, array in feed.context.items()})
        for spec in self._graph.outputs:
            shape = execution.output_shape(spec.name)
            want = resolve_shape(spec, feed.symbols)
            if -1 in shape or want not in (None, shape):
                raise EngineError(
                    f"{self._folder}: {MISMATCH}: output {spec.name} has shape "
                    f"{show_shape(shape)} in the plan, {show_shape(spec.shape, feed.symbols)} in "
                    "engine.json",
                    REBUILD,
                )
            size = _bytes(shape, spec.dtype)
            address = (outputs or self._blocks).take(f"output {spec.name}", size)
            execution.place(spec.name, address)
            self.outputs[spec.name] = DeviceArray(address, shape, size)
        self._cuda.synchronize(self._stream)  # host memory is the caller's again
        self._held = feed

    def read_outputs(self) -> dict[str, Array]:
        """Return the outputs in memory of the caller's own."""
        arrays: dict[str, Array] = {}
        for spec in self._graph.outputs:
            held = self.outputs[spec.name]
            array = np.empty(held.shape, NUMPY[spec.dtype])
            self._cuda.copy_out(array.ctypes.data, held.address, array.nbytes, self._stream)
            arrays[spec.name] = array
        self._cuda.synchronize(self._stream)
        return arrays

    def close(self) -> None:
        """Let go of the caller's tensors."""
        self._held = None

    def _find_profile(self, views: Mapping[str, TensorView]) -> int:
        plan = self._graph.plan
        assert plan is not None
        known = {name: self._manifest.workloads[name].shapes for name in plan.profiles}
        for index, shapes in enumerate(known.values()):
            if all(shapes.get(name, view.shape) == view.shape for name, view in views.items()):
                return index
        given = ", ".join(f"{name} {show_shape(view.shape)}" for name, view in views.items())
        there = [
            f"{workload}: " + ", ".join(f"{name} {show_shape(s)}" for name, s in shapes.items())
            for workload, shapes in known.items()
        ]
        raise EngineError(f"no workload has the shapes {given}", f"there are {'; '.join(there)}")

    def _place_input(self, name: str, view: TensorView) -> int:
        """Return an input's address: its own, or a block that it was copied to."""
        if view.on_device and view.address % ALIGNMENT == 0:
            return view.address
        size = _bytes(view.shape, view.dtype)
        address = self._blocks.take(name, size)
        copy = self._cuda.copy if view.on_device else self._cuda.copy_in
        copy(address, view.address, size, self._stream)
        return address


def _bytes(shape: Shape, dtype: str) -> int:
    return math.prod(shape) * NUMPY[dtype].itemsize
