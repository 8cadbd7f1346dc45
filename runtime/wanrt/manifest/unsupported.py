"""What engine.json may say that this version can read but not run."""

from __future__ import annotations

from wanrt.manifest.schema import Manifest

__all__ = ["find_unsupported"]

RUN = {  # schemes of quantised engines
    "onnxruntime": ("int8",), "tensorrt": ("int8", "fp8"), "tensorrt-rtx": ("int8", "fp8"),
}  # fmt: skip


def find_unsupported(manifest: Manifest) -> str | None:
    """Return the feature that this version can't run, and what it runs instead; or None."""
    quantized = manifest.quantization.scheme if manifest.quantization else ""
    runs = quantized in RUN[manifest.backend]
    reasons = {
        f"is split over {manifest.cards} cards; this version runs engines of one card": (
            manifest.cards > 1
        ),
        f"is quantised to {quantized}; this version runs int8, and fp8 with TensorRT": (
            bool(quantized) and not runs
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)
