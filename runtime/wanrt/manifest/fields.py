"""What every part of engine.json is made of: its words, numbers, paths, tensors and files."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "ADAPTER_ROLES",
    "Count",
    "Dtype",
    "File",
    "Instant",
    "Part",
    "Positive",
    "Sha256",
    "TensorSpec",
]

Dtype = Literal["fp32", "fp16", "bf16"]
InputRole = Literal["data", "lora_A", "lora_B", "strengths", "context", "card"]
ADAPTER_ROLES = ("lora_A", "lora_B")


def _inside(path: str) -> str:
    """Accept a relative POSIX path that can't leave the engine folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"path leaves the engine folder: {path!r}")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**63 - 1)]
Instant = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""Nanoseconds since 1970; some tools date files before that."""
Dim = Count | Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Part(BaseModel):
    """A part of engine.json: frozen, without unknown fields, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TensorSpec(Part):
    """One input or output of a graph.

    `range` bounds values that aren't unit normal (the timestep: 0 to 1000); `module` names
    the adapted module of an adapter input. The caller feeds `data`, an adapter `lora_A`, `lora_B`
    and `strengths`, the context graph `context`, the runtime `card`.
    """

    name: str
    dtype: Dtype
    shape: tuple[Dim, ...]
    role: InputRole = "data"
    module: str | None = None
    range: tuple[float, float] | None = None


class File(Part):
    """A file of the folder, by content."""

    file: RelativePath
    bytes: Count
    sha256: Sha256
