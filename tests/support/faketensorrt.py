"""A TensorRT that computes: y = x W^T + b + (x A^T) B^T, or merged = weight + B A, by numpy.

Of a split engine's plans, `context` writes k = t W^T, whose rows `denoise` adds to y.

A plan is JSON. A type checker sees every class here as one of the real library's, whose signatures
it must keep; tests/system/test_tensorrt_types.py has it look.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import ml_dtypes
import numpy as np
from fakecuda import FakeCuda
from typing_extensions import Buffer, override

if TYPE_CHECKING:
    import tensorrt as real  # noqa: TID251
    from tensorrt import (  # noqa: TID251
        DataType,
        Dims,
        ExecutionContextAllocationStrategy,
        TensorIOMode,
        TensorLocation,
    )
else:
    names = ("ILogger", "Weights", "Refitter", "IExecutionContext", "ICudaEngine", "Runtime")
    real = SimpleNamespace(**{name: type(name, (), {}) for name in names})
    DataType = Enum("DataType", "FLOAT HALF BF16 INT64")
    TensorIOMode = Enum("TensorIOMode", "INPUT OUTPUT")
    TensorLocation = Enum("TensorLocation", "HOST DEVICE")
    ExecutionContextAllocationStrategy = Enum(
        "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
    )
    Dims = list
    for number, name in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")):
        setattr(real.ILogger, name, number)

__version__ = "11.4.0.106"

NUMPY: dict[DataType, np.dtype[Any]] = {
    DataType.FLOAT: np.dtype(np.float32),
    DataType.HALF: np.dtype(np.float16),
    DataType.BF16: np.dtype(ml_dtypes.bfloat16),
}
FORWARD_S, LAUNCH_S = 0.010, 0.008
KEYS = "blocks.0.attn2.k"  # what a context plan writes and a denoise plan reads


@dataclass
class World:
    """The GPU that all plans run on, and what shall go wrong there."""

    cuda: FakeCuda
    refits: int = 0
    refit_calls: list[list[str]] = field(default_factory=list)
    refits_that_fail: set[int] = field(default_factory=set)
    deserialized: list[str] = field(default_factory=list)
    capturable: bool = True


world = World(FakeCuda())


def reset(cuda: FakeCuda) -> World:
    """Start anew on another GPU."""
    global world
    world = World(cuda)
    return world


class ILogger(real.ILogger):
    """What an application derives its log from."""

    def __init__(self) -> None:
        pass


class Weights(real.Weights):
    """A pointer to elements; of the constructors that with a pointer."""

    def __init__(
        self,
        type: DataType,  # noqa: A002 (the real one's)
        ptr: SupportsIndex,
        count: SupportsIndex,
    ) -> None:
        self.kind, self.pointer, self.length = type, int(ptr), int(count)

    @property
    @override
    def dtype(self) -> DataType:
        return self.kind

    @property
    @override
    def size(self) -> int:
        return self.length


class Runtime(real.Runtime):
    """Reads plans."""

    def __init__(self, logger: real.ILogger) -> None:
        self.log_to = logger
        self.engine_host_code_allowed = False

    @override
    def deserialize_cuda_engine(self, serialized_engine: Buffer) -> ICudaEngine:  # type: ignore[override]
        text = bytes(memoryview(serialized_engine))
        try:
            plan = json.loads(text)
        except ValueError:
            self.log_to.log(ILogger.ERROR, "Serialization assertion\nmagicTag == rtMagic failed")
            return None  # type: ignore[return-value] # as the real one does
        if plan["host_code"] and not self.engine_host_code_allowed:
            self.log_to.log(ILogger.ERROR, "host code is not allowed")
            return None  # type: ignore[return-value]
        world.deserialized.append(plan["kind"])
        return ICudaEngine(plan, self)


class ICudaEngine(real.ICudaEngine):
    """A plan in memory, with or without its weights."""

    def __init__(self, plan: dict[str, Any], runtime: Runtime) -> None:
        self.plan, self.runtime = plan, runtime
        self.weights: dict[str, np.ndarray[Any, Any]] = {
            name: np.array(values, NUMPY[_dtype(plan["weights"][name]["dtype"])])
            for name, values in plan["baked"].items()
        }
        self.budget: int = plan["streamable"]
        self.contexts = 0

    @override
    def create_execution_context(  # type: ignore[override]
        self, strategy: ExecutionContextAllocationStrategy
    ) -> IExecutionContext:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts += 1
        return IExecutionContext(self)

    @override
    def get_device_memory_size_for_profile_v2(self, profile_index: SupportsIndex) -> int:
        return int(self.plan["scratch"][int(profile_index)])

    @override
    def get_tensor_dtype(self, name: str) -> DataType:
        return _dtype(self.plan["io"][name]["dtype"])

    @override
    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if self.plan["io"][name]["input"] else TensorIOMode.OUTPUT

    @override
    def get_tensor_name(self, index: SupportsIndex) -> str:
        return str(list(self.plan["io"])[int(index)])

    @override
    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self.plan["io"][name]["shape"])

    @override
    def get_tensor_profile_shape(self, name: str, profile_index: SupportsIndex) -> list[Dims]:
        return [Dims(self.plan["profiles"][int(profile_index)][name])] * 3

    @property
    @override
    def num_io_tensors(self) -> int:
        return len(self.plan["io"])

    @property
    @override
    def num_optimization_profiles(self) -> int:
        return len(self.plan["profiles"])

    @property
    @override
    def refittable(self) -> bool:
        return bool(self.plan["refittable"])

    @property
    @override
    def streamable_weights_size(self) -> int:
        return int(self.plan["streamable"])

    @property
    @override
    def weight_streaming_budget_v2(self) -> int:
        return self.budget

    @weight_streaming_budget_v2.setter
    @override
    def weight_streaming_budget_v2(self, arg1: SupportsIndex) -> None:
        assert not self.contexts, "the budget can't change while contexts live"
        if int(arg1) >= self.plan["least_budget"]:
            self.budget = min(int(arg1), self.plan["streamable"])
        else:
            self.runtime.log_to.log(ILogger.ERROR, "the budget is too small")


class IExecutionContext(real.IExecutionContext):
    """Runs an engine in memory that it is given."""

    def __init__(self, engine: ICudaEngine) -> None:
        self.of = engine
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)
        self.warm = False

    @override
    def set_optimization_profile_async(
        self, profile_index: SupportsIndex, stream_handle: SupportsIndex
    ) -> bool:
        self.profile, self.shapes, self.warm = int(profile_index), {}, False
        return self.profile < self.of.num_optimization_profiles

    @overload
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    @overload
    def set_input_shape(self, name: str, shape: list[int]) -> bool: ...
    @overload
    def set_input_shape(self, name: str, shape: Any) -> bool: ...
    @override
    def set_input_shape(self, name: str, shape: Any) -> bool:
        want = self.of.plan["profiles"][self.profile].get(name, self.of.plan["io"][name]["shape"])
        self.shapes[name], self.warm = tuple(shape), False
        return list(shape) == list(want)

    @override
    def get_tensor_shape(self, name: str) -> Dims:
        rows = next((s[0] for n, s in self.shapes.items() if n in ("x", "t", "weight")), -1)
        return Dims([rows if size == -1 else size for size in self.of.plan["io"][name]["shape"]])

    @override
    def set_tensor_address(self, name: str, memory: SupportsIndex) -> bool:
        self.addresses[name] = int(memory)
        return name in self.of.plan["io"] and int(memory) % 256 == 0

    @override
    def set_device_memory(self, memory: SupportsIndex, size: SupportsIndex) -> None:
        self.memory = int(memory), int(size)

    @override
    def execute_async_v3(self, stream_handle: SupportsIndex) -> bool:
        stream, engine = int(stream_handle), self.of
        log = engine.runtime.log_to
        capturing = world.cuda.capturing(stream)
        streamed = engine.budget < engine.plan["streamable"]
        if set(self.addresses) != set(engine.plan["io"]):
            log.log(ILogger.ERROR, "not all addresses are set")
        elif set(engine.weights) != set(engine.plan["weights"]):
            log.log(ILogger.ERROR, "weights are missing")
        elif self.memory[1] < engine.get_device_memory_size_for_profile_v2(self.profile):
            log.log(ILogger.ERROR, "too little device memory")
        elif capturing and (streamed or not self.warm or not world.capturable):
            log.log(ILogger.ERROR, "operation not permitted when stream is capturing")
        else:
            # a graph keeps what it was captured with, weights included: kernels may hold copies
            weights = {
                name: array.reshape(engine.plan["weights"][name]["shape"])
                for name, array in engine.weights.items()
            }
            addresses, memory = dict(self.addresses), self.memory
            seconds = LAUNCH_S if capturing else FORWARD_S
            world.cuda.enqueue(stream, lambda: self._compute(addresses, memory, weights, seconds))
            self.warm = True
            return True
        return False

    def _compute(
        self,
        addresses: dict[str, int],
        memory: tuple[int, int],
        weights: dict[str, np.ndarray[Any, Any]],
        seconds: float,
    ) -> float:
        engine, cuda = self.of, world.cuda
        used = engine.get_device_memory_size_for_profile_v2(self.profile)
        cuda.read(memory[0], (used,), np.dtype(np.uint8))[:] = 0xAB
        arrays = {}
        for name, address in addresses.items():
            shape = tuple(self.get_tensor_shape(name)[:])
            shape = self.shapes.get(name, shape)
            arrays[name] = cuda.read(address, shape, NUMPY[engine.get_tensor_dtype(name)])
        values = {n: a.astype(np.float32) for n, a in {**weights, **arrays}.items()}
        if engine.plan["kind"] == "merge":
            out = values["weight"] + values["lora_B"] @ values["lora_A"]
            arrays["merged"][:] = out.astype(arrays["merged"].dtype)
            return seconds
        given, written = ("t", KEYS) if engine.plan["kind"] == "context" else ("x", "y")
        x = values[given]
        y = x * 0 + values.get("bias", 0)
        for module in engine.plan["modules"]:
            y = y + x @ values[f"{module}.weight"].T
            if f"{module}.lora_A" in values:
                down = x @ values[f"{module}.lora_A"].T * values.get("strengths", 1)
                y = y + down @ values[f"{module}.lora_B"].T
        if engine.plan["kind"] == "denoise":
            y = y + values[KEYS].sum(0)
        arrays[written][:] = y.astype(arrays[written].dtype)
        return seconds


class Refitter(real.Refitter):
    """Replaces weights; those fused with each other only together."""

    def __init__(self, engine: real.ICudaEngine, logger: real.ILogger) -> None:
        assert isinstance(engine, ICudaEngine)
        self.of, self.log_to = engine, logger
        self.given: dict[str, tuple[real.Weights, TensorLocation]] = {}
        self.threads = 1

    @property
    @override
    def max_threads(self) -> int:
        return self.threads

    @max_threads.setter
    @override
    def max_threads(self, arg1: SupportsIndex) -> None:
        self.threads = int(arg1)

    @override
    def get_all_weights(self) -> list[str]:
        return list(self.of.plan["refittable"])

    @override
    def get_missing_weights(self) -> list[str]:
        stripped = [name for name in self.of.plan["weights"] if name not in self.of.weights]
        groups = [group for group in self.of.plan["fused"] if set(group) & set(self.given)]
        wanted = dict.fromkeys((*stripped, *(name for group in groups for name in group)))
        return [name for name in wanted if name not in self.given]

    @override
    def get_weights_prototype(self, weights_name: str) -> Weights:
        found = self.of.plan["weights"].get(weights_name)
        if found is None or weights_name not in self.of.plan["refittable"]:
            return Weights(DataType.FLOAT, 0, -1)
        return Weights(_dtype(found["dtype"]), 0, int(np.prod(found["shape"])))

    @overload
    def set_named_weights(self, name: str, weights: Any) -> bool: ...
    @overload
    def set_named_weights(self, name: str, weights: Any, location: TensorLocation) -> bool: ...
    @override
    def set_named_weights(
        self, name: str, weights: Any, location: TensorLocation = TensorLocation.HOST
    ) -> bool:
        self.given[name] = weights, location
        return True

    @override
    def unset_named_weights(self, weights_name: str) -> bool:
        return self.given.pop(weights_name, None) is not None

    @override
    def refit_cuda_engine_async(self, stream_handle: SupportsIndex) -> bool:
        assert not self.get_missing_weights()
        assert not world.cuda.capturing(int(stream_handle))
        world.refits += 1
        world.refit_calls.append(list(self.given))
        for name, (weights, location) in self.given.items():
            assert isinstance(weights, Weights)
            self.of.weights[name] = _read(weights, location)
            if world.refits in world.refits_that_fail:  # halfway
                self.log_to.log(ILogger.ERROR, "refit failed")
                return False
        return True


def _dtype(name: str) -> DataType:
    found: DataType = getattr(DataType, name)
    return found


def _read(weights: Weights, location: TensorLocation) -> np.ndarray[Any, Any]:
    dtype = NUMPY[weights.dtype]
    if location is TensorLocation.DEVICE:
        return world.cuda.read(weights.pointer, (weights.length,), dtype).copy()
    raw = (ctypes.c_char * (weights.length * dtype.itemsize)).from_address(weights.pointer)
    return np.frombuffer(bytes(raw), dtype)
