"""One side of a comparison: an engine, or diffusers' model with an engine's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wanexport.graph.swappable import STRENGTHS
from wanexport.model.config import Size
from wanexport.storage.dtypes import torch_dtype
from wanexport.verify.built_engine import BuiltEngine
from wanexport.verify.reference_model import run_reference
from wanexport.verify.segments import count_bytes, iterate_segments
from wanrt.backends.load import check_engine, is_emulated, load_engine
from wanrt.engine.engine import DeviceKind
from wanrt.errors import UnsupportedError
from wanrt.manifest.folder import check_files
from wanrt.manifest.schema import Manifest
from wanrt.terminal.progress import Reporter

__all__ = ["Side"]

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Side:
    """An engine, or diffusers' model with that engine's weights.

    Args:
        engine: the engine.
        reporter: receives progress.
        is_reference: run diffusers' model in its place, in fp32.
    """

    engine: BuiltEngine
    reporter: Reporter
    is_reference: bool = False

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""
        return self.engine.folder.manifest

    @property
    def dtype(self) -> str:
        """What it computes in."""
        return "fp32" if self.is_reference else self.manifest.dtype

    @property
    def is_plan(self) -> bool:
        """Whether what runs in earnest is a compiled plan."""
        return not self.is_reference and self.manifest.forward.plan is not None

    def describe(self, how: str) -> str:
        """Say what it is and how it is run."""
        if self.is_reference:
            return "diffusers' model in torch with A's weights (fp32, cpu)"
        return f"{self.engine.folder.path} ({how})"

    def describe_run(self, device: DeviceKind | None) -> str:
        """Say what it is and what runs it."""
        place = device or ("cpu" if self.manifest.backend == "onnxruntime" else "cuda")
        emulated = ", emulated" if is_emulated(self.manifest, device) else ""
        return self.describe(f"{self.manifest.backend}, {self.dtype}, {place}{emulated}")

    def describe_pieces(self) -> str:
        """Say what it is and in what dtype its pieces are run."""
        return self.describe("bf16 weights, in fp32" if self.dtype == "bf16" else self.dtype)

    def run(
        self,
        inputs: Values,
        workload: str,
        adapter: Path | None,
        device: DeviceKind | None,
    ) -> dict[str, Tensor]:
        """Return the outputs of one forward in fp32; nothing stays loaded.

        Raises:
            WanrtError: the engine can't be run here, or can't take the adapter.
        """
        if self.is_reference:
            with self.reporter.work("running diffusers' model"):
                sample = run_reference(
                    self.engine.arch, self.engine.effective, dict(inputs), torch.float32
                )
            return {"sample": sample}
        folder = self.engine.folder
        emulated = is_emulated(self.manifest, device)
        try:
            check_engine(folder, device, emulated=emulated, reporter=self.reporter)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{folder.path}: {error}", "compare graphs on a CPU instead: add --blocks"
            ) from None
        feeds: dict[str, object] = {
            name: value if name == "timestep" else value.to(torch_dtype(self.dtype))
            for name, value in inputs.items()
        }
        with (
            self.reporter.work(f"running {folder.path.name}"),
            load_engine(folder, device=device, emulated=emulated, workload=workload) as engine,
        ):
            if adapter is not None and self.manifest.adapter_inputs:
                engine.swap(adapter)
            outputs = engine.forward(**feeds)
        return {name: torch.from_numpy(array.astype(np.float32)) for name, array in outputs.items()}

    def run_pieces(self, size: Size, inputs: Values) -> Iterator[tuple[str, Tensor]]:
        """Yield what stem, every block and head return; a bf16 engine's weights compute in fp32.

        Args:
            size: what both sides' twins are made from.
            inputs: the twin's, in fp32.

        Raises:
            WanrtError: the engine's files aren't right, or its graph can't be made again.
        """
        if self.is_reference:
            yield from self._run_reference_pieces(inputs)
            return
        engine = self.engine
        check_files(engine.folder, self.reporter)
        with self.reporter.work(f"tracing {engine.folder.path.name}"):
            twin = engine.make_twin(size)
        dtype = torch_dtype("fp16" if self.dtype == "fp16" else "fp32")
        values = {
            name: value.to(torch.float32 if name in ("timestep", STRENGTHS) else dtype)
            for name, value in {**inputs, **engine.adapter}.items()
        }
        total = count_bytes(twin, engine.weights)
        with self.reporter.bytes(f"running {engine.folder.path.name}", total) as piece:
            pieces = iterate_segments(
                engine.folder.path,
                twin,
                engine.arch.num_layers,
                engine.weights,
                [values],
                piece.advance,
            )
            for name, (output,) in pieces:
                yield name, output

    def _run_reference_pieces(self, inputs: Values) -> list[tuple[str, Tensor]]:
        seen: list[tuple[str, Tensor]] = []
        with self.reporter.work("running diffusers' model"):
            run_reference(
                self.engine.arch,
                self.engine.effective,
                dict(inputs),
                torch.float32,
                lambda name, value: seen.append((name, value)),
            )
        return seen
