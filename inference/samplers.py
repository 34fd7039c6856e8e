"""Samplers of a density from its scores: discretisations of `dx = s1 dt + √2 dW`.

A sampler is a step; one driver runs any of them. A step size ε is a length of time of that equation, the same in all
of them, so that runs compare.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from datasets.seeds import generator_of
from inference.arguments import number_from_zero, points_of, positive_number, whole_number
from inference.driver import Callback, Chain, Step, run
from inference.levels import HasScores, descending, scores_at
from linalg import phi
from models import Scores

__all__ = ["annealed_langevin", "annealed_ozaki", "langevin", "langevin_step", "ozaki", "ozaki_step"]

StepOf = Callable[[Scores, Tensor, float, Tensor], Tensor]
"""A step, of scores, states, step size and noise, such as `langevin_step`."""


def langevin_step(scores: Scores, x: Tensor, step_size: float, noise: Tensor) -> Tensor:
    """`x + ε s1(x) + √(2ε) ξ`: unadjusted Langevin dynamics.

    Args:
        scores: of which s1 alone is used.
        x: `(B, D)`.
        step_size: ε.
        noise: ξ, `(B, D)`.

    Raises:
        ValueError: where the step size is not positive, or the noise has another shape than x.

    Source: Roberts and Tweedie, Bernoulli 1996.
    """
    _check_step(x, step_size, noise)
    return x + step_size * scores.s1(x) + math.sqrt(2 * step_size) * noise


def ozaki_step(
    scores: Scores, x: Tensor, step_size: float, noise: Tensor, tolerance: float = 1e-6, max_exponent: float = 40.0
) -> Tensor:
    """`x + φ(s2) s1 + Σ^{1/2} ξ` with `φ(λ) = (e^{ελ} − 1)/λ` and `Σ(λ) = (e^{2ελ} − 1)/λ`, functions of the
    symmetric matrix s2: the equation solved exactly for the Gaussian that has the scores of the point.

    Args:
        scores: both orders.
        x: `(B, D)`.
        step_size: ε.
        noise: ξ, `(B, D)`.
        tolerance: of the functions of s2, see `linalg.SymmetricMatrix.apply`.
        max_exponent: ελ is taken no larger than this. It keeps float32 finite; a smaller one, say 1, tames the leaps
            that the step makes where the density is convex and ε large.

    Raises:
        ValueError: where there is no s2, the step size is not positive, or the noise has another shape than x.

    Source: Ozaki, Statistica Sinica 1992; Meng et al. 2021, section 6.
    """
    _check_step(x, step_size, noise)
    s1, s2 = scores(x)
    if s2 is None:
        raise ValueError("the scores have no s2, which an Ozaki step needs; langevin needs s1 alone")

    def drift_and_spread(eigenvalues: Tensor) -> Tensor:
        drift = phi(eigenvalues[:, 0], step_size, max_exponent)
        spread = phi(eigenvalues[:, 1], 2 * step_size, 2 * max_exponent).sqrt()
        return torch.stack([drift, spread], dim=1)

    return x + s2.apply(drift_and_spread, torch.stack([s1, noise], dim=2), tolerance).sum(2)


def _check_step(x: Tensor, step_size: float, noise: Tensor) -> None:
    positive_number("step_size", step_size)
    if noise.shape != x.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, x has {tuple(x.shape)}")


def langevin(
    scores: Scores,
    x: Tensor,
    step_size: float,
    steps: int,
    *,
    seed: int | None = None,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Chain:
    """Chains of `langevin_step`.

    Args:
        scores: of which s1 alone is used.
        x: starts of B chains, `(B, D)`, in any form that `Scores.points` takes.
        step_size: ε.
        steps: how many, 0 or more.
        seed: of the noise, from 0 to 2⁶³ − 1; by default it is drawn from torch's own generator.
        keep_every: keep every so many-th state, 1 for all.
        callback: called with the step's number, from 1, and the states.
        progress: show a bar, where the output is a terminal.

    Returns:
        the last states `(B, D)`; with `keep_every` also the chain, `(steps // keep_every, B, D)`.

    Raises:
        ValueError: where an argument is not what is said above, or a start is not finite.
        DivergedError: where a state is not finite or has left the range of 1e8.

    Source: Roberts and Tweedie, Bernoulli 1996.
    """
    return _chains("langevin", langevin_step, [scores], x, [step_size], steps, seed, keep_every, callback, progress)


def ozaki(
    scores: Scores,
    x: Tensor,
    step_size: float,
    steps: int,
    *,
    tolerance: float = 1e-6,
    max_exponent: float = 40.0,
    seed: int | None = None,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Chain:
    """Chains of `ozaki_step`.

    Args:
        scores: both orders. A diagonal s2 takes an elementwise step, one of few dimensions its eigenvectors, a larger
            one Lanczos' method.
        tolerance, max_exponent: see `ozaki_step`.
        x, step_size, steps, seed, keep_every, callback, progress: see `langevin`.

    Returns:
        see `langevin`.

    Raises:
        ValueError: where there is no s2, or an argument is not what is said above.
        DivergedError: see `langevin`.

    Source: Ozaki, Statistica Sinica 1992; Meng et al. 2021, section 6.
    """
    step = _ozaki_of(tolerance, max_exponent)
    return _chains("ozaki", step, [scores], x, [step_size], steps, seed, keep_every, callback, progress)


def annealed_langevin(
    model: HasScores,
    sigmas: Sequence[float],
    x: Tensor,
    step_size: float,
    steps: int,
    *,
    seed: int | None = None,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Chain:
    """`langevin` at one noise level after the other, from the widest to the narrowest, on one stream of noise.

    Args:
        model: has scores at all of the levels.
        sigmas: the levels σ > 0, descending.
        step_size: ε at the last level; at the others `ε (σ/σ_last)²`.
        steps: at each level.
        x, seed, keep_every, callback, progress: see `langevin`; the steps are counted through all levels.

    Returns:
        see `langevin`.

    Raises:
        ValueError: where there is no level, σ is not positive or does not descend, or an argument is not what is said
            above.
        DivergedError: see `langevin`.

    Source: Song and Ermon, NeurIPS 2019, algorithm 1.
    """
    scores, sizes = _annealed(model, sigmas, step_size)
    return _chains("langevin", langevin_step, scores, x, sizes, steps, seed, keep_every, callback, progress)


def annealed_ozaki(
    model: HasScores,
    sigmas: Sequence[float],
    x: Tensor,
    step_size: float,
    steps: int,
    *,
    tolerance: float = 1e-6,
    max_exponent: float = 40.0,
    seed: int | None = None,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Chain:
    """`ozaki` at one noise level after the other, as `annealed_langevin` does it: as many calls of the network.

    Args:
        model: has scores of both orders at all of the levels.
        tolerance, max_exponent: see `ozaki_step`.
        sigmas, x, step_size, steps, seed, keep_every, callback, progress: see `annealed_langevin`. No step is too long
            for a Gaussian: of `step_size` σ² or more at a level σ, each forgets the one before.

    Returns:
        see `langevin`.

    Raises:
        ValueError: where there is no s2; and see `annealed_langevin`.
        DivergedError: see `langevin`.

    Source: Ozaki, Statistica Sinica 1992; Song and Ermon, NeurIPS 2019, for the levels.
    """
    step = _ozaki_of(tolerance, max_exponent)
    scores, sizes = _annealed(model, sigmas, step_size)
    return _chains("ozaki", step, scores, x, sizes, steps, seed, keep_every, callback, progress)


def _ozaki_of(tolerance: float, max_exponent: float) -> StepOf:
    positive_number("tolerance", tolerance)
    number_from_zero("max_exponent", max_exponent)
    return partial(ozaki_step, tolerance=tolerance, max_exponent=max_exponent)


def _annealed(model: HasScores, sigmas: Sequence[float], step_size: float) -> tuple[list[Scores], list[float]]:
    """The scores at each level, and the step size."""
    levels = descending(sigmas)
    smallest = positive_number("step_size", step_size)
    return [scores_at(model, sigma) for sigma in levels], [smallest * (sigma / levels[-1]) ** 2 for sigma in levels]


def _chains(
    name: str,
    step: StepOf,
    scores: Sequence[Scores],
    x: Tensor,
    step_sizes: Sequence[float],
    steps: int,
    seed: int | None,
    keep_every: int | None,
    callback: Callback | None,
    progress: bool,
) -> Chain:
    """`steps` steps with each of the scores, one after the other."""
    x = points_of(scores[0], x, "x")
    generator = generator_of(seed, x.device)
    whole_number("steps", steps)

    def bound(scores: Scores, size: float) -> Step:
        def one(x: Tensor) -> Tensor:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            return step(scores, x, size, noise)

        return one

    sizes = [positive_number("step_size", size) for size in step_sizes for _ in range(steps)]
    planned = [bound(level, size) for level, size in zip(scores, step_sizes, strict=True) for _ in range(steps)]
    return run(
        name,
        planned,
        x,
        keep_every,
        callback,
        progress,
        advice=lambda number: f" with step size {sizes[number - 1]:g}; take a smaller one",
    )
