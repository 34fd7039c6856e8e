"""Symmetric matrices `diag(α) + ββᵀ`, never formed."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DiagonalPlusLowRank"]


@dataclass(frozen=True)
class DiagonalPlusLowRank:
    """A batch of matrices `diag(α) + ββᵀ`.

    Attributes:
        diagonal: α, shape `(B, D)`.
        factor: β, shape `(B, D, r)`, or None for a diagonal matrix.
    """

    diagonal: Tensor
    factor: Tensor | None = None

    def dense(self) -> Tensor:
        """The matrices in full, shape `(B, D, D)`."""
        dense = torch.diag_embed(self.diagonal)
        return dense if self.factor is None else dense + self.factor @ self.factor.mT
