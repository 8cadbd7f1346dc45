"""A second reader of LoRA files, PEFT or diffusers' loader, to compare ours with.

The reference that an engine is compared with is merged by our own code, so a misread scale passes
that. Here the file's own keys, alpha tensors and metadata go to code that no one here wrote: for
the scale of every module, on stand-ins of width 1, and for one block's weights with all values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wanexport.errors import VerificationError
from wanexport.lora.adapter import Adapter
from wanexport.lora.delta import Delta
from wanexport.lora.scales import DIFFUSERS_KEY, DIFFUSERS_PREFIX, PEFT_CONFIG

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import Linear

__all__ = ["Answer", "Oracle", "ask_oracle"]

Oracle = Literal["peft", "diffusers"]
Shape = tuple[int, ...]
State = dict[str, "torch.Tensor"]
Layers = Mapping[str, "Linear"]

TOLERANCE = 1e-4  # of what a module gains: fp32 in another order
NAME = "default"
READ_BY_PEFT = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
PEFT_KEY = re.compile(
    r"(?:base_model\.model\.|transformer\.)?(?P<module>.+)\.(?P<part>lora_[AB](?=[.]))"
    r"(?:\.[^.]+)?\.weight"
)
MAGNITUDE_KEY = re.compile(
    r"(?:base_model\.model\.|transformer\.)?(?P<module>.+)\.lora_magnitude_vector(?:\.[^.]+)*"
)
# What diffusers reads rightly, as far as its sources and trials of every dialect say.
_BLOCK = r"(?:(?:self|cross)_attn{0}(?:q|k|v|o|k_img|v_img)|ffn{0}[02])"
_OUTSIDE = r"(?:time_projection\.1|(?:text|time)_embedding\.[02]|head\.head|img_emb\.proj\.[13])"
DIFFUSERS_FORMS = tuple(
    re.compile(form)
    for form in (
        r"transformer\.(?:blocks\.\d+\.(?:attn[12]|ffn\.net)|condition_embedder|proj_out)"
        r"[\w.]*\.lora_[AB]\.weight",
        rf"diffusion_model\.(?:blocks\.\d+\.{_BLOCK.format('[.]')}\.(?:lora_[AB]\.weight|alpha)"
        rf"|{_OUTSIDE}\.lora_[AB]\.weight)",
        rf"diffusion_model\.(?:blocks\.\d+\.{_BLOCK.format('[.]')}\."
        rf"(?:lora_(?:down|up)\.weight|alpha)|{_OUTSIDE}\.lora_(?:down|up)\.weight)",
        rf"lora_unet_blocks_\d+_{_BLOCK.format('_')}\.(?:lora_(?:down|up)\.weight|alpha)",
    )
)
# What belongs to no product of two matrices; it isn't asked about.
BESIDE = re.compile(
    r".*\.(?:diff|diff_b|diff_m|set_weight|set_bias|lora_B(?:\.[^.]+)?\.bias)"
    r"|(?!.*lora).*\.(?:weight|bias)|[^.]+"
)


@dataclass(frozen=True)
class Answer:
    """Who read a file besides us, or why nobody else can."""

    oracle: Oracle | None
    reason: str = ""


class _UnreadError(Exception):
    """Neither PEFT nor diffusers is known to read this file rightly."""


def ask_oracle(adapter: Adapter) -> Answer:
    """Compare our reading of a LoRA with PEFT's or diffusers', read from the file itself.

    PEFT is asked where the file has its settings, else diffusers' loader where it is right: for
    the scale of every module, and for the weights of the first block after the merge. Weights of
    that block are in memory, one module at a time, and no model is built.

    Raises:
        VerificationError: the two readings differ.
    """
    products = [delta for delta in adapter.deltas if delta.kind == "lora"]
    try:
        if not products:
            raise _UnreadError("it holds no product of two matrices")
        if adapter.skipped:
            raise _UnreadError("only some of its keys are applied")
        if len(products[0].shape) != 2 or any(len(delta.shape) != 2 for delta in products):
            raise _UnreadError("it changes a convolution")
        config = _read_config(adapter.path, beside=adapter.scale_from == "sidecar")
        oracle: Oracle = "diffusers" if config is None else "peft"
        title = "diffusers" if config is None else "PEFT"
        load = _choose_loader(adapter.path, config)
        try:
            _compare_scales(adapter.path, title, products, load(frozenset()))
            block = _first_block(products)
            whole = frozenset(ref.name for delta in block for ref in delta.tensors.values())
            _compare_merges(adapter.path, title, block, load(whole))
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
            raise _UnreadError(f"{title} refuses it: {type(error).__name__}: {error}") from error
    except _UnreadError as unread:
        return Answer(None, str(unread))
    return Answer(oracle)


def _read_config(path: Path, *, beside: bool) -> dict[str, Any] | None:
    """Return PEFT's settings in a file's header, or `beside` it, as they are written."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(DIFFUSERS_KEY)
    if text is None and beside:
        text = path.with_name(PEFT_CONFIG).read_text(encoding="utf-8")
    if text is None:
        return None
    held = {key.removeprefix(DIFFUSERS_PREFIX): value for key, value in json.loads(text).items()}
    if held.get("peft_type", "LORA") != "LORA":
        raise _UnreadError(f"its settings are of {held['peft_type']}")
    if held.get("r") is None or held.get("lora_alpha") is None:
        raise _UnreadError("its settings lack r or lora_alpha, which PEFT makes up")
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in held.get(field) or {}:
            if len(re.findall(r"[*+{]", pattern)) > 2 or re.search(r"\)[*+?{]", pattern):
                raise _UnreadError(f"{field} {pattern!r} may take PEFT for ever")
    return held


