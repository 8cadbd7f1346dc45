"""The words that pipelines have for LoRAs, for an engine: what diffusers' models take from PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from wanexport.errors import PipelineError
from wanexport.pipelines.adapters import Adapters, StateDict
from wanrt.terminal.text import counted, first_and_more

__all__ = ["LoraMethods", "Tuner"]

Names = list[str] | str


class LoraMethods:
    """`load_lora_weights` and its like call these methods of a pipeline's transformer."""

    _adapters: Adapters
    _folder: Path

    def load_lora(
        self,
        file: Path | str,
        adapter_name: str | None = None,
        *,
        skip_image_keys: bool = False,
        hotswap: bool = False,
    ) -> None:
        """Load a LoRA file of any dialect, read by wanexport's own resolver.

        diffusers' `load_lora_weights` converts a file first, and what it drops there is lost; here
        every key is applied or the file is refused. It becomes the only active adapter.

        Args:
            file: a safetensors file, a folder with one, or a repository in the Hugging Face cache.
            adapter_name: by which pipelines know it; by default counted from `default_0`.
            skip_image_keys: leave out keys of layers for an image, where the model has none.
            hotswap: take the place of the adapter of that name, which stays active.

        Raises:
            PipelineError: the engine takes no LoRA, or the name is in use.
            AdapterError: the file can't be applied in full by this engine.
        """
        self._adapters.load(
            adapter_name,
            lambda path: self._adapters.convert_file(file, path, skip_image_keys=skip_image_keys),
            replacing=hotswap,
        )

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: StateDict | Path | str,
        prefix: str | None = "transformer",
        hotswap: bool = False,
        *,
        adapter_name: str | None = None,
        network_alphas: Mapping[str, float] | None = None,
        metadata: Mapping[str, object] | None = None,
        low_cpu_mem_usage: bool = False,
        _pipeline: object = None,
    ) -> None:
        """Load what a pipeline's `load_lora_weights` has read; a file is read by `load_lora`.

        Args:
            pretrained_model_name_or_path_or_dict: tensors under diffusers' names, or a file.
            prefix: what their names begin with.
            hotswap: take the place of the adapter of that name.
            adapter_name: by which pipelines know it.
            network_alphas: refused; diffusers' Wan pipelines give none.
            metadata: PEFT's configuration with the same prefix.

        Raises:
            PipelineError: the engine takes no LoRA, or there are tensors of something else.
            AdapterError: they can't be applied in full by this engine.
        """
        given = pretrained_model_name_or_path_or_dict
        if not isinstance(given, Mapping):
            self.load_lora(given, adapter_name, hotswap=hotswap)
            return
        if network_alphas:
            raise PipelineError("network_alphas aren't supported", "load the file by load_lora")
        start = f"{prefix}." if prefix else ""
        others = [name for name in given if not name.startswith(start)]
        if others or not given:
            raise PipelineError(
                f"the LoRA holds {first_and_more(others) if others else 'nothing'}, "
                f"which isn't the {prefix or 'transformer'}'s",
                "load the file by transformer.load_lora(FILE), which knows more dialects",
            )
        tensors = _without_zeros(given)
        self._adapters.load(
            adapter_name,
            lambda path: self._adapters.convert_tensors(tensors, metadata, path),
            replacing=hotswap,
        )

    def set_adapters(
        self,
        adapter_names: Names,
        weights: float | list[float | None] | None = None,
    ) -> None:
        """Let these adapters count, each by its weight (1 by default), and no others.

        Raises:
            PipelineError: one isn't loaded, weights differ by layer, or there are too few.
        """
        names = _as_list(adapter_names)
        given = weights if isinstance(weights, list) else [weights] * len(names)
        if len(given) != len(names):
            raise PipelineError(f"{counted(len(names), 'adapter')}, but {len(given)} weights")
        if any(isinstance(weight, Mapping) for weight in given):
            raise PipelineError(
                "weights that differ by layer aren't supported: an adapter has one strength"
            )
        self._adapters.set_active(names, [1.0 if w is None else float(w) for w in given])

    def enable_lora(self) -> None:
        """Let the active adapters count again."""
        self._adapters.enable(enabled=True)

    def disable_lora(self) -> None:
        """Run the base, until `enable_lora`; adapters stay loaded."""
        self._adapters.enable(enabled=False)

    def delete_adapters(self, adapter_names: Names) -> None:
        """Forget adapters by name."""
        self._adapters.delete(_as_list(adapter_names))

    def unload_lora(self) -> None:
        """Forget all adapters."""
        self._adapters.clear()

    @property
    def peft_config(self) -> dict[str, None]:
        """The names of the loaded adapters, where pipelines look for them; none: no attribute."""
        if not self._adapters.names:
            raise AttributeError("no adapter is loaded")
        return dict.fromkeys(self._adapters.names)

    def fuse_lora(
        self,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> NoReturn:
        """Refuse: an engine's weights are what it was built with."""
        raise PipelineError(
            f"a LoRA can't be fused into {self._folder}: its weights are what it was built with",
            "build one with the LoRA merged: wanexport build --mode merged --lora FILE:STRENGTH",
        )

    def unfuse_lora(self) -> NoReturn:
        """Refuse: nothing was fused here."""
        raise PipelineError(f"no LoRA was fused into {self._folder} here", "see disable_lora")

    def enable_lora_hotswap(
        self,
        target_rank: int = 128,
        check_compiled: Literal["error", "warn", "ignore"] = "error",
    ) -> None:
        """Check that the engine takes adapters of that rank; it is ready to exchange them.

        Raises:
            PipelineError: it takes none, or of smaller ranks alone.
        """
        self._adapters.check_rank(target_rank)


class Tuner(torch.nn.Module, BaseTunerLayer):
    """Tells `get_active_adapters`, and refuses what pipelines do to PEFT's layers themselves.

    Its empty parameter is the one that accelerate looks for in any model that it offloads.
    """

    def __init__(self, adapters: Adapters) -> None:
        super().__init__()
        self.merged_adapters = []
        self.place = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        self._adapters = adapters

    @property
    def active_adapters(self) -> list[str]:
        """The names of the adapters that count."""
        return list(self._adapters.active)

    @property
    def lora_A(self) -> NoReturn:  # noqa: N802 -- PEFT's name
        """Refuse `set_lora_device`: an engine's adapters are where the engine is."""
        raise PipelineError("an engine's adapters can't be moved: they are where the engine is")

    def unmerge(self) -> NoReturn:
        """Refuse `unfuse_lora`."""
        raise PipelineError("no LoRA was fused into the engine here", "see disable_lora")


def _as_list(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _without_zeros(tensors: StateDict) -> StateDict:
    """Leave out pairs of zeros, which diffusers adds for the image's layers of a text model's LoRA.

    They change nothing, and an engine may have no inputs for those layers.
    """
    modules = {name.rpartition(".lora_")[0] for name in tensors if ".lora_" in name}
    changing = {name.rpartition(".lora_")[0] for name, held in tensors.items() if held.any()}
    if not modules & changing:
        return tensors
    silent = modules - changing
    return {n: held for n, held in tensors.items() if n.rpartition(".lora_")[0] not in silent}
