"""An engine as the `transformer` of diffusers' Wan pipelines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import FrozenDict
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from wanexport.errors import PipelineError
from wanexport.model.config import parse_config
from wanexport.model.formulas import PATCH
from wanexport.pipelines.adapters import Adapters
from wanexport.pipelines.contexts import Contexts
from wanexport.pipelines.feeds import Feeds
from wanexport.pipelines.lora import LoraMethods, Tuner
from wanexport.storage.dtypes import torch_dtype
from wanrt.backends.load import load_engine
from wanrt.engine.engine import DeviceKind, Engine
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import NUMPY, Array
from wanrt.terminal.text import first_and_more

__all__ = ["EngineTransformer"]

logger = logging.getLogger(__name__)
REBUILD = "load the torch transformer for that, or leave it out"


class EngineTransformer(LoraMethods, ModelMixin, ConfigMixin):  # type: ignore[misc] # diffusers is untyped
    """An engine folder in the place of a `WanTransformer3DModel`.

    It takes the place of `transformer` and `transformer_2` in `WanPipeline`,
    `WanImageToVideoPipeline` and `WanVideoToVideoPipeline`. The engine stays on its own device and
    in its own dtype, wherever a pipeline moves its modules; tensors go there and back.

    Args:
        folder: the engine folder.
        engine: the engine of that folder, loaded already with options that are not offered here;
            it stays the caller's to close.
        device: where the engine runs, or was loaded; by default a TensorRT engine's is cuda,
            another's cpu.
        threads: of ONNX Runtime's own pool; by default one per usable core.

    Raises:
        WanrtError: the engine can't be loaded on this machine.
    """

    config_name = "config.json"
    _supports_group_offloading = False

    def __init__(
        self,
        folder: Path | str,
        *,
        engine: Engine | None = None,
        device: DeviceKind | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._owns_engine = engine is None
        self._engine = engine or load_engine(self._folder, device=device, threads=threads)
        manifest = self._engine.manifest
        self._dtype = torch_dtype(manifest.dtype)
        self._device = torch.device("cpu")
        on_host = manifest.backend == "onnxruntime" and device != "cuda"
        self._feeds = Feeds(manifest, self._folder, on_host)
        self._adapters = Adapters(self._folder, self._engine)
        self._contexts = Contexts(self._engine) if manifest.is_split else None
        self._internal_dict = _describe(manifest, self._folder)
        self.tuner = Tuner(self._adapters)

    @property
    def engine(self) -> Engine:
        """The loaded engine; adapters that are swapped there aren't known here."""
        return self._engine

    @property
    def dtype(self) -> torch.dtype:
        """The engine's dtype, which pipelines give their inputs in."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where the pipeline put this module; the engine runs on its own device."""
        return self._device

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: Mapping[str, object] | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Run the engine as diffusers' `WanTransformer3DModel.forward` runs.

        Args:
            hidden_states: [B, C, F, H, W] latents, with conditions behind them in axis 1.
            timestep: [B], of any dtype.
            encoder_hidden_states: [B, 512, D] of the prompt.
            encoder_hidden_states_image: [B, 257, 1280] of an image, or [2 B, 257, 1280] of a first
                and a last frame.
            return_dict: whether to return diffusers' output class or a tuple.
            attention_kwargs: `scale` multiplies all active adapters; anything else is refused.

        Returns:
            [B, 16, F, H, W] in the engine's dtype, on the device of `hidden_states`.

        Raises:
            PipelineError: the engine doesn't have these inputs or sizes.
            EngineError: the engine failed.
        """
        self._adapters.apply(_read_scale(attention_kwargs))
        given = {
            "hidden_states": hidden_states,
            "timestep": timestep,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_hidden_states_image": encoder_hidden_states_image,
        }
        feeds = list(self._feeds.arrange(given))
        outputs = [self._run(feed, len(feeds)) for feed in feeds]
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        sample = joined.to(hidden_states.device)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def close(self) -> None:
        """Free the engine, if it was loaded here, and remove the adapters' files."""
        self._adapters.close()
        if self._owns_engine:
            self._engine.close()

    @contextmanager
    def cache_context(self, name: str, **_: object) -> Iterator[None]:
        """Do nothing: pipelines name what they compute for caches, of which an engine has none."""
        yield

    def enable_cache(self, config: object) -> NoReturn:
        """Refuse: diffusers' caches skip blocks of a module, and an engine is one graph."""
        raise PipelineError(
            f"{type(config).__name__}: diffusers' caches skip blocks of torch modules, and "
            f"{self._folder} is one compiled graph",
            REBUILD,
        )

    @property
    def is_cache_enabled(self) -> bool:
        """False: there is no cache."""
        return False

    def save_pretrained(self, *_: object, **__: object) -> NoReturn:
        """Refuse: an engine isn't a checkpoint."""
        raise PipelineError(f"{self._folder} is an engine, not a checkpoint", "copy its folder")

    def set_attention_backend(self, backend: str) -> NoReturn:
        """Refuse: how an engine computes attention was decided when it was built."""
        raise PipelineError(f"attention backend {backend}: {self._folder} has its own, compiled in")

    def enable_layerwise_casting(self, *_: object, **__: object) -> NoReturn:
        """Refuse: an engine's dtype was decided when it was built."""
        raise PipelineError(f"{self._folder} is compiled in {self._engine.manifest.dtype}", REBUILD)

    def _run(self, feed: dict[str, Tensor], pieces: int) -> Tensor:
        if self._contexts is None:
            outputs = self._engine.forward(**feed)
        else:
            outputs = self._contexts.forward(feed, pieces, self._adapters.revision)
        sample: Array = outputs["sample"]
        if sample.dtype == NUMPY["bf16"]:
            return torch.from_numpy(sample.view("int16")).view(torch.bfloat16)
        return torch.from_numpy(sample)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EngineTransformer:
        """Note where `to`, `cuda`, `half` and the like would put the module."""
        probe = fn(torch.empty(0, dtype=self._dtype, device=self._device))
        if probe.dtype != self._dtype:
            logger.warning("%s stays in %s: it is compiled", self._folder, self._dtype)
        self._device = probe.device
        return self


class _Config(FrozenDict):  # type: ignore[misc] # diffusers is untyped
    """A transformer's configuration that refuses what only VACE has."""

    @property
    def vace_layers(self) -> NoReturn:
        """Refuse VACE, whose pipeline asks for this first."""
        raise PipelineError(
            "VACE isn't supported: its control layers are no part of an engine",
            "use WanPipeline, WanImageToVideoPipeline or WanVideoToVideoPipeline",
        )


def _describe(manifest: Manifest, folder: Path) -> _Config:
    architecture = parse_config(manifest.config, str(folder / "engine.json")).architecture
    return _Config({**architecture.model_dump(), "patch_size": PATCH})


def _read_scale(attention_kwargs: Mapping[str, object] | None) -> float:
    given = dict(attention_kwargs or {})
    scale = given.pop("scale", 1.0)
    if given:
        raise PipelineError(
            f"attention_kwargs: {first_and_more(list(given))} would have no effect on an engine",
            "leave it out",
        )
    if not isinstance(scale, int | float):
        raise PipelineError(f"attention_kwargs: scale {scale!r} isn't a number")
    return float(scale)
