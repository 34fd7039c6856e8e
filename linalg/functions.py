"""Functions of a symmetric matrix: `f(M) = V f(Λ) Vᵀ` from its eigenvectors, and the function that an Ozaki step needs.

Where M is too large for its eigenvectors, see `linalg.lanczos`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["apply_by_eigenvectors", "phi"]


def apply_by_eigenvectors(matrix: Tensor, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """`f(M) v = V f(Λ) Vᵀ v`.

    Args:
        matrix: M, symmetric, `(B, D, D)`.
        function: f, from eigenvalues `(B, n, D)` to values of the same shape; it may differ along n.
        vectors: v, `(B, D, n)`.

    Returns:
        `(B, D, n)`.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(matrix)
    values = function(eigenvalues[:, None, :].expand(-1, vectors.shape[2], -1))
    return eigenvectors @ (values.mT * (eigenvectors.mT @ vectors))


def phi(eigenvalues: Tensor, time: float, max_exponent: float = 40.0) -> Tensor:
    """`(e^{tλ} − 1)/λ`, and its limit t at λ = 0: the integral of `e^{sλ}` over s from 0 to t.

    Args:
        eigenvalues: λ, any shape.
        time: t > 0.
        max_exponent: λ is taken no larger than this over t, so that float32 does not overflow; no bound is needed
            below, where the value goes to −1/λ.

    Returns:
        positive values, of the shape of λ.
    """
    u = (time * eigenvalues).clamp(max=max_exponent)
    u = torch.where(u == 0, torch.finfo(u.dtype).tiny, u)
    return time * torch.expm1(u) / u
