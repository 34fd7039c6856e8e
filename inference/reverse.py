"""Reverse diffusion: from noise σ to τ < σ, by Gaussian steps that have the right covariance, or along the flow.

With `ρ = τ²/σ²`, D = E[x|x_σ] and C = Cov[x|x_σ],

    x_τ | x_σ  ~  N(D + ρ (x_σ − D), (1 − ρ)² C + τ²(1 − ρ) I),

in its first two moments exactly, and exactly where x is Gaussian given x_σ. Methods differ in C.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from datasets.seeds import generator_of
from inference.arguments import points_of
from inference.driver import Callback, Chain, Step, run
from inference.levels import HasScores, descending, scores_at
from inference.posteriors import Posterior, posterior
from inference.tweedie import posterior_covariance, posterior_mean
from linalg import DiagonalPlusLowRank, Jacobian, SymmetricMatrix, lanczos
from models import Scores

__all__ = [
    "IsotropicCovariance",
    "bridge",
    "diagonal_covariance",
    "full_covariance",
    "heun_step",
    "lanczos_step",
    "no_covariance",
    "reverse",
    "reverse_step",
    "transition",
]

CovarianceOf = Callable[[Posterior], SymmetricMatrix]
"""The C that a step takes, from the posterior at its noisy points."""

PRODUCTS = 3


class ReverseStep(Protocol):
    """From states of noise `scores.sigma` to states of noise `sigma_next`, see `reverse_step`."""

    def __call__(
        self, scores: Scores, x: Tensor, sigma_next: float, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


# --- what is taken for C ---


def full_covariance(posterior: Posterior) -> SymmetricMatrix:
    """C as the scores give it: by s2, or by the Jacobian of s1 where there is none."""
    return posterior.covariance


def diagonal_covariance(posterior: Posterior) -> SymmetricMatrix:
    """The diagonal of C.

    Source: Bao et al., ICML 2022, arXiv 2206.07309 (NPR-DPM, where the diagonal was trained on residuals of the
        denoiser); Ou et al., ICLR 2025, arXiv 2406.10808 (OCM-DPM, on products of its Jacobian).
    """
    return DiagonalPlusLowRank(posterior.variance())


def no_covariance(posterior: Posterior) -> SymmetricMatrix:
    """C = 0.

    Source: Ho, Jain and Abbeel, NeurIPS 2020, with the smaller of their two variances.
    """
    return DiagonalPlusLowRank(torch.zeros_like(posterior.mean))


class IsotropicCovariance:
    """`C = vI` with v the mean variance of all entries of the data, at each noise level.

    Args:
        points: of the data, clean, `(N, D)`.
        seed: of their noise.

    Source: Bao et al., *Analytic-DPM*, ICLR 2022.
    """

    def __init__(self, points: Tensor, seed: int = 0):
        self.points, self.seed = points, seed
        self.variances: dict[float, float] = {}

    def __call__(self, posterior: Posterior) -> SymmetricMatrix:
        scores = posterior.scores
        if scores.sigma not in self.variances:
            generator = generator_of(self.seed, self.points.device)
            noise = torch.randn(self.points.shape, generator=generator, device=self.points.device)
            self.variances[scores.sigma] = mean_variance(scores, self.points + scores.sigma * noise)
        return DiagonalPlusLowRank(torch.full_like(posterior.mean, self.variances[scores.sigma]))


def mean_variance(scores: Scores, noisy: Tensor, batch: int = 100) -> float:
    """`tr C/D`, in the mean over noisy points."""
    return float(torch.cat([posterior(scores, part).variance().mean(1) for part in noisy.split(batch)]).mean())


# --- steps ---


def bridge(clean: Tensor, x: Tensor, sigma: float, sigma_next: float, generator: torch.Generator | None) -> Tensor:
    """A state of noise τ = `sigma_next` given the clean point and the state x of noise σ:
    `x_τ | x, x_σ ~ N(x + ρ (x_σ − x), τ²(1 − ρ) I)`; all of them `(B, D)`."""
    ratio = (sigma_next / sigma) ** 2
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return clean + ratio * (x - clean) + sigma_next * (1 - ratio) ** 0.5 * noise


def transition(
    mean: Tensor, covariance: SymmetricMatrix, x: Tensor, sigma: float, sigma_next: float
) -> tuple[Tensor, SymmetricMatrix]:
    """Mean `(B, D)` and covariance of x_τ given x_σ, see the module.

    Args:
        mean, covariance: D and C.
        x: x_σ, `(B, D)`.
        sigma, sigma_next: σ and τ < σ.
    """
    ratio = (sigma_next / sigma) ** 2
    return mean + ratio * (x - mean), (1 - ratio) ** 2 * covariance + sigma_next**2 * (1 - ratio)


def reverse_step(
    scores: Scores,
    x: Tensor,
    sigma_next: float,
    *,
    generator: torch.Generator | None = None,
    covariance: CovarianceOf = full_covariance,
) -> Tensor:
    """A draw of x_τ given x_σ, see the module.

    Args:
        scores: at σ > 0.
        x: x_σ, `(B, D)`.
        sigma_next: τ < σ; at 0 a draw of the clean point.
        generator: of the noise.
        covariance: what is taken for C; one with negative variances is drawn from as if they were 0.

    Returns:
        `(B, D)`.
    """
    known = posterior(scores, x)
    mean, spread = transition(known.mean, covariance(known), known.noisy, scores.sigma, sigma_next)
    return mean + spread.draw(1, generator)[0]


def lanczos_step(
    scores: Scores,
    x: Tensor,
    sigma_next: float,
    *,
    generator: torch.Generator | None = None,
    products: int = PRODUCTS,
) -> Tensor:
    """`reverse_step` with the covariance that s1 alone implies, `C = σ²∂D/∂x`, whose root is taken by as many products
    with the Jacobian as `products` says.

    Args:
        scores, x, sigma_next, generator: see `reverse_step`; s1 alone is used.
        products: of Lanczos' method.

    Source: the Lanczos Gaussian sampler; Chow and Saad, *Preconditioned Krylov subspace methods for sampling
        multivariate Gaussian distributions*, SIAM J. Sci. Comput. 2014.
    """
    implied = posterior_covariance(Jacobian(scores.s1, x), scores.sigma)
    denoised = posterior_mean(scores.s1(x), x, scores.sigma)
    mean, spread = transition(denoised, implied, x, scores.sigma, sigma_next)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* products leave", RuntimeWarning)  # as many as were asked for
        root = lanczos(spread, noise[:, :, None], lambda values: values.clamp(min=0).sqrt(), 0.0, products)
    return mean + root[:, :, 0]


def heun_step(
    scores: Scores,
    x: Tensor,
    sigma_next: float,
    *,
    generator: torch.Generator | None = None,
    model: HasScores,
) -> Tensor:
    """A step of Heun's method along `dx/dσ = (x − D(x, σ))/σ`, without noise; to σ = 0 Euler's, which is the denoiser.

    Args:
        scores, x, sigma_next: see `reverse_step`; s1 alone is used.
        generator: of no use here.
        model: has the scores at τ.

    Source: Karras et al., NeurIPS 2022, algorithm 1.
    """
    slope = -scores.sigma * scores.s1(x)
    width = sigma_next - scores.sigma
    ahead = x + width * slope
    if sigma_next == 0:
        return ahead
    slope_ahead = -sigma_next * scores_at(model, sigma_next).s1(ahead)
    return x + width * (slope + slope_ahead) / 2


def reverse(
    model: HasScores,
    sigmas: Sequence[float],
    x: Tensor,
    *,
    step: ReverseStep = reverse_step,
    seed: int | None = None,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Chain:
    """Samples of the density of the model, from noise to σ = 0.

    Args:
        model: has scores at all of the levels.
        sigmas: the levels σ > 0, descending; a step leads from each to the next, and from the last to 0.
        x: starts with noise of the first level, `(B, D)`, such as `GaussianPrior.sample` gives.
        step: `reverse_step`, `lanczos_step`, or `functools.partial` of one, say
            `partial(reverse_step, covariance=diagonal_covariance)`, or `partial(heun_step, model=model)`.
        seed, keep_every, callback, progress: see `langevin`.

    Returns:
        see `langevin`.

    Raises:
        ValueError: where the levels do not descend, or an argument is not what is said above.
        DivergedError: see `langevin`.

    Source: Ho, Jain and Abbeel, NeurIPS 2020; the covariances of Bao et al., ICLR 2022 and ICML 2022.
    """
    levels = descending(sigmas)
    scores = [scores_at(model, sigma) for sigma in levels]
    x = points_of(scores[0], x, "x")
    generator = generator_of(seed, x.device)
    steps: list[Step] = [
        partial(_of_level, step, at, following, generator)
        for at, following in zip(scores, [*levels[1:], 0.0], strict=True)
    ]
    return run("reverse", steps, x, keep_every, callback, progress)


def _of_level(
    step: ReverseStep, scores: Scores, sigma_next: float, generator: torch.Generator | None, x: Tensor
) -> Tensor:
    return step(scores, x, sigma_next, generator=generator)
