"""Tweedie's formula: the moments of the clean point, given the noisy one, from the scores."""

from torch import Tensor

from linalg import SymmetricMatrix
from losses.perturbation import noise_levels

__all__ = ["posterior_covariance", "posterior_mean"]


def posterior_mean(s1: Tensor, noisy: Tensor, sigma: float | Tensor) -> Tensor:
    """`E[x|x̃] = x̃ + σ² s1(x̃)`, the denoised point.

    Args:
        s1: the score at the noisy points, `(B, D)`, in units of 1/σ.
        noisy: x̃, `(B, D)`.
        sigma: σ > 0, a float or a tensor of no dimension, `(B,)` or `(B, 1)`, in the units of x̃.

    Returns:
        `(B, D)`, in the units of x̃.

    Raises:
        ValueError: where s1 has another shape than x̃, or σ does not fit or is not positive.

    Source: Robbins 1956; Efron, *Tweedie's formula and selection bias*, 2011.
    """
    if s1.shape != noisy.shape:
        raise ValueError(f"s1 has shape {tuple(s1.shape)}, the noisy points have {tuple(noisy.shape)}")
    return noisy + noise_levels(sigma, noisy) ** 2 * s1


def posterior_covariance(s2: SymmetricMatrix, sigma: float | Tensor) -> SymmetricMatrix:
    """`Cov[x|x̃] = σ⁴ s2(x̃) + σ² I`.

    Args:
        s2: the second-order score at the noisy points, in units of 1/σ².
        sigma: σ > 0, a float or a tensor of no dimension, `(B,)` or `(B, 1)`, in the units of x̃.

    Returns:
        a matrix of the same kind, in the squared units of x̃.

    Raises:
        ValueError: where s2 is None or a tensor, or σ does not fit or is not positive.

    Source: Efron 2011; Meng et al. 2021, theorem 1, less the square of the mean.
    """
    if not isinstance(s2, SymmetricMatrix):
        kind = "None" if s2 is None else f"a {type(s2).__name__}"
        raise ValueError(f"s2 is {kind}; a matrix of linalg is expected, such as linalg.Dense(s2)")
    sigma = noise_levels(sigma, s2)
    return sigma**4 * s2 + sigma**2
