"""The variational bound of a discrete chain with Gaussian reverse steps: the bits it takes to send a picture by it.

For levels σ_T > … > σ_1 and `x_σ = x + σz`,

    −log P(x)  ≤  KL(N(x, σ_T² I) ‖ prior)  +  Σ_t E KL(q(x_τ|x_σ, x) ‖ p(x_τ|x_σ))  −  E log P(x|x_{σ_1}),

where `q(x_τ|x_σ, x) = N(x + ρ (x_σ − x), s I)`, `s = τ²(1 − ρ)`, `ρ = τ²/σ²`, and `p(x_τ|x_σ)` is the step of
`inference.reverse`, so that with r = x − D and `Λ = (1 − ρ)² C + s I` each term is

    KL = ½ [ s tr Λ⁻¹ + (1 − ρ)² rᵀ Λ⁻¹ r + log det Λ − D log s − D ].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.seeds import generator_of
from inference.arguments import points_of, positive_number
from inference.levels import HasScores, descending, scores_at
from inference.posteriors import Posterior, posterior
from inference.priors import GaussianPrior, prior_for
from inference.reverse import CovarianceOf
from linalg import DiagonalPlusLowRank, SymmetricMatrix
from linalg.tapered import FACTORISED_UP_TO

__all__ = ["Bound", "variational_bounds"]

ENTRIES = 2**24  # of the matrices that are factorised at a time


@dataclass(frozen=True)
class Bound:
    """The three parts of the bound, `(B,)` each, in nats a point.

    Attributes:
        prior: what the widest level costs.
        steps: what the steps between levels cost, together.
        decoder: what the entries cost, given the narrowest level.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """The bound on −log P(x), `(B,)`, in nats."""
        return self.prior + self.steps + self.decoder


@torch.no_grad()
def variational_bounds(
    model: HasScores,
    x: Tensor,
    sigmas: Sequence[float],
    covariances: Mapping[str, CovarianceOf],
    *,
    limits: tuple[float, float],
    values: int = 256,
    prior: GaussianPrior | None = None,
    seed: int | None = None,
) -> dict[str, Bound]:
    """The bound for each of several covariances, by the same calls of the network at the same noise, so that they
    compare point by point.

    An entry is one of `values` numbers, equally spaced from black to white. Given the narrowest level and the entries
    before it, it has the probability of the interval around it, to infinity at the ends, under N(D, C).

    Args:
        model: has scores at all of the levels.
        x: clean points, `(B, D)`, whose entries are such numbers.
        sigmas: the levels, descending: as many calls of the network.
        covariances: by name, see `inference.reverse`. One that is not diagonal is factorised for each point and level.
        limits: black and white.
        values: how many.
        prior: of the clean points; by default `inference.priors.prior_of` the model.
        seed: of the noise.

    Returns:
        by name, in nats; over `D log 2` they are bits an entry.

    Raises:
        ValueError: where an argument is not what is said above, a covariance is 0 at the narrowest level, or one of a
            D above 4096 is not diagonal.

    Source: Sohl-Dickstein et al., ICML 2015; Ho, Jain and Abbeel, NeurIPS 2020; for the discrete entries, Salimans et
        al., *PixelCNN++*, ICLR 2017. That an entry is conditioned on those before it is ours.
    """
    levels = descending(sigmas)
    scores = [scores_at(model, sigma) for sigma in levels]
    x = points_of(scores[0], x, "x")
    prior = prior_for(model, x, prior)
    spacing = positive_number("the distance of black and white", limits[1] - limits[0]) / (values - 1)
    generator = generator_of(seed, x.device)
    steps = {name: x.new_zeros(len(x), dtype=torch.float64) for name in covariances}
    decoder = dict(steps)
    for at, sigma_next in zip(scores, [*levels[1:], 0.0], strict=True):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        known = posterior(at, x + at.sigma * noise)
        for name, covariance_of in covariances.items():
            covariance = covariance_of(known)
            if sigma_next:
                steps[name] = steps[name] + _step_divergence(x, known, covariance, sigma_next)
            else:
                decoder[name] = -_log_probability(x, known.mean, covariance, limits, spacing)
    begun = prior.divergence(x, levels[0]).double()
    return {name: Bound(begun, steps[name], decoder[name]) for name in covariances}


