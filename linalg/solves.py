"""Solves and determinants of positive definite matrices from products with them alone, with gradients."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linalg.krylov import conjugate_gradients, lanczos
from linalg.matrix import SymmetricMatrix

__all__ = ["logdet_estimate", "solve_by_products"]

PROBES = 16
QUADRATURE = 1e-2  # tolerance of log(S) z: that of zᵀ log(S) z is of the order of its square


class _Solution(torch.autograd.Function):
    """x, with the gradients of `x = M⁻¹ v` to the residual `v − M x`, in which M and v are and x is fixed."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solution: Tensor, matrix: SymmetricMatrix) -> Tensor:
        ctx.matrix = matrix
        return solution.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return conjugate_gradients(ctx.matrix, gradient, ctx.matrix.diagonal()), None, None


def solve_by_products(matrix: SymmetricMatrix, v: Tensor) -> Tensor:
    """`M⁻¹ v`, by conjugate gradients; its gradient, by another such solve, cannot be differentiated again.

    Args:
        matrix: M, B of them, positive definite.
        v: `(B, D, k)`.

    Returns:
        `(B, D, k)`.
    """
    fixed = matrix.detach()
    solution = conjugate_gradients(fixed, v.detach(), fixed.diagonal())
    return _Solution.apply(v - matrix @ solution, solution, fixed) if torch.is_grad_enabled() else solution


@dataclass(frozen=True)
class _Scaled:
    """`diag(s) M diag(s)`."""

    matrix: SymmetricMatrix
    scale: Tensor  # s, (B, D, 1)

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.scale * (self.matrix @ (self.scale * v))


def logdet_estimate(matrix: SymmetricMatrix, probes: int = PROBES) -> tuple[Tensor, Tensor]:
    """`log det M` from products alone, by stochastic Lanczos quadrature, and how far off it may be.

    `log det M = Σ log d + tr log S`, with d the diagonal of M and S = M scaled to ones on its own; the trace is the
    mean of `zᵀ log(S) z` over random signs z, the same every time. The gradient, `tr M⁻¹ dM`, is estimated likewise.
    The error of the quadrature itself is far below that of the mean.

    Args:
        matrix: M, B of them, positive definite.
        probes: how many z, at least 2.

    Returns:
        the estimate and its standard error, `(B,)` each.

    Raises:
        ValueError: where `probes` is below 2.

    Source: Ubaru, Chen and Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J. Matrix Anal.
        Appl. 2017.
    """
    if probes < 2:
        raise ValueError(f"probes is {probes}; at least 2 are expected, for a standard error")
    fixed = matrix.detach()
    scale = fixed.diagonal().rsqrt()[:, :, None]
    scaled = _Scaled(fixed, scale)
    signs = torch.randint(2, (matrix.dimension, probes), generator=torch.Generator().manual_seed(0)) * 2 - 1
    signs = signs.to(scale).expand(len(matrix), -1, -1)
    with torch.no_grad():
        tiny = torch.finfo(matrix.dtype).tiny
        logs = lanczos(scaled, signs, lambda values: values.clamp(min=tiny).log(), QUADRATURE)
        estimates = (signs * logs).sum(1) - 2 * scale.log().sum(1)
    value = estimates.mean(1)
    if torch.is_grad_enabled():
        solution = scale * conjugate_gradients(scaled, signs, torch.ones_like(scale[:, :, 0]), QUADRATURE)
        slope = (solution * (matrix @ (scale * signs))).sum(1).mean(1)
        value = value + slope - slope.detach()
    return value, estimates.std(1) / probes**0.5
