"""Samples of clean points given a linear measurement of them, `y = A x + n`, by reverse diffusion.

Every step asks what is known of the clean point: N(D, C) given the noisy one, and by a Kalman update given y too. It
draws a clean point from that, and a less noisy one from the bridge to it. Nothing is backpropagated through the
denoiser.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datasets.seeds import generator_of
from inference.arguments import points_of, positive_number, whole_number
from inference.driver import Step, run
from inference.kalman import Measured
from inference.levels import HasScores, descending, geometric, scores_at
from inference.operators import Operator
from inference.posteriors import posterior
from inference.priors import GaussianPrior, noise_range, prior_for
from inference.reverse import CovarianceOf, bridge, full_covariance
from inference.samplers import ozaki_step
from linalg import SymmetricMatrix
from models import Scores

__all__ = ["conditional", "conditional_scores", "kalman_step", "ozaki_corrector"]

STEPS = 20
CORRECTION = 4.0  # of σ², the length of a corrector's step
LARGEST_LEAP = 1.0  # of its exponents, where the density is convex


class ConditionalStep(Protocol):
    """From states of noise `scores.sigma` to states of noise `sigma_next`, given y; see `kalman_step`."""

    def __call__(
        self,
        scores: Scores,
        x: Tensor,
        sigma_next: float,
        *,
        y: Tensor,
        operator: Operator,
        sigma_y: float,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...


def kalman_step(
    scores: Scores,
    x: Tensor,
    sigma_next: float,
    *,
    y: Tensor,
    operator: Operator,
    sigma_y: float,
    generator: torch.Generator | None = None,
    covariance: CovarianceOf = full_covariance,
) -> Tensor:
    """A draw of x_τ given x_σ and y, exact where the clean point is Gaussian given x_σ.

    Args:
        scores: at σ > 0.
        x: x_σ, `(B, D)`.
        sigma_next: τ < σ; at 0 a draw of the clean point.
        y: measurements, `(B, m)`.
        operator: A.
        sigma_y: standard deviation of their noise, in their units.
        generator: of the noise.
        covariance: what is taken for C, see `inference.reverse`.

    Returns:
        `(B, D)`.

    Source: ours; the update is Kalman's.
    """
    known = posterior(scores, x)
    clean = Measured(known.mean, covariance(known), operator, sigma_y).draw(y, generator)
    return bridge(clean, known.noisy, scores.sigma, sigma_next, generator)


def conditional_scores(scores: Scores, y: Tensor, operator: Operator, sigma_y: float) -> Scores:
    """The scores of the noisy points given y, by Tweedie's formula from the mean and covariance that a Kalman update
    of N(D, C) has: `s1 = (E[x|x̃, y] − x̃)/σ²`, `s2 = (Cov[x|x̃, y] − σ²I)/σ⁴`.

    Args:
        scores: at σ > 0.
        y, operator, sigma_y: see `kalman_step`.
    """
    variance = scores.sigma**2

    def both(x: Tensor) -> tuple[Tensor, SymmetricMatrix]:
        known = posterior(scores, x)
        measured = Measured(known.mean, known.covariance, operator, sigma_y)
        s2 = (measured.posterior_covariance() - variance) * (1 / variance**2)
        return (measured.posterior_mean(y) - x) / variance, s2

    return Scores(scores.sigma, lambda x: both(x)[0], lambda x: both(x)[1], both)


def ozaki_corrector(
    scores: Scores,
    x: Tensor,
    *,
    y: Tensor,
    operator: Operator,
    sigma_y: float,
    generator: torch.Generator | None = None,
    length: float = CORRECTION,
) -> Tensor:
    """An Ozaki step of length `length`·σ² with the scores given y: it draws states of a level nearer to their law.

    Args:
        scores: at σ > 0.
        x: states of that level, `(B, D)`.
        y, operator, sigma_y, generator: see `kalman_step`.
        length: in units of σ².

    Source: predictor and corrector, Song et al., ICLR 2021; the step, Ozaki 1992.
    """
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    given = conditional_scores(scores, y, operator, sigma_y)
    return ozaki_step(given, x, length * scores.sigma**2, noise, tolerance=1e-3, max_exponent=LARGEST_LEAP)


def conditional(
    model: HasScores,
    y: Tensor,
    operator: Operator,
    sigma_y: float,
    *,
    steps: int | Iterable[float] = STEPS,
    step: ConditionalStep = kalman_step,
    corrector: bool = False,
    prior: GaussianPrior | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Tensor:
    """A sample of the clean points for each row of measurements `y = A x + n`, n ~ N(0, σ_y² I).

    Exact, whatever the number of steps, where the density of the clean points is Gaussian and its covariance known.

    Args:
        model: has scores at every level; of images of one size, see `ScoreModel.sized`.
        y: measurements, `(B, m)`, a tensor or an array of floats, in the units of the data; repeat one for several
            samples.
        operator: A, of `inference.operators`.
        sigma_y: σ_y > 0.
        steps: how many, in equal ratios of the noise levels of the model, or the levels themselves, descending; the
            last leads to σ = 0.
        step: `kalman_step`, one of `inference.guidance`, or `functools.partial` of one.
        corrector: take an `ozaki_corrector` at each level after the first, at the price of as many calls more.
        prior: of the clean points, from which and y the first states are drawn; by default `inference.priors.prior_of`
            the model.
        seed: of the noise, see `langevin`.
        progress: show a bar, on a terminal.

    Returns:
        `(B, D)`, in the units of the data.

    Raises:
        ValueError: where an argument is not what is said above, or no prior is known.
        DivergedError: see `langevin`.

    Source: ours.
    """
    positive_number("sigma_y", sigma_y)
    if isinstance(steps, Iterable):
        levels = descending(steps)
    else:
        levels = geometric(*noise_range(model), whole_number("steps", steps, least=1))
    y = _measurements(y, operator, scores_at(model, levels[0]))
    prior = prior_for(model, y.new_empty(0, operator.shape[1]), prior)
    generator = generator_of(seed, y.device)
    known: dict[str, Any] = {"y": y, "operator": operator, "sigma_y": float(sigma_y), "generator": generator}
    first = [0] * len(y)
    start = Measured(prior.mean.expand(len(y), -1), prior.covariance[first], operator, sigma_y).draw(y, generator)
    noise = torch.randn(start.shape, generator=generator, dtype=y.dtype, device=y.device)

    def to_next(scores: Scores, sigma_next: float, x: Tensor) -> Tensor:
        return step(scores, x, sigma_next, **known)

    planned: list[Step] = []
    for sigma, sigma_next in zip(levels, [*levels[1:], 0.0], strict=True):
        scores = scores_at(model, sigma)
        if corrector and planned:
            planned.append(partial(ozaki_corrector, scores, **known))
        planned.append(partial(to_next, scores, sigma_next))
    result = run("conditional", planned, start + levels[0] * noise, progress=progress)
    assert isinstance(result, Tensor)
    return result


def _measurements(y: Tensor, operator: Operator, scores: Scores) -> Tensor:
    """y in the type and on the device of the scores.

    Raises:
        ValueError: where it is not measurements of such points.
    """
    count, dimension = operator.shape
    y = torch.as_tensor(y) if isinstance(y, np.ndarray) else y
    if not isinstance(y, Tensor) or y.ndim != 2 or y.shape[1] != count or not y.is_floating_point():
        given = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"type {type(y).__name__}"
        raise ValueError(f"y has {given}; floats (B, {count}) are expected, a measurement in each row")
    like = points_of(scores, y.new_zeros(1, dimension), "points that the operator measures")
    if not bool(y.isfinite().all()):
        raise ValueError("y has values that are not finite; finite ones are expected")
    return y.detach().to(like)
