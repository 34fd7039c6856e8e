"""Gaussian densities of the clean points: what is assumed of them before anything is known, at the widest noise.

Points with noise of the widest level σ have nearly the density `N(m, Σ + σ²I)`, whatever that of the clean points is:
reverse steps begin there, and a likelihood ends there.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from inference.arguments import whole_number
from inference.levels import HasScores, scores_at
from linalg import DiagonalPlusLowRank
from models import ScoreModel, Scores

__all__ = ["GaussianPrior", "noise_range", "prior_for", "prior_of"]

RANK = 256
NEWTON_STEPS = 3
WIDE = 1e3  # a σ far above the spread of any density at hand, at which float64 still tells it
LOWEST, HIGHEST = 0.05, 3.0  # of the levels at which a density is sampled, over its spread


@dataclass(frozen=True)
class GaussianPrior:
    """`N(m, Σ)` of clean points, `Σ = ρI + Σ_i (λ_i − ρ) u_i u_iᵀ`.

    Attributes:
        mean: m, `(D,)`, in the units of the points.
        variances: λ of r directions, `(r,)`, in their square.
        directions: u, orthonormal, `(D, r)`.
        rest: ρ, the variance in every other direction.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor
    rest: float

    @classmethod
    def isotropic(cls, mean: float | Tensor, std: float, dimension: int) -> "GaussianPrior":
        """`N(m, σ_d² I)` in D dimensions."""
        center = torch.as_tensor(mean, dtype=torch.float32).expand(dimension)
        return cls(center, center.new_empty(0), center.new_empty(dimension, 0), std**2)

    @classmethod
    def fitted(cls, points: Tensor, rank: int = RANK) -> "GaussianPrior":
        """Mean and covariance of points `(N, D)`, the covariance in its leading directions.

        Args:
            points: of the data, clean.
            rank: how many directions, at most; the rest has the mean of the other variances.

        Raises:
            ValueError: where there are fewer than two points, or they are no floats, or the rank is no whole number.

        Source: Tipping and Bishop, *Probabilistic principal component analysis*, J. R. Stat. Soc. B 1999.
        """
        if points.ndim != 2 or len(points) < 2 or not points.is_floating_point():
            given = f"shape {tuple(points.shape)} and type {points.dtype}"
            raise ValueError(f"points have {given}; floats (N, D) are expected, N at least 2")
        whole_number("rank", rank)
        mean = points.mean(0)
        _, singular, axes = torch.linalg.svd(points - mean, full_matrices=False)
        variances = singular.square() / (len(points) - 1)
        kept = min(rank, len(variances))
        others = points.shape[1] - kept
        rest = float(variances[kept:].sum()) / others if others else 0.0
        return cls(mean, variances[:kept], axes[:kept].T.contiguous(), rest)

    @classmethod
    def of_scores(cls, scores: Scores, start: Tensor) -> "GaussianPrior":
        """The Gaussian whose noisy scores are those at hand where s1 = 0: of any density at a σ far wider than it.

        Args:
            scores: both orders, of few dimensions: the matrices are formed.
            start: a point `(D,)` to begin from.
        """
        point = start[None]
        for _ in range(NEWTON_STEPS):
            s1, s2 = scores(point)
            assert s2 is not None
            variances, axes = torch.linalg.eigh(-s2.dense()[0])
            point = point + ((s1 @ axes) / variances) @ axes.T
        clean = (1 / variances - scores.sigma**2).clamp(min=0)
        return cls(point[0], clean, axes, 0.0)

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.mean)

    def to(self, like: Tensor) -> "GaussianPrior":
        """The same in the type and on the device of a tensor."""
        mean, variances, directions = (part.to(like) for part in (self.mean, self.variances, self.directions))
        return GaussianPrior(mean, variances, directions, self.rest)

    @cached_property
    def covariance(self) -> DiagonalPlusLowRank:
        """Σ, a batch of one."""
        beta = self.directions * (self.variances - self.rest).clamp(min=0).sqrt()
        return DiagonalPlusLowRank(torch.full_like(self.mean, self.rest)[None], beta[None])

    def log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """`log N(x; m, Σ + σ²I)`, `(B,)`, in nats, of noisy points `(B, D)`."""
        along, across = self._parts(x)
        variances, rest = self.variances + sigma**2, self.rest + sigma**2
        others = self.dimension - len(self.variances)
        logdet = variances.log().sum() + others * math.log(rest)
        mahalanobis = (along.square() / variances).sum(1) + across.square().sum(1) / rest
        return -(mahalanobis + logdet + self.dimension * math.log(2 * math.pi)) / 2

    def divergence(self, x: Tensor, sigma: float) -> Tensor:
        """`KL(N(x, σ²I) ‖ N(m, Σ + σ²I))`, `(B,)`, in nats, of clean points `(B, D)`."""
        variances, rest = self.variances + sigma**2, self.rest + sigma**2
        others = self.dimension - len(self.variances)
        trace = float((sigma**2 / variances).sum()) + others * sigma**2 / rest
        entropy = self.dimension * (math.log(2 * math.pi * sigma**2) + 1) / 2
        return trace / 2 - entropy - self.log_prob(x, sigma)

    def sample(self, count: int, sigma: float, generator: torch.Generator | None = None) -> Tensor:
        """Noisy points `(count, D)` of `N(m, Σ + σ²I)`."""
        noise = torch.randn(count, self.dimension, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        along, across = noise @ self.directions, noise - noise @ self.directions @ self.directions.T
        spread = (self.variances + sigma**2).sqrt()
        return self.mean + (along * spread) @ self.directions.T + math.sqrt(self.rest + sigma**2) * across

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of x − m: the coordinates along the directions, and what is across to all of them."""
        offset = x - self.mean
        along = offset @ self.directions
        return along, offset - along @ self.directions.T


def prior_for(model: ScoreModel | HasScores, x: Tensor, prior: GaussianPrior | None) -> GaussianPrior:
    """The prior of points like x `(B, D)`: the one given, or that of the model.

    Raises:
        ValueError: where it is of another dimension, or none is given and none is known.
    """
    prior = prior_of(model, x) if prior is None else prior.to(x)
    if prior.dimension != x.shape[1]:
        raise ValueError(f"the prior is of D = {prior.dimension}; one of D = {x.shape[1]} is expected")
    return prior


def prior_of(model: ScoreModel | HasScores, like: Tensor) -> GaussianPrior:
    """The prior of a model for which none is given: of a trained one `N(μ, σ_d² I)`, with the mean and standard
    deviation of its data; of an exact density the Gaussian with its mean and covariance, by its scores at a σ far
    wider than it.

    Args:
        model: with scores of points `(D,)` or images.
        like: a tensor of the type and on the device wanted.

    Raises:
        ValueError: where neither is known.
    """
    if isinstance(model, ScoreModel):
        data = None if model.config is None else model.config.data
        if data is None or data.mean is None or data.std is None or None in model.shape:
            raise ValueError(
                "of this model neither mean nor spread of the data is known: give a prior, such as "
                "inference.GaussianPrior.fitted(points) of clean ones"
            )
        return GaussianPrior.isotropic(data.mean, data.std, math.prod(cast(tuple[int, ...], model.shape))).to(like)
    scores = scores_at(model, WIDE)
    if scores.shape is None or scores.s2 is None:
        raise ValueError("the model says neither the shape of its points nor their s2: give a prior")
    return GaussianPrior.of_scores(scores, torch.zeros(math.prod(scores.shape), dtype=torch.float64)).to(like)


def noise_range(model: ScoreModel | HasScores) -> tuple[float, float]:
    """The lowest and the highest noise level at which a model is sampled: those that it has, or, of an exact density,
    a twentieth of and three times its largest standard deviation."""
    if isinstance(model, ScoreModel):
        return model.sigmas
    spread = float(prior_of(model, torch.empty(0, dtype=torch.float64)).variances.max().sqrt())
    return LOWEST * spread, HIGHEST * spread
