"""Functions of a symmetric matrix, applied to vectors: what an Ozaki step needs of s2."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from models import DiagonalPlusLowRank

__all__ = ["lanczos", "phi"]

CHECKED_EVERY = 4


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
        tolerance: the result is taken once four more products change it by less than this share of its length.
        max_products: at most so many (at least eight), and never more than D; a `RuntimeWarning` says that they were
            not enough.

    Returns:
        `(B, D, n)`.

    Source: Saad, SIAM J. Numer. Anal. 1992; for Ozaki steps, Simpson, Turner and Pettitt, arXiv 1309.5009.
    """
    dimension = vectors.shape[1]
    products = min(dimension, max_products)
    length = vectors.norm(dim=1)
    basis = [_unit(vectors, length)]
    diagonal, off_diagonal = [], []
    scale = torch.zeros_like(length)
    coefficients = None
    for m in range(1, products + 1):
        image = matrix @ basis[-1]
        scale = torch.maximum(scale, image.norm(dim=1))
        diagonal.append((basis[-1] * image).sum(1))
        for _ in range(2):  # once is not orthogonal enough in floating point
            for q in basis:
                image = image - q * (q * image).sum(1)[:, None]
        residual = image.norm(dim=1)
        # An invariant subspace was found where nothing but rounding is left: T ends there.
        residual = torch.where(residual <= 10 * torch.finfo(image.dtype).eps * scale, 0, residual)
        ended = m == dimension or not residual.any()
        if m % CHECKED_EVERY == 0 or m == products or ended:
            before, coefficients = coefficients, _first_column(diagonal, off_diagonal, function)
            if ended or (before is not None and (error := _change(before, coefficients)) < tolerance):
                break
        off_diagonal.append(residual)
        basis.append(_unit(image, residual))
    else:
        warnings.warn(f"{products} products leave f(M)v with an error of {error:.1e}", RuntimeWarning, stacklevel=2)
    used = torch.stack(basis[: coefficients.shape[2]], dim=3)
    return torch.einsum("bdnm,bnm->bdn", used, coefficients.to(used) * length[:, :, None])


def _unit(vectors: Tensor, length: Tensor) -> Tensor:
    """Vectors `(B, D, n)` of length one; zero where they are."""
    return vectors / torch.where(length == 0, 1, length)[:, None]


def _first_column(diagonal: list[Tensor], off_diagonal: list[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """`f(T) e₁` of the tridiagonal T, `(B, n, m)`; in float64, where it is small, whatever the type of the rest."""
    t = torch.diag_embed(torch.stack(diagonal, dim=2).cpu().double())
    if off_diagonal:
        beside = torch.diag_embed(torch.stack(off_diagonal, dim=2).cpu().double(), offset=1)
        t = t + beside + beside.mT
    values, mixing = torch.linalg.eigh(t)
    return (mixing @ (function(values) * mixing[:, :, 0])[..., None])[..., 0]


def _change(before: Tensor, after: Tensor) -> float:
    """The largest change of coefficients, relative to their length."""
    change = after.clone()
    change[:, :, : before.shape[2]] -= before
    return float((change.norm(dim=2) / after.norm(dim=2)).max())
