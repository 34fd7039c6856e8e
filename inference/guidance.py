"""Other ways to answer a measurement with the same scores: steps for `inference.conditional` that guide a reverse chain
by a gradient through the denoiser.

All take an ancestral step, `x_τ ~ N(D_y + ρ (x_σ − D_y), τ²(1 − ρ) I)` with `ρ = τ²/σ²`, and differ in D_y, or in what
they do to x_τ. With `e = y − A D` and the Jacobian J of the denoiser D(x_σ):

    DPS     D_y = D,  and then x_τ ← x_τ − w ∇‖e‖² / ‖e‖
    ΠGDM    D_y = D + σ² Jᵀ Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ e,    r² = σ²σ_d²/(σ² + σ_d²)
    TMPD    D_y = D + C Aᵀ (A C Aᵀ + σ_y² I)⁻¹ e,          C = σ² Jᵀ
"""

from collections.abc import Callable

import torch
from torch import Tensor

from inference.kalman import Measured
from inference.operators import Operator
from inference.reverse import bridge
from inference.tweedie import posterior_mean
from linalg import DiagonalPlusLowRank
from models import Scores

__all__ = ["dps_step", "pigdm_step", "tmpd_step"]

EXACT_UP_TO = 64  # measurements up to which TMPD's matrix is taken in full


def dps_step(
    scores: Scores,
    x: Tensor,
    sigma_next: float,
    *,
    y: Tensor,
    operator: Operator,
    sigma_y: float,
    generator: torch.Generator | None = None,
    weight: float = 1.0,
) -> Tensor:
    """Diffusion posterior sampling.

    Args:
        scores: at σ > 0; torch must be able to differentiate s1.
        x: x_σ, `(B, D)`.
        sigma_next: τ < σ; 0 at the end.
        y, operator, sigma_y: measurements `(B, m)`, A, and the standard deviation of their noise, which is not used.
        generator: of the noise.
        weight: w, to be found by trial for each kind of measurement.

    Returns:
        `(B, D)`.

    Source: Chung et al., ICLR 2023, algorithm 1.
    """
    denoised, pull_back = _denoised(scores, x)
    error = y - operator(denoised)
    length = error.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    gradient = -2 * pull_back(operator.transposed(error / length))
    return bridge(denoised, x, scores.sigma, sigma_next, generator) - weight * gradient


def pigdm_step(
    scores: Scores,
    x: Tensor,
    sigma_next: float,
    *,
    y: Tensor,
    operator: Operator,
    sigma_y: float,
    generator: torch.Generator | None = None,
    std: float = 1.0,
) -> Tensor:
    """Pseudo-inverse guidance: x given x_σ is taken for N(D, r²I).

    Args:
        scores, x, sigma_next, y, operator, sigma_y, generator: see `dps_step`.
        std: σ_d, of the data, which r is made of.

    Source: Song, Vahdat, Mardani and Kautz, ICLR 2023, equations 7 and 8.
    """
    denoised, pull_back = _denoised(scores, x)
    variance = (scores.sigma * std) ** 2 / (scores.sigma**2 + std**2)
    measured = Measured(denoised, DiagonalPlusLowRank(torch.full_like(x, variance)), operator, sigma_y)
    solved = measured.solve((y - operator(denoised))[:, :, None])[:, :, 0]
    moved = pull_back(operator.transposed(solved))
    return bridge(denoised + scores.sigma**2 * moved, x, scores.sigma, sigma_next, generator)


def tmpd_step(
    scores: Scores,
    x: Tensor,
    sigma_next: float,
    *,
    y: Tensor,
    operator: Operator,
    sigma_y: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tweedie moment projected diffusion: x given x_σ is taken for N(D, σ²J). Of more than 64 measurements the paper's
    approximation for images is taken, `diag(A C Aᵀ) ≈ A C Aᵀ 1`, at one gradient.

    Args:
        scores, x, sigma_next, y, operator, sigma_y, generator: see `dps_step`.

    Source: Boys et al., *Tweedie moment projected diffusions for inverse problems*, TMLR 2024.
    """
    denoised, pull_back = _denoised(scores, x)
    variance, count = scores.sigma**2, operator.shape[0]
    error = y - operator(denoised)
    if count <= EXACT_UP_TO:
        rows = torch.eye(count, dtype=x.dtype, device=x.device)
        backs = [pull_back(operator.transposed(row.expand(len(x), -1))) for row in rows]
        matrix = variance * torch.stack([operator(back) for back in backs], dim=1)
        matrix = (matrix + matrix.mT) / 2 + sigma_y**2 * rows
        solved = torch.linalg.solve(matrix, error[:, :, None])[:, :, 0]
    else:
        sums = variance * operator(pull_back(operator.transposed(torch.ones_like(error))))
        solved = error / (sums.clamp(min=0) + sigma_y**2)
    moved = variance * pull_back(operator.transposed(solved))
    return bridge(denoised + moved, x, scores.sigma, sigma_next, generator)


def _denoised(scores: Scores, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """D at x, and the function v ↦ Jᵀv."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        denoised = posterior_mean(scores.s1(point), point, scores.sigma)

    def pull_back(v: Tensor) -> Tensor:
        return torch.autograd.grad(denoised, point, v, retain_graph=True)[0]

    return denoised.detach(), pull_back
