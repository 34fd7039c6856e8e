"""Subspace iteration: the leading eigenpairs of a matrix from products with it alone."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["denoiser_components", "subspace_iteration"]


def subspace_iteration(
    multiply: Callable[[Tensor, Tensor], Tensor], directions: Tensor, steps: int, tolerance: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiplies, orthonormalises, and repeats, for B symmetric matrices at once.

    Args:
        multiply: `(V, rows)` to the products of the matrices `rows`, indices into B, with V `(len(rows), D, k)`.
        directions: the start, `(B, D, k)`.
        steps: at most so many.
        tolerance: a matrix is done once the new directions lie so close to the span of the old ones: the largest sine
            of the angles between the two.

    Returns:
        variances `(B, k)`, descending, the singular values of the last product, negative where it turned a direction
        round; orthonormal directions `(B, D, k)`; and the number of steps that each matrix took, `(B,)`. The k are
        largest in size, so that a large negative eigenvalue takes a place among them, the last.
    """
    directions = torch.linalg.qr(directions).Q
    variances = torch.zeros(directions.shape[0], directions.shape[2], dtype=directions.dtype, device=directions.device)
    taken = torch.zeros(len(directions), dtype=torch.long, device=directions.device)
    rows = torch.arange(len(directions), device=directions.device)
    for _ in range(steps):
        before = directions[rows]
        left, values, right = torch.linalg.svd(multiply(before, rows), full_matrices=False)
        values = values * (left * (before @ right.mT)).sum(1).sign()
        values, order = values.sort(dim=1, descending=True)
        left = left.gather(2, order[:, None].expand_as(left))
        directions, variances = directions.index_copy(0, rows, left), variances.index_copy(0, rows, values)
        taken[rows] += 1
        outside = torch.linalg.matrix_norm(left - before @ (before.mT @ left), ord=2)
        rows = rows[outside > tolerance]
        if not len(rows):
            break
    return variances, directions, taken


@torch.no_grad()
def denoiser_components(
    s1: Callable[[Tensor], Tensor],
    x_noisy: Tensor,
    sigma: float,
    k: int,
    steps: int = 100,
    tolerance: float = 0.03,
    distance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Leading principal components of the posterior from a denoiser alone, without training and without derivatives.

    The posterior covariance is σ² times the Jacobian of the denoiser `μ(x̃) = E[x|x̃]`, and its product with v is
    `σ² (μ(x̃ + c v) − μ(x̃)) / c`: two calls of the denoiser, of which one serves all v and all steps.

    Args:
        s1: the score; the denoiser is `x̃ + σ² s1(x̃)`.
        x_noisy: x̃, `(B, D)`.
        sigma: σ.
        k: components.
        steps, tolerance: as of `subspace_iteration`.
        distance: c, in units of σ.
        generator: of the random start.

    Returns:
        variances `(B, k)`, directions `(B, D, k)`, and the calls of the network that each point took, `(B,)`.

    Source: Manor and Michaeli, *On the posterior distribution in denoising*, ICLR 2024, algorithm 1.
    """
    batch, dimension = x_noisy.shape
    base = x_noisy + sigma**2 * s1(x_noisy)
    length = distance * sigma

    def multiply(v: Tensor, rows: Tensor) -> Tensor:
        moved = (x_noisy[rows, :, None] + length * v).mT.reshape(-1, dimension)
        denoised = (moved + sigma**2 * s1(moved)).view(len(rows), k, dimension)
        return sigma**2 / length * (denoised - base[rows, None]).mT

    start = torch.randn(batch, dimension, k, generator=generator, dtype=x_noisy.dtype, device=x_noisy.device)
    variances, directions, taken = subspace_iteration(multiply, start, steps, tolerance)
    return variances, directions, 1 + k * taken
