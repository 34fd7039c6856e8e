"""Samplers of a density from its scores: discretisations of `dx = s1 dt + √2 dW`.

A step size ε is a length of time of that equation, the same in all of them, so that runs compare.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

import models
from inference.matrix_functions import lanczos, phi
from models import DiagonalPlusLowRank

__all__ = ["DivergedError", "annealed_langevin", "langevin", "ozaki", "ozaki_displacement"]

Score = Callable[[Tensor], Tensor]
SecondOrderScore = Callable[[Tensor], DiagonalPlusLowRank | Tensor]
Callback = Callable[[int, Tensor], None]

LIMIT = 1e8


class DivergedError(ArithmeticError):
    """A chain left every reasonable range: the message names the step and the step size."""


def langevin(
    s1: Score,
    x: Tensor,
    step_size: float,
    steps: int,
    *,
    seed: int | None = None,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """`x ← x + ε s1(x) + √(2ε) ξ`, unadjusted Langevin dynamics.

    Args:
        s1: the score, `(B, D)` to `(B, D)`.
        x: starts of B chains, `(B, D)`.
        step_size: ε.
        steps: how many.
        seed: of the noise; by default it is drawn from torch's own generator.
        keep_every: keep every so many-th state.
        callback: called with the step's number, from 1, and the states.
        progress: show a bar, where the output is a terminal.

    Returns:
        the last states `(B, D)`; with `keep_every` also the chain, `(steps // keep_every, B, D)`.

    Raises:
        DivergedError: where a state is not finite or has left the range of 1e8.

    Source: Roberts and Tweedie, Bernoulli 1996.
    """

    def move(x: Tensor, noise: Tensor) -> Tensor:
        return x + step_size * s1(x) + (2 * step_size) ** 0.5 * noise

    return _run(move, x, step_size, steps, seed, keep_every, callback, progress, "langevin")


def ozaki(
    s1: Score,
    s2: SecondOrderScore,
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
) -> Tensor | tuple[Tensor, Tensor]:
    """`x ← x + φ(s2) s1 + Σ^{1/2} ξ` with `φ(λ) = (e^{ελ} − 1)/λ` and `Σ(λ) = (e^{2ελ} − 1)/λ`, functions of the
    symmetric matrix s2: each step solves the equation exactly for the Gaussian that has the scores of the point.

    Args:
        s1, x, step_size, steps, seed, keep_every, callback, progress: as of `langevin`.
        s2: the second-order score. A diagonal one takes an elementwise step; one with a factor Lanczos' method; a dense
            `(B, D, D)` an eigendecomposition.
        tolerance: of Lanczos' method, relative to the length of the result.
        max_exponent: ελ is taken no larger than this. It keeps float32 finite; a smaller one, say 1, tames the leaps
            that the step makes where the density is convex and ε large.

    Returns:
        as of `langevin`.

    Raises:
        DivergedError: as of `langevin`.

    Source: Ozaki, Statistica Sinica 1992; Meng et al. 2021, section 6.
    """

    def move(x: Tensor, noise: Tensor) -> Tensor:
        score, curvature = models.evaluate(s1, s2, x)
        return x + ozaki_displacement(score, curvature, step_size, noise, tolerance, max_exponent)

    return _run(move, x, step_size, steps, seed, keep_every, callback, progress, "ozaki")


def ozaki_displacement(
    s1: Tensor,
    s2: DiagonalPlusLowRank | Tensor,
    step_size: float,
    noise: Tensor,
    tolerance: float = 1e-6,
    max_exponent: float = 40.0,
) -> Tensor:
    """`φ(s2) s1 + Σ^{1/2} ξ` for values of the scores at B points: one step of `ozaki`, `(B, D)`."""

    def drift(eigenvalues: Tensor) -> Tensor:
        return phi(eigenvalues, step_size, max_exponent)

    def spread(eigenvalues: Tensor) -> Tensor:
        return phi(eigenvalues, 2 * step_size, 2 * max_exponent).sqrt()

    if isinstance(s2, Tensor):
        values, vectors = torch.linalg.eigh(s2)
        s1, noise = ((vectors.mT @ v[:, :, None])[:, :, 0] for v in (s1, noise))
        return (vectors @ (drift(values) * s1 + spread(values) * noise)[:, :, None])[:, :, 0]
    if s2.factor is None:
        return drift(s2.diagonal) * s1 + spread(s2.diagonal) * noise

    def both(eigenvalues: Tensor) -> Tensor:
        return torch.stack([drift(eigenvalues[:, 0]), spread(eigenvalues[:, 1])], dim=1)

    return lanczos(s2, torch.stack([s1, noise], dim=2), both, tolerance).sum(2)


def annealed_langevin(
    levels: list[tuple[float, Score]],
    x: Tensor,
    step_size: float,
    steps: int,
    *,
    seed: int | None = None,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """`langevin` at one noise level after the other, from the widest to the narrowest.

    Args:
        levels: pairs (σ, s1 of that σ), σ descending.
        step_size: ε at the last level; at the others `ε (σ/σ_last)²`.
        steps: at each level.
        x, seed, keep_every, callback, progress: as of `langevin`; the steps are counted through all levels.

    Returns:
        as of `langevin`.

    Raises:
        ValueError: where there is no level or σ does not descend.
        DivergedError: as of `langevin`.

    Source: Song and Ermon, NeurIPS 2019, algorithm 1.
    """
    sigmas = [sigma for sigma, _ in levels]
    if not levels or any(after >= before for before, after in zip(sigmas, sigmas[1:], strict=False)):
        raise ValueError(f"noise levels {sigmas}; descending ones are wanted")
    chains = []
    for number, (sigma, s1) in enumerate(levels):
        result = langevin(
            s1,
            x,
            step_size * (sigma / sigmas[-1]) ** 2,
            steps,
            seed=None if seed is None else seed + number,
            keep_every=keep_every,
            callback=callback and (lambda step, x, done=number * steps: callback(done + step, x)),
            progress=progress,
        )
        x = result if keep_every is None else result[0]
        if keep_every is not None:
            chains.append(result[1])
    return x if keep_every is None else (x, torch.cat(chains))


@torch.no_grad()
def _run(
    move: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    step_size: float,
    steps: int,
    seed: int | None,
    keep_every: int | None,
    callback: Callback | None,
    progress: bool,
    name: str,
) -> Tensor | tuple[Tensor, Tensor]:
    if not step_size > 0:
        raise ValueError(f"step_size is {step_size}; a positive one is wanted")
    generator = None if seed is None else torch.Generator(x.device).manual_seed(seed)
    kept = []
    for step in tqdm(range(1, steps + 1), desc=name, disable=None if progress else True, leave=False):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        try:
            x = move(x, noise)
        except torch.linalg.LinAlgError:  # no eigenvalues: the scores are not finite
            x = torch.full_like(x, torch.nan)
        if not bool((x.abs() < LIMIT).all()):
            raise DivergedError(f"{name} diverged at step {step} with step size {step_size:g}; take a smaller one")
        if callback is not None:
            callback(step, x)
        if keep_every is not None and step % keep_every == 0:
            kept.append(x)
    if keep_every is None:
        return x
    return x, torch.stack(kept) if kept else x.new_empty(0, *x.shape)
