"""Tweedie's formula: the moments of the clean point, given the noisy one, from the scores."""

from torch import Tensor

from linalg import SymmetricMatrix

__all__ = ["posterior_covariance", "posterior_mean"]


def posterior_mean(s1: Tensor, noisy: Tensor, sigma: float | Tensor) -> Tensor:
    """`E[x|x̃] = x̃ + σ² s1(x̃)`, the denoised point.

    Args:
        s1: the score at the noisy points, `(B, D)`, in units of 1/σ.
        noisy: x̃, `(B, D)`.
        sigma: σ, a float or `(B, 1)`, in the units of x̃.

    Returns:
        `(B, D)`, in the units of x̃.

    Source: Robbins 1956; Efron, *Tweedie's formula and selection bias*, 2011.
    """
    return noisy + sigma**2 * s1


def posterior_covariance(s2: SymmetricMatrix, sigma: float | Tensor) -> SymmetricMatrix:
    """`Cov[x|x̃] = σ⁴ s2(x̃) + σ² I`.

    Args:
        s2: the second-order score at the noisy points, in units of 1/σ².
        sigma: σ, a float or `(B, 1)`, in the units of x̃.

    Returns:
        a matrix of the same kind, in the squared units of x̃.

    Source: Efron 2011; Meng et al. 2021, theorem 1, less the square of the mean.
    """
    return sigma**4 * s2 + sigma**2
