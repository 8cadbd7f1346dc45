"""A plan's own output is compared with the reference on the GPU that built it; all of it fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folders
import numpy as np
import pytest
import torch
from folders import engines, manifests
from studies import build

from wanexport.build.recipe import Built
from wanexport.errors import VerificationError
from wanexport.tensorrt.settings import PlanSettings
from wanrt.backends.load import load_engine
from wanrt.engine.stack import AdapterArgument, list_adapters

sources = folders.sources  # a fixture


class Spoken:
    """An engine whose plan says what it is told to say."""

    def __init__(self, sample: Callable[..., np.ndarray]) -> None:
        self.sample = sample
        self.manifest = SimpleNamespace(dtype="fp16", quantization=None)
        self.swapped: list[AdapterArgument] = []

    def __enter__(self) -> Spoken:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def swap(self, adapter: AdapterArgument) -> None:
        self.swapped.append(adapter)

    def forward(self, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
        return {"sample": self.sample(**inputs)}


@pytest.mark.usefixtures("fake_builder")
class TestAPlanIsRunOnItsGpu:
    """The plan's own output, here spoken by ONNX Runtime's engine of the same weights."""

    @pytest.fixture
    def honest(self, sources: Path, tmp_path: Path) -> Callable[..., np.ndarray]:
        made = build(
            tmp_path / "ort",
            modes=("full",),
            dtype="fp16",
            base=str(sources / "base"),
            verify=False,
        )
        return lambda **inputs: load_engine(made[0].path).forward(**inputs)["sample"]

    def build(self, sources: Path, out: Path, **options: Any) -> list[Built]:
        settings: dict[str, Any] = {
            "modes": ("full",),
            "dtype": "fp16",
            "tensorrt": PlanSettings("tensorrt-rtx"),
        }
        return build(out, base=str(sources / "base"), **(settings | options))

    def test_its_error_is_recorded(
        self, sources: Path, tmp_path: Path, honest: Callable[..., np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("wanexport.verify.plan.load_engine", lambda _, **__: Spoken(honest))
        self.build(sources, tmp_path / "e")
        (manifest,) = manifests(tmp_path / "e")
        error = manifest.verification.plan_error
        assert error is not None
        assert 0 < error < 0.01

    def test_every_adapter_is_tried(
        self, sources: Path, tmp_path: Path, honest: Callable[..., np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        spoken = Spoken(honest)
        monkeypatch.setattr("wanexport.verify.plan.load_engine", lambda _, **__: spoken)
        with pytest.raises(VerificationError, match="the plan's outputs are off by"):
            self.build(sources, tmp_path / "e", modes=("swappable",), ranks=(4, 8))
        (first,) = map(list_adapters, spoken.swapped)
        assert [(path.name, strength) for path, strength in first] == [("r4.safetensors", 1.0)]
        assert not engines(tmp_path / "e")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (np.zeros_like, "the plan's output is all zero"),
            (lambda sample: sample * np.float16(np.nan), "the plan's output isn't finite"),
            (lambda sample: sample * np.float16(1.1), "off by 0.1 .* though its graph's aren't"),
        ],
        ids=["zero", "nan", "off"],
    )
    def test_what_it_should_not_say(
        self,
        sources: Path,
        tmp_path: Path,
        honest: Callable[..., np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
        change: Callable[[np.ndarray], np.ndarray],
        said: str,
    ) -> None:
        spoken = Spoken(lambda **inputs: change(honest(**inputs)))
        monkeypatch.setattr("wanexport.verify.plan.load_engine", lambda _, **__: spoken)
        with pytest.raises(VerificationError, match=said):
            self.build(sources, tmp_path / "e")
        assert not engines(tmp_path / "e")