def _choose_loader(
    path: Path, config: dict[str, Any] | None
) -> Callable[[frozenset[str]], tuple[Layers, bool]]:
    """Return what loads the file, its `whole` tensors with all values; True: names are the file's.

    Raises:
        _UnreadError: the file has keys that its reader isn't known to read rightly.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    asked = [name for name in names if not BESIDE.fullmatch(name)]
    if config is not None:
        asked = [name for name in asked if not name.endswith(".alpha")]
        if not all(PEFT_KEY.fullmatch(n) or MAGNITUDE_KEY.fullmatch(n) for n in asked):
            raise _UnreadError("it has settings of PEFT, but not its keys")
        return lambda whole: (_load_peft(_read_state(path, asked, whole), config), True)
    if not any(all(form.fullmatch(name) for name in asked) for form in DIFFUSERS_FORMS):
        raise _UnreadError("it has no settings of PEFT, and diffusers misreads such keys")
    return lambda whole: (_load_diffusers(_read_state(path, asked, whole)), False)


def _read_state(path: Path, names: list[str], whole: frozenset[str]) -> State:
    """Read alpha tensors and what is `whole`; of the others ones of the same rank and width 1."""
    import torch
    from safetensors import safe_open

    state: State = {}
    with safe_open(path, framework="pt") as file:
        for name in names:
            shape = tuple(file.get_slice(name).get_shape())
            if name in whole or name.endswith(".alpha"):
                state[name] = file.get_tensor(name).float()
            elif len(shape) < 2 or "magnitude" in name:
                state[name] = torch.ones(1)
            elif re.search(r"\.lora_(?:A|down)\b", name):
                state[name] = torch.ones(shape[0], 1)
            else:
                state[name] = torch.ones(1, shape[1])
    return state


def _load_peft(state: State, config: Mapping[str, Any]) -> Layers:
    """Have PEFT make its layers of the file's tensors; keys are the modules as written."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from torch import nn

    named: State = {}
    for name, tensor in state.items():
        if match := PEFT_KEY.fullmatch(name):
            named[f"{match['module']}.{match['part']}.weight"] = tensor
        elif match := MAGNITUDE_KEY.fullmatch(name):
            named[f"{match['module']}.lora_magnitude_vector"] = tensor.flatten()
    model = _skeleton(nn.Module(), named)
    targets = sorted({name.split(".lora_")[0] for name in named})
    told = {key: config[key] for key in READ_BY_PEFT if config.get(key) is not None}
    settings = LoraConfig(target_modules=targets, **told)
    inject_adapter_in_model(
        settings, model, adapter_name=NAME, low_cpu_mem_usage=True, state_dict=named
    )
    set_peft_model_state_dict(model, named, NAME, low_cpu_mem_usage=True)
    return _layers(model)


