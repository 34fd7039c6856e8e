"""Functions of a symmetric matrix, applied to vectors: what an Ozaki step needs of s2."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from models import DiagonalPlusLowRank

__all__ = ["lanczos", "phi"]


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


def lanczos(
    matrix: DiagonalPlusLowRank,
    vectors: Tensor,
    function: Callable[[Tensor], Tensor],
    tolerance: float = 1e-6,
    max_products: int = 200,
) -> Tensor:
    """`f(M) v` from a few dozen products with M, none of them with a D×D matrix.

    After m steps M is a tridiagonal T on a basis Q of the Krylov space of v, and `f(M) v ≈ ‖v‖ Q f(T) e₁`. The basis is
    orthogonalised in full, which float32 needs.

    Args:
        matrix: M, B of them.
        vectors: v, `(B, D, n)`; each has a Krylov space of its own.
        function: f, from eigenvalues `(B, n, m)` to values of the same shape; it may differ along n.
        tolerance: the result is taken once two more products change it by less than this share of its length.
        max_products: at most so many, and never more than D; a `RuntimeWarning` says that they were not enough.

    Returns:
        `(B, D, n)`.

    Source: Saad, SIAM J. Numer. Anal. 1992; for Ozaki steps, Simpson, Turner and Pettitt, arXiv 1309.5009.
    """
    dimension = vectors.shape[1]
    length = vectors.norm(dim=1)
    smallest = torch.finfo(vectors.dtype).tiny
    basis = [vectors / length.clamp(min=smallest)[:, None]]
    diagonal, off_diagonal = [], []
    coefficients = error = None
    products = min(dimension, max_products)
    scale = torch.zeros_like(length)
    for m in range(1, products + 1):
        image = matrix @ basis[-1]
        scale = torch.maximum(scale, image.norm(dim=1))
        diagonal.append((basis[-1] * image).sum(1))
        for _ in range(2):  # once is not orthogonal enough in floating point
            for q in basis:
                image = image - q * (q * image).sum(1)[:, None]
        residual = image.norm(dim=1)
        # an invariant subspace was found: nothing is left but rounding, and T ends there
        residual = torch.where(residual <= 10 * torch.finfo(image.dtype).eps * scale, 0, residual)
        if m % 2 == 0 or m == products or not residual.any():
            t = torch.diag_embed(torch.stack(diagonal, dim=2))
            if off_diagonal:
                beside = torch.diag_embed(torch.stack(off_diagonal, dim=2), offset=1)
                t = t + beside + beside.mT
            values, mixing = torch.linalg.eigh(t)
            before = coefficients
            coefficients = (mixing @ (function(values) * mixing[:, :, 0])[..., None])[..., 0]
            if not residual.any() or m == dimension:
                break
            if before is not None:
                change = coefficients.clone()
                change[:, :, : before.shape[2]] -= before
                error = float((change.norm(dim=2) / coefficients.norm(dim=2).clamp(min=smallest)).max())
                if error < tolerance:
                    break
        off_diagonal.append(residual)
        basis.append(torch.where(residual[:, None] > 0, image / residual.clamp(min=smallest)[:, None], 0))
    else:
        warnings.warn(f"{products} products leave f(M)v with an error of {error:.1e}", RuntimeWarning, stacklevel=2)
    used = torch.stack(basis[: coefficients.shape[2]], dim=3)
    return (used @ (coefficients * length[:, :, None])[:, None, :, :, None])[..., 0]
