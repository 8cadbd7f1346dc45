"""What an engine has to compute: diffusers' own model, one block in memory at a time.

The class and its forward are untouched; only its blocks load their weights when they are called and
drop them afterwards, so a model that doesn't fit in memory can still be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from wanexport.graph.dit import make_model
from wanexport.graph.trace import OUTPUT_NAME
from wanexport.model.config import Architecture
from wanexport.model.names import computes_in_fp32

__all__ = ["empty_model", "load_parameters", "run_reference", "take_inputs"]

ReadParameter = Callable[[str], Tensor]


def run_reference(
    arch: Architecture,
    read: ReadParameter,
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
    on_piece: Callable[[str, Tensor], None] = lambda _name, _value: None,
) -> Tensor:
    """Run diffusers' model and return its sample [B, C, F, H, W] in fp32.

    Args:
        arch: the architecture.
        read: returns a parameter's value by its diffusers name.
        inputs: the engine's inputs by name, in fp32.
        dtype: what PyTorch computes in; diffusers' `_keep_in_fp32_modules` stay fp32.
        on_piece: called with what stem, every block and head return, as the graph's pieces are
            named.
    """
    model = empty_model(arch, layers=1)
    block = model.blocks[0]
    model.blocks = nn.ModuleList(
        _StreamedBlock(block, f"blocks.{i}.", read, dtype, on_piece) for i in range(arch.num_layers)
    )
    outer = (name for name, _ in model.named_parameters() if not name.startswith("blocks."))
    load_parameters(model, "", outer, read, dtype)
    with torch.inference_mode():
        sample: Tensor = model(**take_inputs(arch, inputs, dtype), return_dict=False)[0]
    on_piece(OUTPUT_NAME, sample)
    return sample.float()


def empty_model(arch: Architecture, layers: int) -> WanTransformer3DModel:
    """Return diffusers' own model without weights, but for the rotary table: no file holds that."""
    with torch.device("meta"):
        model = make_model(arch, layers)
    model.rope = make_model(arch.model_copy(update={"num_layers": 1, "ffn_dim": 1}), 0).rope
    return model


def load_parameters(
    module: nn.Module,
    prefix: str,
    names: Iterable[str],
    read: ReadParameter,
    dtype: torch.dtype,
) -> None:
    """Give parameters their values, in `dtype` or, as diffusers keeps them, in fp32."""
    for name in list(names):
        owner, _, attribute = name.rpartition(".")
        keep = computes_in_fp32(prefix + name) and "norm_" not in name
        value = read(prefix + name).to(torch.float32 if keep else dtype)
        parameter = nn.Parameter(value, requires_grad=False)
        setattr(module.get_submodule(owner), attribute, parameter)


def take_inputs(
    arch: Architecture, inputs: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return an engine's inputs as diffusers' model takes them."""
    feeds = {
        name: value if name == "timestep" else value.to(dtype) for name, value in inputs.items()
    }
    image = feeds.get("encoder_hidden_states_image")
    if image is not None and arch.pos_embed_seq_len is not None:
        # diffusers takes both frames' tokens as two samples and joins them again
        both = (-1, image.shape[1] // 2, image.shape[2])
        feeds["encoder_hidden_states_image"] = image.reshape(both)
    return feeds


class _StreamedBlock(nn.Module):
    """A block whose weights are in memory only while it runs."""

    def __init__(
        self,
        block: nn.Module,
        prefix: str,
        read: ReadParameter,
        dtype: torch.dtype,
        on_piece: Callable[[str, Tensor], None],
    ) -> None:
        super().__init__()
        # not registered: forty entries share one module
        self.run = partial(self._run, block, prefix, read, dtype, on_piece)

    def forward(self, *args: Tensor) -> Tensor:
        return self.run(*args)

    @staticmethod
    def _run(
        block: nn.Module,
        prefix: str,
        read: ReadParameter,
        dtype: torch.dtype,
        on_piece: Callable[[str, Tensor], None],
        *args: Tensor,
    ) -> Tensor:
        names = [name for name, _ in block.named_parameters()]
        load_parameters(block, prefix, names, read, dtype)
        if prefix == "blocks.0.":
            on_piece("stem", args[0])
        out: Tensor = block(*args)
        on_piece(prefix.removesuffix("."), out)
        block.to("meta")
        return out
