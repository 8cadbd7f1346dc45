"""Wan2.2's two experts: how many of a video's steps each of them takes."""

from __future__ import annotations

__all__ = ["count_steps"]


def count_steps(boundary: float, steps: int, shift: float) -> tuple[int, int]:
    """Return how many steps the high-noise and the low-noise expert take.

    Args:
        boundary: the high-noise expert runs while the timestep is at least boundary x 1000.
        steps: of a video.
        shift: of its flow-matching schedule.
    """
    noise = [1 - step / steps for step in range(steps)]
    high = sum(shift * s / (1 + (shift - 1) * s) >= boundary for s in noise)
    return high, steps - high
