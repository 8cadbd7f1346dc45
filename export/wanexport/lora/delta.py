"""One adapter's change of one parameter, and its algebra; tensors are read when they are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wanexport.errors import AdapterError
from wanexport.lora.scales import LARGEST
from wanexport.storage.tensor_file import TensorRef
from wanexport.storage.values import find_peak

if TYPE_CHECKING:
    import torch

__all__ = ["DORA_STRENGTH", "Delta"]

DORA_STRENGTH = "DoRA at strength t is W + t (DoRA(W) - W), as in ComfyUI; diffusers differs"

Kind = Literal["lora", "loha", "lokr", "diff", "set"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Delta:
    """What one adapter adds to one parameter.

    Args:
        module: diffusers' name of the module, or of the parameter if it belongs to none.
        parameter: diffusers' name of the parameter.
        shape: the parameter's shape.
        kind: how the change is written: lora, loha, lokr, diff for all its values, or set for the
            values that come out.
        tensors: role -> the tensor in its file; `magnitude` makes it DoRA.
        scale: the file's own factor.
        strength: the user's.
    """

    module: str
    parameter: str
    shape: Shape
    kind: Kind
    tensors: Mapping[str, TensorRef]
    scale: float = 1.0
    strength: float = 1.0

    @property
    def is_low_rank(self) -> bool:
        """Whether a low-rank branch beside the module's own linear layer can carry it unmerged."""
        return self._is_plain and len(self.shape) == 2

    @property
    def is_product(self) -> bool:
        """Whether it is a product of factors, which a file's scale is for."""
        return self.kind in ("lora", "loha", "lokr")

    @property
    def rank(self) -> int:
        """The rank of a low-rank change."""
        return self.tensors["A"].shape[0]

    @property
    def title(self) -> str:
        """Its usual name: `DoRA of blocks.0.attn2.to_q.weight`."""
        names = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "diff": "diff", "set": "values"}
        kind = "DoRA" if "magnitude" in self.tensors else names[self.kind]
        if "magnitude" in self.tensors and self.kind != "lora":
            kind = f"{names[self.kind]} with magnitudes"
        return f"{kind} of {self.parameter}"

    def low_rank(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A [r, in] and B [out, r] in fp32, with scale and strength folded into B."""
        if not self._is_plain:
            raise ValueError(f"{self.title} isn't low-rank")
        b = self._read("B").flatten(1)
        return self._read("A").flatten(1), b.mul_(self.scale * self.strength)

    def change(self, weight: torch.Tensor) -> torch.Tensor:
        """Return in fp32 what the adapter adds to the parameter's pristine values.

        At strength 1 DoRA is m (W + s B A) / |W + s B A|; other strengths go that part of the way
        from W, so that strength 0 is always the base itself (PEFT scales s instead).
        """
        if self._is_plain:
            a, b = self.low_rank()
            return (b @ a).reshape(self.shape)
        if self.kind == "set":
            return self._read("set").reshape(self.shape).sub_(weight).mul_(self.strength)
        delta = self._dense().reshape(self.shape)
        delta.mul_(self.scale)
        if "magnitude" in self.tensors:
            pristine = weight.float()
            delta = self._set_magnitude(delta.add_(pristine)).sub_(pristine)
        return delta.mul_(self.strength)

    def merge(self, weight: torch.Tensor) -> torch.Tensor:
        """Return in fp32 the parameter with this change alone applied to its pristine values."""
        if self.kind == "set" and self.strength == 1:  # exactly, where a sum would round
            return self._read("set").reshape(self.shape)
        return weight.float() + self.change(weight)

    def check_values(self) -> None:
        """Read its tensors; AdapterError if one of them isn't finite or would overflow."""
        for role in self.tensors:
            self._read(role)

    def find_misfit(self) -> str:
        """Return which tensor doesn't fit the parameter and how, or nothing."""
        return _MISFITS[self.kind](self) or self._find_magnitude_misfit()

    @property
    def _is_plain(self) -> bool:
        return self.kind == "lora" and "magnitude" not in self.tensors

    @property
    def _matrix(self) -> tuple[int, int]:
        """The parameter's shape as a matrix [out, in]; a convolution's kernel belongs to `in`."""
        return self.shape[0], math.prod(self.shape[1:])

    def _read(self, role: str) -> torch.Tensor:
        import torch

        ref = self.tensors[role]
        tensor = ref.read().to(torch.float32, copy=True)
        peak = find_peak(tensor)
        if not math.isfinite(peak):
            raise AdapterError(
                f"{ref.path}: {ref.name} holds values that aren't finite",
                "usually the training diverged: take an earlier save of it, or load the file again",
            )
        if peak > LARGEST:
            raise AdapterError(
                f"{ref.path}: {ref.name} holds values beyond {LARGEST:.2g}, which overflow when "
                "they are multiplied",
                "usually the training diverged: take an earlier save of it, or load the file again",
            )
        return tensor

    def _dense(self) -> torch.Tensor:
        import torch

        if self.kind == "lora":
            return self._read("B").flatten(1) @ self._read("A").flatten(1)
        if self.kind == "loha":
            first = self._read("w1_a") @ self._read("w1_b")
            return first.mul_(self._read("w2_a") @ self._read("w2_b"))
        if self.kind == "lokr":
            left, right = self._read_factor("kron_w1"), self._read_factor("kron_w2")
            return torch.kron(left.reshape(*left.shape, *[1] * (right.dim() - 2)), right)
        return self._read("diff")

    def _read_factor(self, role: str) -> torch.Tensor:
        if role in self.tensors:
            return self._read(role)
        return self._read(f"{role}_a") @ self._read(f"{role}_b")

    def _set_magnitude(self, weight: torch.Tensor) -> torch.Tensor:
        """Scale each row (or, in LyCORIS' older files, column) to its trained magnitude."""
        magnitude = self._read("magnitude").flatten()
        axis = 1 if self._has_column_magnitude else 0
        others = [dim for dim in range(weight.dim()) if dim != axis]
        norm = weight.square().sum(others).sqrt_()
        factor = magnitude.div_(norm.clamp_min_(1e-30))
        return weight.mul_(
            factor.reshape([-1 if dim == axis else 1 for dim in range(weight.dim())])
        )

    @property
    def _has_column_magnitude(self) -> bool:
        """Tell LyCORIS' [1, in] from [out], [out, 1] and PEFT's [1, out, 1, 1, 1] of a conv."""
        shape = self.tensors["magnitude"].shape
        if len(shape) < 2 or shape[0] != 1 or self.shape[0] == 1:
            return False
        return shape[1] == self.shape[1] and (len(shape) == 2 or self.shape[0] != self.shape[1])

    def _find_magnitude_misfit(self) -> str:
        if "magnitude" not in self.tensors:
            return ""
        wanted = self.shape[1] if self._has_column_magnitude else self.shape[0]
        return _compare(self.tensors["magnitude"], (wanted,), flat=True)


def _compare(ref: TensorRef, wanted: Shape, *, flat: bool = False) -> str:
    """Say how a tensor's shape differs from what it should be, up to axes of length 1."""
    got, same = ref.shape, len(ref.shape) >= len(wanted)
    if flat:
        same = math.prod(got) == math.prod(wanted) and max(got, default=1) == max(wanted)
    else:
        same = same and (got[0], math.prod(got[1:])) == (wanted[0], math.prod(wanted[1:]))
    return "" if same else f"{ref.name} is {list(got)}, it should be {list(wanted)}"


def _misfit_of_product(delta: Delta, a: str, b: str) -> str:
    out, width = delta._matrix
    rank = delta.tensors[a].shape[0] if delta.tensors[a].shape else 0
    if rank == 0:
        return f"{delta.tensors[a].name} has rank 0"
    if len(delta.shape) < 2:
        return f"{delta.parameter} isn't a matrix, so a low-rank product can't change it"
    return _compare(delta.tensors[a], (rank, width)) or _compare(delta.tensors[b], (out, rank))


def _misfit_of_lora(delta: Delta) -> str:
    return _misfit_of_product(delta, "A", "B")


def _misfit_of_loha(delta: Delta) -> str:
    return _misfit_of_product(delta, "w1_b", "w1_a") or _misfit_of_product(delta, "w2_b", "w2_a")


def _misfit_of_lokr(delta: Delta) -> str:
    if len(delta.shape) < 2:
        return f"{delta.parameter} isn't a matrix, so a low-rank product can't change it"
    sizes = []
    for role in ("kron_w1", "kron_w2"):
        if role in delta.tensors:
            shape = delta.tensors[role].shape
            if len(shape) < 2 or (role == "kron_w1" and len(shape) > 2):
                return f"{delta.tensors[role].name} is {list(shape)}, which isn't a matrix"
        else:
            a, b = delta.tensors[f"{role}_a"], delta.tensors[f"{role}_b"]
            if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
                return f"{a.name} is {list(a.shape)} and {b.name} {list(b.shape)}"
            shape = (a.shape[0], b.shape[1])
        sizes.append((shape[0], math.prod(shape[1:])))
    made = (sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1])
    if made == delta._matrix and 0 not in made:
        return ""
    return f"the factors make {list(made)}, {delta.parameter} is {list(delta._matrix)}"


def _misfit_of_whole(delta: Delta) -> str:
    ref = delta.tensors[delta.kind]
    got, wanted = ([n for n in shape if n != 1] for shape in (ref.shape, delta.shape))
    return (
        ""
        if got == wanted
        else f"{ref.name} is {list(ref.shape)}, it should be {list(delta.shape)}"
    )


_MISFITS = {
    "lora": _misfit_of_lora,
    "loha": _misfit_of_loha,
    "lokr": _misfit_of_lokr,
    "diff": _misfit_of_whole,
    "set": _misfit_of_whole,
}
