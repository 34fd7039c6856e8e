"""Leading principal components of a posterior from its denoiser alone: nothing trained, nothing differentiated."""

import torch
from torch import Tensor

from inference.arguments import noise_of, points_of, positive_number, whole_number
from inference.tweedie import posterior_mean
from linalg import subspace_iteration
from models import Scores

__all__ = ["denoiser_components"]


@torch.no_grad()
def denoiser_components(
    scores: Scores,
    noisy: Tensor,
    k: int,
    steps: int = 100,
    tolerance: float = 0.03,
    distance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Subspace iteration with the posterior covariance, whose products are differences of the denoiser.

    The covariance is σ² times the Jacobian of the denoiser `μ(x̃) = E[x|x̃]`, and its product with v is
    `σ² (μ(x̃ + c v) − μ(x̃)) / c`: two calls of the denoiser, of which one serves all v and all steps.

    Args:
        scores: of which s1 alone is used; the denoiser is `x̃ + σ² s1(x̃)`.
        noisy: x̃, `(B, D)`, in any form that `Scores.points` takes.
        k: components, from 1 to D.
        steps, tolerance: see `linalg.subspace_iteration`.
        distance: c, in units of σ.
        generator: of the random start.

    Returns:
        variances `(B, k)` in the squared units of x̃, directions `(B, D, k)`, and the calls of the network that each
        point took, `(B,)`.

    Raises:
        ValueError: where an argument is not what is said above, a point is not finite, or the scores are at σ = 0.

    Source: Manor and Michaeli, *On the posterior distribution in denoising*, ICLR 2024, algorithm 1.
    """
    noisy = points_of(scores, noisy)
    sigma = noise_of(scores)
    batch, dimension = noisy.shape
    if whole_number("k", k, least=1) > dimension:
        raise ValueError(f"k is {k}; from 1 to {dimension} components can be had")
    whole_number("steps", steps, least=1)
    positive_number("tolerance", tolerance)
    length = positive_number("distance", distance) * sigma

    def denoise(x: Tensor) -> Tensor:
        return posterior_mean(scores.s1(x), x, sigma)

    base = denoise(noisy)

    def multiply(v: Tensor, rows: Tensor) -> Tensor:
        moved = (noisy[rows, :, None] + length * v).mT.reshape(-1, dimension)
        return sigma**2 / length * (denoise(moved).view(len(rows), k, dimension) - base[rows, None]).mT

    start = torch.randn(batch, dimension, k, generator=generator, dtype=noisy.dtype, device=noisy.device)
    variances, directions, taken = subspace_iteration(multiply, start, steps, tolerance)
    return variances, directions, 1 + k * taken
