"""Low-rank factors of a change: a randomised SVD of a matrix, an exact one of a product.

Torch's LAPACK does the work; what is here is the order of it. Every smaller rank is a prefix of
what a larger one gives, so one decomposition serves all ranks. No singular value is clamped.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

__all__ = ["ITERATIONS", "OVERSAMPLING", "SEED", "Factors", "decompose", "decompose_product"]

OVERSAMPLING = 16
ITERATIONS = 2
SEED = 0


@dataclass(frozen=True)
class Factors:
    """The singular vectors of a change, each side with the square root of the values.

    So both are of one size, and fp16 holds them where U S would need a wider range.

    Args:
        down: sqrt(S) V^T, [r, in].
        up: (U sqrt(S))^T, [r, out]: transposed, so that the first rows are a smaller rank.
        values: S, [r], from the largest down.
    """

    down: torch.Tensor
    up: torch.Tensor
    values: torch.Tensor

    def first(self, rank: int) -> Factors:
        """Return those of a smaller rank."""
        return Factors(self.down[:rank], self.up[:rank], self.values[:rank])


def decompose(change: torch.Tensor, rank: int, key: str) -> Factors:
    """Return the leading factors of a matrix [out, in] in fp32.

    Halko, Martinsson and Tropp, "Finding structure with randomness" (2011, arXiv:0909.4061),
    algorithms 4.4 and 5.1: a random sample of the range, refined by two power iterations with QR,
    and an SVD within it. A small matrix is decomposed exactly.

    Args:
        change: the matrix.
        rank: how many factors.
        key: names the matrix; it decides the random sample, together with SEED.
    """
    width = rank + OVERSAMPLING
    if width >= min(change.shape):
        return _balance(*torch.linalg.svd(change, full_matrices=False)).first(rank)
    sample = torch.randn(change.shape[1], width, generator=_seeded(key))
    basis = torch.linalg.qr(change @ sample).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(change.T @ basis).Q
        basis = torch.linalg.qr(change @ basis).Q
    within = torch.linalg.qr((basis.T @ change).T)  # [in, width], so what is left is small
    left, values, right = torch.linalg.svd(within.R.T)
    return _balance(basis @ left, values, right @ within.Q.T).first(rank)


def decompose_product(up: torch.Tensor, down: torch.Tensor) -> Factors:
    """Return all factors of B A in fp32, exactly, without forming the product.

    QR of both sides leaves an r x r matrix, whose SVD is the product's.

    Args:
        up: B, [out, r].
        down: A, [r, in].
    """
    outer, inner = torch.linalg.qr(up), torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(outer.R @ inner.R.T, full_matrices=False)
    return _balance(outer.Q @ left, values, right @ inner.Q.T)


def _balance(left: torch.Tensor, values: torch.Tensor, right: torch.Tensor) -> Factors:
    root = values.sqrt()
    return Factors(right * root[:, None], (left * root).T, values)


def _seeded(key: str) -> torch.Generator:
    digest = hashlib.sha256(f"{SEED}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
