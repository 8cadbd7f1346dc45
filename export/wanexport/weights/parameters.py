"""The parameters an engine has to compute with, made from the sources and not from the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from wanexport.lora.adapter import Adapter, merge_blocks, merge_parameter, stack_low_rank
from wanexport.model.quantization import Format
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.tensor_file import StoredTensor, TensorRef
from wanexport.weights.cast import cast_tensor
from wanexport.weights.quantize import fake_quantize, is_quantized

__all__ = ["EngineParameters"]


@dataclass(frozen=True)
class EngineParameters:
    """Reads parameters of one engine in fp32, rounded where the engine rounds.

    Args:
        refs: the checkpoint's tensors by diffusers name.
        dtypes: parameter -> the safetensors dtype the engine stores it in.
        merged: adapters merged into the weights (all of them, or what no branch can carry).
        carried: adapters that run as a low-rank branch.
        adapter_dtype: the safetensors dtype of the branch's A and B.
        quantized: modules whose weights are quantised, once all that is merged is in them.
        form: how.
        strengths: of each of `carried`, where those are given at run time instead of inside B.
    """

    refs: Mapping[str, TensorRef]
    dtypes: Mapping[str, str]
    merged: Sequence[Adapter] = ()
    carried: Sequence[Adapter] = ()
    adapter_dtype: str = "F32"
    strengths: Sequence[float] | None = None
    quantized: frozenset[str] = frozenset()
    form: Format | None = None

    def stored(self, name: str) -> Iterator[Tensor]:
        """Yield a parameter as the engine stores it, merged in fp32, in blocks of rows."""
        dtype = self.dtypes[name]
        blocks = self.refs[name].read_blocks()
        if self.merged:
            blocks = merge_blocks(name, blocks, self.merged, torch_dtype(dtype))
        for block in blocks:
            yield cast_tensor(block, dtype, self._place(name))

    def effective(self, name: str) -> Tensor:
        """Return a parameter in fp32 with its branch folded in: W + B A of the rounded A and B."""
        weight, dtype = self.refs[name].read(), self.dtypes[name]
        if self.merged:
            weight = merge_parameter(name, weight, self.merged, torch_dtype(dtype))
        weight = self._quantize(name, cast_tensor(weight, dtype, self._place(name)).float())
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and self.carried:
            for strength, adapters in self._stacks():
                branch = self.branch(module, adapters)
                if branch is not None:
                    down, up = (tensor.float() for tensor in branch)
                    weight = weight + strength * (up @ down).reshape(weight.shape)
        return weight

    def _stacks(self) -> Iterable[tuple[float, Sequence[Adapter]]]:
        if self.strengths is None:
            return [(1.0, self.carried)]
        return zip(self.strengths, ([adapter] for adapter in self.carried), strict=True)

    def branch(
        self, module: str, adapters: Sequence[Adapter] | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Return A [r, in] and B [out, r] of a module's branch, in the engine's dtype.

        Of all that is carried together, or of some of the adapters.
        """
        deltas = [
            delta
            for adapter in (self.carried if adapters is None else adapters)
            for delta in adapter.by_parameter.get(f"{module}.weight", ())
        ]
        if not deltas:
            return None
        down, up = stack_low_rank(deltas)
        return (
            cast_tensor(down, self.adapter_dtype, f"{module}.lora_A"),
            cast_tensor(up, self.adapter_dtype, f"{module}.lora_B"),
        )

    def branch_specs(self, ranks: Mapping[str, int]) -> list[tuple[StoredTensor, StoredTensor]]:
        """Return A [rank, in] and B [out, rank] of every branch in the engine's graph."""
        specs = []
        for module, rank in ranks.items():
            fan_out, *fan_in = self.refs[f"{module}.weight"].shape
            down = StoredTensor(f"{module}.lora_A", self.adapter_dtype, (rank, math.prod(fan_in)))
            up = StoredTensor(f"{module}.lora_B", self.adapter_dtype, (fan_out, rank))
            specs.append((down, up))
        return specs

    def base(self, name: str) -> Tensor:
        """Return a parameter in fp32 without any adapter."""
        value = cast_tensor(self.refs[name].read(), self.dtypes[name], self._place(name)).float()
        return self._quantize(name, value)

    def _quantize(self, name: str, value: Tensor) -> Tensor:
        if self.form is None or not is_quantized(name, self.quantized):
            return value
        return fake_quantize(value, self.form)

    def _place(self, name: str) -> str:
        return f"{self.refs[name].path}: {self.refs[name].name}"