def _step_divergence(x: Tensor, known: Posterior, covariance: SymmetricMatrix, sigma_next: float) -> Tensor:
    """KL of a step, `(B,)`, see the module."""
    ratio = (sigma_next / known.sigma) ** 2
    variance = sigma_next**2 * (1 - ratio)
    spread = (1 - ratio) ** 2 * covariance + variance
    offset = (1 - ratio) * (x - known.mean)
    if _is_diagonal(spread):
        scaled = spread.diagonal().double() / variance
        return (1 / scaled + offset.square() / (variance * scaled) - 1 + scaled.log()).sum(1) / 2
    parts = []
    for rows in _pieces(spread):
        root = torch.linalg.cholesky(spread[rows].dense() / variance)
        inverse = torch.cholesky_inverse(root)
        along = (offset[rows, None] @ inverse @ offset[rows, :, None])[:, 0, 0] / variance
        trace, logs = inverse.diagonal(dim1=1, dim2=2).sum(1), root.diagonal(dim1=1, dim2=2).log().sum(1)
        parts.append((trace.double() + along.double() - x.shape[1] + 2 * logs.double()) / 2)
    return torch.cat(parts)


def _log_probability(
    x: Tensor, mean: Tensor, covariance: SymmetricMatrix, limits: tuple[float, float], spacing: float
) -> Tensor:
    """`log P(x)` of discrete entries under N(mean, C), `(B,)`: each given the exact values of those before it, by the
    Cholesky factor `C = LLᵀ`: the entry i has the standard deviation L_ii then, and is L_ii (L⁻¹r)_i from its mean."""
    residual = (x - mean).double()
    if _is_diagonal(covariance):
        std = covariance.diagonal().double().sqrt()
        offset = residual
    else:
        stds, offsets = [], []
        for rows in _pieces(covariance):
            root = torch.linalg.cholesky(covariance[rows].to(torch.float64).dense())
            white = torch.linalg.solve_triangular(root, residual[rows, :, None], upper=False)[:, :, 0]
            stds.append(root.diagonal(dim1=1, dim2=2))
            offsets.append(stds[-1] * white)
        std, offset = torch.cat(stds), torch.cat(offsets)
    if not (std > 0).all():
        raise ValueError("a covariance of 0 at the narrowest level gives no picture a probability; take another there")
    lower = torch.where(x <= limits[0] + spacing / 2, -torch.inf, (offset - spacing / 2) / std)
    upper = torch.where(x >= limits[1] - spacing / 2, torch.inf, (offset + spacing / 2) / std)
    turned = lower + upper > 0  # to the left half, where small probabilities keep their digits
    lower, upper = torch.where(turned, -upper, lower), torch.where(turned, -lower, upper)
    below = torch.special.log_ndtr(lower) - torch.special.log_ndtr(upper)
    return (torch.special.log_ndtr(upper) + torch.log1p(-below.exp())).sum(1)


def _is_diagonal(matrix: SymmetricMatrix) -> bool:
    return isinstance(matrix, DiagonalPlusLowRank) and not matrix.rank


def _pieces(matrix: SymmetricMatrix) -> Sequence[Tensor]:
    if matrix.dimension > FACTORISED_UP_TO:
        size = f"{matrix.dimension}×{matrix.dimension}"
        raise ValueError(f"a covariance {size} cannot be factorised; a diagonal one is expected above 4096")
    return torch.arange(len(matrix)).split(max(1, ENTRIES // matrix.dimension**2))
