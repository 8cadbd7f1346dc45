"""How long a forward takes at best on a device: the roofline of each part, summed.

A part's time is the larger of flops / rate and bytes / bandwidth (Williams, Waterman and Patterson,
"Roofline: an insightful visual performance model for multicore architectures", CACM 52(4), 2009).
No kernel reaches a device's full rate, and parts run one after another, so a prediction is a bound:
an engine is slower. `docs/predicting.md` says what isn't modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wanrt.errors import WanrtError
from wanrt.machine.devices import DeviceRates

__all__ = ["Prediction", "predict_forward"]


@dataclass(frozen=True)
class Prediction:
    """The least time of one forward on a device, by part.

    Args:
        device: its name.
        dtype: what is computed in.
        compute_s: seconds that each part's flops take at the device's full rate.
        memory_s: seconds that moving each part's bytes takes at its full bandwidth.
    """

    device: str
    dtype: str
    compute_s: Mapping[str, float]
    memory_s: Mapping[str, float]

    @property
    def parts_s(self) -> dict[str, float]:
        """Each part's time: whichever of the two takes longer."""
        return {part: max(self.compute_s[part], self.memory_s[part]) for part in self.compute_s}

    @property
    def seconds(self) -> float:
        """The forward's time."""
        return sum(self.parts_s.values())


def predict_forward(
    flops: Mapping[str, int], moved: Mapping[str, int], device: DeviceRates, dtype: str
) -> Prediction:
    """Predict a forward from its flops and the bytes it moves, by part.

    Both are a manifest's `workload.flops` and `workload.bytes`, or wanexport's counts of the like.

    Raises:
        WanrtError: the device's rate in that dtype isn't known.
    """
    rates: Mapping[str, float] = {name: rate * 1e12 for name, rate in device.tflops.items()}
    if dtype not in rates:
        raise WanrtError(
            f"{device.name} has no rate in {dtype}", f"it has one in {', '.join(rates)}"
        )
    parts = list(dict.fromkeys([*flops, *moved]))
    return Prediction(
        device.name,
        dtype,
        {part: flops.get(part, 0) / rates[dtype] for part in parts},
        {part: moved.get(part, 0) / (device.bandwidth_gb_s * 1e9) for part in parts},
    )
