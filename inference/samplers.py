"""Samplers of a density from its scores: discretisations of `dx = s1 dt + √2 dW`.

A sampler is a step; one driver runs any of them. A step size ε is a length of time of that equation, the same in all
of them, so that runs compare.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from datasets.seeds import generator_of
from inference.arguments import number_from_zero, points_of, positive_number, whole_number
from linalg import phi
from losses.perturbation import noise_level
from models import Scores

__all__ = ["DivergedError", "annealed_langevin", "langevin", "langevin_step", "ozaki", "ozaki_step"]

Callback = Callable[[int, Tensor], None]
Chain = Tensor | tuple[Tensor, Tensor]

LIMIT = 1e8


class DivergedError(ArithmeticError):
    """A chain left every reasonable range: the message names the step and the step size."""


class HasScores(Protocol):
    """What has scores at every noise level: a `models.ScoreModel`, an exact density."""

    def at(self, sigma: float) -> Scores:
        """The scores at noise level σ."""


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

    x = points_of(scores, x, "x")
    generator = generator_of(seed, x.device)
    step = partial(_langevin_of, scores, step_size)
    return _run("langevin", step, x, step_size, steps, generator, keep_every, callback, progress)


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

    def step(x: Tensor, noise: Tensor) -> Tensor:
        return ozaki_step(scores, x, step_size, noise, tolerance, max_exponent)

    positive_number("tolerance", tolerance)
    number_from_zero("max_exponent", max_exponent)
    x = points_of(scores, x, "x")
    return _run("ozaki", step, x, step_size, steps, generator_of(seed, x.device), keep_every, callback, progress)


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
    if not hasattr(model, "at"):
        raise ValueError(
            f"model is of type {type(model).__name__}; one with scores at every level is expected: model.at(sigma)"
        )
    if not isinstance(sigmas, Iterable):
        raise ValueError(f"sigmas is {sigmas!r}; a sequence of noise levels is expected")
    levels = [noise_level(sigma) for sigma in sigmas]
    if not levels or any(after >= before for before, after in pairwise(levels)):
        raise ValueError(f"noise levels {levels}; descending ones are expected")
    step_size, steps = positive_number("step_size", step_size), whole_number("steps", steps)
    chains: list[Tensor] = []
    generator: torch.Generator | None = None
    for number, sigma in enumerate(levels):
        scores = model.at(sigma)
        if number == 0:
            x = points_of(scores, x, "x")
            generator = generator_of(seed, x.device)
        size = step_size * (sigma / levels[-1]) ** 2
        count = None if callback is None else partial(_count_from, number * steps, callback)
        step = partial(_langevin_of, scores, size)
        result = _run("langevin", step, x, size, steps, generator, keep_every, count, progress)
        if isinstance(result, Tensor):
            x = result
        else:
            x, chain = result
            chains.append(chain)
    return x if keep_every is None else (x, torch.cat(chains))


def _langevin_of(scores: Scores, step_size: float, x: Tensor, noise: Tensor) -> Tensor:
    return langevin_step(scores, x, step_size, noise)


def _count_from(first: int, callback: Callback, step: int, x: Tensor) -> None:
    callback(first + step, x)


@torch.no_grad()
def _run(
    name: str,
    step: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    step_size: float,
    steps: int,
    generator: torch.Generator | None,
    keep_every: int | None,
    callback: Callback | None,
    progress: bool,
) -> Chain:
    positive_number("step_size", step_size)
    whole_number("steps", steps)
    if keep_every is not None:
        whole_number("keep_every", keep_every, least=1)
    kept = []
    for number in tqdm(range(1, steps + 1), desc=name, disable=None if progress else True, leave=False):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        try:
            x = step(x, noise)
        except torch.linalg.LinAlgError:  # no eigenvalues: the scores are not finite
            x = torch.full_like(x, torch.nan)
        if not bool((x.abs() < LIMIT).all()):
            raise DivergedError(f"{name} diverged at step {number} with step size {step_size:g}; take a smaller one")
        if callback is not None:
            callback(number, x)
        if keep_every is not None and number % keep_every == 0:
            kept.append(x)
    if keep_every is None:
        return x
    return x, torch.stack(kept) if kept else x.new_empty(0, *x.shape)
