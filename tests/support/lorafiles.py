"""Synthetic LoRA files, in every dialect, for a model of two small blocks; and their gains."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from wanexport.lora.adapter import Adapter, resolve_adapter
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes, to_original

ARCH = Architecture(
    num_layers=2,
    num_attention_heads=1,
    ffn_dim=64,
    in_channels=36,
    text_dim=32,
    freq_dim=32,
    image_dim=40,
    added_kv_proj_dim=128,
)
T2V_ARCH = ARCH.model_copy(update={"in_channels": 16, "image_dim": None, "added_kv_proj_dim": None})
SHAPES = module_shapes(ARCH)
T2V_SHAPES = module_shapes(T2V_ARCH)

LINEARS = tuple(
    name.removesuffix(".weight")
    for name, shape in SHAPES.items()
    if name.endswith(".weight") and len(shape) == 2
)
BLOCK_LINEARS = tuple(name for name in LINEARS if name.startswith("blocks."))
CROSS = tuple(name for name in BLOCK_LINEARS if "attn2" in name)
IMAGE = tuple(name for name in CROSS if "add_" in name)
TEXT_CROSS = tuple(name for name in CROSS if name not in IMAGE)


def original(module: str) -> str:
    name = to_original(module)
    assert name is not None
    return name


def underscored(module: str) -> str:
    return module.replace(".", "_")


@dataclass(frozen=True)
class Dialect:
    """How one writer names the tensors of a module."""

    stem: Callable[[str], str]
    down: str
    up: str

    def key(self, module: str, suffix: str) -> str:
        return f"{self.stem(module)}.{suffix}"


PEFT = ("lora_A.weight", "lora_B.weight")
NAMED = ("lora_A.default.weight", "lora_B.default.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
DOTTED = ("lora.down.weight", "lora.up.weight")

DIALECTS = {
    "A-diffusers": Dialect(lambda m: f"transformer.{m}", *PEFT),
    "A-diffusers-named": Dialect(lambda m: f"transformer.{m}", *NAMED),
    "A-diffusers-down-up": Dialect(lambda m: f"transformer.{m}", *KOHYA),
    "A'-no-prefix": Dialect(str, *PEFT),
    "raw-peft": Dialect(lambda m: f"base_model.model.{m}", *PEFT),
    "raw-peft-original": Dialect(lambda m: f"base_model.model.{original(m)}", *PEFT),
    "B-comfy-peft": Dialect(lambda m: f"diffusion_model.{original(m)}", *PEFT),
    "B-model-prefix": Dialect(lambda m: f"model.diffusion_model.{original(m)}", *PEFT),
    "C-comfy-down-up": Dialect(lambda m: f"diffusion_model.{original(m)}", *KOHYA),
    "C-dotted": Dialect(lambda m: f"diffusion_model.{original(m)}", *DOTTED),
    "C-unet": Dialect(lambda m: f"unet.{original(m)}", *KOHYA),
    "D-musubi": Dialect(lambda m: f"lora_unet_{underscored(original(m))}", *KOHYA),
    "D-diffusers-names": Dialect(lambda m: f"lora_unet_{underscored(m)}", *KOHYA),
    "D'-videox-fun": Dialect(lambda m: f"lora_unet__{underscored(original(m))}", *KOHYA),
    "E-diffsynth": Dialect(original, *NAMED),
    "original-no-prefix": Dialect(original, *PEFT),
    "lycoris": Dialect(lambda m: f"lycoris_{underscored(m)}", *KOHYA),
}


@dataclass
class LoraFile:
    """A file in the making: its tensors, metadata, and what every parameter should gain."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    gains: dict[str, torch.Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        held = {key: tensor.clone().contiguous() for key, tensor in self.tensors.items()}
        save_file(held, path, metadata=self.metadata)
        return path


def noise(*shape: int, seed: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, seed)) * 7919 + len(seed))
    return torch.randn(shape, generator=generator)


def pair(module: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the A and B that every dialect writes for a module."""
    out, width = SHAPES[f"{module}.weight"]
    return noise(rank, width, seed=f"A{module}"), noise(out, rank, seed=f"B{module}")


def make_lora(
    dialect: str,
    modules: Iterable[str],
    *,
    rank: int | Mapping[str, int] = 4,
    alpha: float | None = None,
    dtype: torch.dtype = torch.float32,
    alpha_dtype: torch.dtype = torch.float32,
) -> LoraFile:
    """Make a file of plain LoRA; `alpha` writes alpha tensors."""
    made, names = LoraFile(), DIALECTS[dialect]
    for module in modules:
        r = rank if isinstance(rank, int) else rank[module]
        a, b = (tensor.to(dtype) for tensor in pair(module, r))
        made.tensors[names.key(module, names.down)] = a
        made.tensors[names.key(module, names.up)] = b
        scale = 1.0
        if alpha is not None:
            made.tensors[names.key(module, "alpha")] = torch.tensor(alpha).to(alpha_dtype)
            scale = alpha / r
        made.gains[f"{module}.weight"] = scale * b.float() @ a.float()
    return made


def resolve(made: LoraFile, folder: Path, strength: float = 1.0) -> Adapter:
    return resolve_adapter(made.save(folder / "lora.safetensors"), SHAPES, strength)


def check_gains(adapter: Adapter, gains: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Check that the adapter changes exactly these parameters, by these values."""
    assert set(adapter.by_parameter) == set(gains)
    for name, gain in gains.items():
        found = sum(delta.change(torch.zeros(SHAPES[name])) for delta in adapter.by_parameter[name])
        torch.testing.assert_close(found, gain, rtol=tolerance, atol=tolerance * 10)


def settings(prefix: str = "transformer.", **values: object) -> dict[str, str]:
    """Return a file's metadata as diffusers writes a LoRA's configuration."""
    packed = {f"{prefix}{key}": value for key, value in values.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(packed)}