def _load_diffusers(state: State) -> Layers:
    """Have diffusers convert and load the file's tensors; keys are diffusers' module names."""
    from diffusers.loaders import PeftAdapterMixin
    from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
    from torch import nn

    class Skeleton(nn.Module, PeftAdapterMixin):  # type: ignore[misc]
        """What diffusers loads adapters into, of the modules of this file alone."""

    converted: State = WanLoraLoaderMixin.lora_state_dict(state)
    prefix = "transformer."
    named = {name.removeprefix(prefix): tensor for name, tensor in converted.items()}
    model: Any = _skeleton(Skeleton(), named)
    model.load_lora_adapter(
        converted, prefix="transformer", adapter_name=NAME, low_cpu_mem_usage=True
    )
    return _layers(model)


def _skeleton(model: torch.nn.Module, named: State) -> torch.nn.Module:
    """Put a linear layer of zeros that take no memory wherever the tensors belong."""
    import torch
    from torch import nn

    for name, down in named.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removesuffix(".lora_A.weight")
        layer = nn.Linear(1, 1, bias=False)
        layer.in_features = down.shape[1]
        layer.out_features = named[f"{module}.lora_B.weight"].shape[0]
        zeros = torch.zeros(1, 1).expand(layer.out_features, layer.in_features)
        layer.weight = nn.Parameter(zeros, requires_grad=False)
        *parents, leaf = module.split(".")
        parent = model
        for part in parents:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(leaf, layer)
    return model


def _layers(model: torch.nn.Module) -> Layers:
    from peft.tuners.lora import Linear

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear)}


def _find_layer(layers: Layers, delta: Delta, *, as_written: bool) -> Linear | None:
    if not as_written:
        return layers.get(delta.module)
    match = PEFT_KEY.fullmatch(delta.tensors["A"].name)
    return layers.get(match["module"]) if match else None


def _compare_scales(
    path: Path, title: str, products: list[Delta], loaded: tuple[Layers, bool]
) -> None:
    """Compare what every module's product is multiplied by; stand-ins make it scale x rank."""
    layers, as_written = loaded
    if len(layers) != len(products):
        raise VerificationError(
            f"{path}: {title} finds {len(layers)} modules in it, wanexport {len(products)}",
            "one of the two reads the file wrongly; please report it",
        )
    for delta in products:
        layer = _find_layer(layers, delta, as_written=as_written)
        if layer is None:
            raise VerificationError(
                f"{path}: {title} changes other modules; it doesn't know {delta.module}",
                "one of the two reads the file wrongly; please report it",
            )
        theirs = float(layer.get_delta_weight(NAME).detach()) / delta.rank
        if abs(theirs - delta.scale) > TOLERANCE * abs(theirs):
            raise VerificationError(
                f"{path}: {title} scales {delta.module} by {theirs:g}, wanexport by "
                f"{delta.scale:g}",
                "one of the two reads the file's alpha wrongly; please report it",
            )


def _first_block(products: list[Delta]) -> list[Delta]:
    """Return the changes of the first adapted block, or of the first module outside of blocks."""
    block = re.match(r"blocks\.\d+\.", min(delta.module for delta in products))
    if block is None:
        return products[:1]
    return [delta for delta in products if delta.module.startswith(block[0])]


def _compare_merges(
    path: Path, title: str, block: list[Delta], loaded: tuple[Layers, bool]
) -> None:
    """Compare the merged weights of a block's modules; the pristine ones are made for this."""
    import torch

    layers, as_written = loaded
    for delta in block:
        layer = _find_layer(layers, delta, as_written=as_written)
        assert layer is not None
        # A sum of a weight and a small change would hide the change's last digits.
        spread = 1.0 if "magnitude" in delta.tensors else 0.0
        pristine = torch.linspace(-spread, spread, delta.shape[0] * delta.shape[1])
        pristine = pristine.reshape(delta.shape)
        layer.base_layer.weight = torch.nn.Parameter(pristine.clone(), requires_grad=False)
        layer.merge()
        theirs = layer.base_layer.weight.data.sub_(pristine)
        ours = replace(delta, strength=1.0).change(pristine)
        size = float(theirs.norm())
        off = float(ours.sub_(theirs).norm())
        if not off <= TOLERANCE * size:
            raise VerificationError(
                f"{path}: {title} merges {delta.module} differently: its change is of size "
                f"{size:.4g}, wanexport's differs from it by {off:.4g}",
                "one of the two reads the file wrongly; please report it",
            )
        layer.base_layer.weight = torch.nn.Parameter(torch.zeros(1, 1), requires_grad=False)
