"""What pipelines call a transformer with, as an engine takes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from wanexport.errors import PipelineError
from wanexport.model.config import parse_config
from wanexport.model.formulas import PATCH, VAE_STRIDE
from wanexport.storage.dtypes import torch_dtype
from wanrt.engine.tensors import show_shape
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.schema import Manifest

__all__ = ["Feeds"]

Feed = dict[str, Tensor]


@dataclass(frozen=True)
class Feeds:
    """Turns a call of diffusers' `WanTransformer3DModel.forward` into an engine's inputs.

    Args:
        manifest: the engine's.
        folder: the engine's, for errors.
        on_host: whether the engine reads host memory alone.
    """

    manifest: Manifest
    folder: Path
    on_host: bool

    def arrange(self, given: dict[str, Tensor | None]) -> Iterator[Feed]:
        """Yield the inputs of every forward that a call takes, in the batch's order.

        A batch that the engine doesn't have is run in pieces, since samples don't depend on each
        other.

        Args:
            given: `hidden_states` [B, C, F, H, W], `timestep` [B], `encoder_hidden_states`
                [B, 512, D] and, for some models, `encoder_hidden_states_image` [B, 257, 1280] or,
                of a first and a last frame, [2 B, 257, 1280].

        Raises:
            PipelineError: the engine has no such input, or lacks one, or its sizes are others.
        """
        feeds = self._check(given)
        batch = len(feeds["hidden_states"])
        piece = self._find_piece(feeds["hidden_states"])
        for start in range(0, batch, piece):
            yield {name: value[start : start + piece] for name, value in feeds.items()}

    def _check(self, given: dict[str, Tensor | None]) -> Feed:
        specs = self._specs
        feeds = {name: value for name, value in given.items() if value is not None}
        for name in feeds.keys() - specs.keys():
            raise PipelineError(
                f"{self.folder}: the engine has no input {name}",
                "it is of a model without an image encoder"
                if name == "encoder_hidden_states_image"
                else "",
            )
        for name in specs.keys() - feeds.keys():
            raise PipelineError(
                f"{self.folder}: the engine needs {name}", "use the pipeline of that model"
            )
        if feeds["timestep"].ndim != 1:
            raise PipelineError(
                f"{self.folder}: the pipeline gives a timestep for every token, as Wan2.2 TI2V-5B "
                "takes them",
                "use the pipeline without expand_timesteps",
            )
        image = feeds.get("encoder_hidden_states_image")
        if image is not None:
            feeds["encoder_hidden_states_image"] = self._join_frames(image)
        batch = len(feeds["hidden_states"])
        for name, spec in specs.items():
            value = feeds[name].detach().to(torch_dtype(spec.dtype)).contiguous()
            feeds[name] = value.cpu() if self.on_host else value
            want = spec.shape[1:]
            fits = value.ndim == len(spec.shape) and len(value) == batch
            if name != "hidden_states":  # whose size says which video it is
                fits = fits and tuple(value.shape[1:]) == want
            if not fits:
                raise PipelineError(
                    f"{self.folder}: {name} has shape {show_shape(tuple(value.shape))}, the engine "
                    f"takes {show_shape((batch, *want))}",
                    "leave max_sequence_length at 512" if name == "encoder_hidden_states" else "",
                )
        return feeds

    def _join_frames(self, image: Tensor) -> Tensor:
        """Put the embeddings of a first and a last frame [2 B, 257, D] in one row [B, 514, D]."""
        joined = self._joined_tokens
        if joined is None or image.ndim != 3 or 2 * image.shape[1] != joined or len(image) % 2:
            return image
        return image.reshape(-1, joined, image.shape[2])

    def _find_piece(self, latents: Tensor) -> int:
        """Return the largest batch that the engine has and that divides the one asked for."""
        batch, channels, *size = latents.shape
        spec = self._specs["hidden_states"]
        if channels != spec.shape[1]:
            raise PipelineError(
                f"{self.folder}: latents and conditions have {channels} channels, the engine takes "
                f"{spec.shape[1]}",
                "use the pipeline of the engine's model",
            )
        plan = self.manifest.forward.plan
        if plan is None and isinstance(spec.shape[0], str):  # ONNX Runtime takes any size
            if all(extent % patch == 0 for extent, patch in zip(size, PATCH, strict=True)):
                return batch
            there = []
        else:
            known = [one.shapes["hidden_states"] for one in self.manifest.workloads.values()]
            there = [shape[0] for shape in known if list(shape[2:]) == size]
        pieces = [piece for piece in there if batch % piece == 0]
        if pieces:
            return max(pieces)
        raise PipelineError(
            f"{self.folder}: the engine has no {_show_video(size)} in batches of {batch}",
            f"it has: {', '.join(self.manifest.workloads)}; other sizes are other engines: "
            "wanexport build --width W --height H --frames F",
        )

    @cached_property
    def _specs(self) -> dict[str, TensorSpec]:
        """The inputs that a caller feeds, by name; those of a split engine's graphs together."""
        graphs = self.manifest.graphs.values()
        inputs = [spec for graph in graphs for spec in graph.inputs if spec.role == "data"]
        return {spec.name: spec for spec in inputs}

    @cached_property
    def _joined_tokens(self) -> int | None:
        """How many tokens a first and a last frame's embeddings are together, if it takes both."""
        config = parse_config(self.manifest.config, str(self.folder))
        return config.architecture.pos_embed_seq_len


def _show_video(latents: list[int]) -> str:
    """Return `480x272x5` of latents' frames, height and width."""
    frames, height, width = latents
    stride, rows, columns = VAE_STRIDE
    return f"{width * columns}x{height * rows}x{(frames - 1) * stride + 1}"
