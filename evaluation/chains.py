"""How well a chain mixed, and how close its states are to the density it was meant for.

A chain is `(steps, B, D)`: B chains of D entries, as the samplers return it with `keep_every`. Nothing can be said of
an entry in which one of the chains never moved: the answer is NaN, with a `RuntimeWarning`.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from datasets import Mixture
from datasets.seeds import generator_of
from inference.arguments import positive_number, whole_number
from losses.perturbation import noise_level

__all__ = ["autocorrelation_time", "effective_sample_size", "mmd", "mode_weights", "r_hat", "sliced_wasserstein"]

KINDS = ("bulk", "tail", "mean")
LEAST_STEPS = 4


def effective_sample_size(chain: Tensor, kind: str = "bulk") -> Tensor:
    """How many independent draws the states of all B chains together are worth, for each entry.

    Args:
        chain: `(steps, B, D)`, at least four steps.
        kind: `"bulk"`, of the centre; `"tail"`, the worse of the 5 % and 95 % quantiles; `"mean"`, of the mean.

    Returns:
        `(D,)`, float64; NaN for an entry in which a chain did not move. Per step: divided by steps; per second: divided
        by the time they took.

    Raises:
        ValueError: where the chain has another shape, fewer steps, or values that are not finite; or there is no such
            kind.

    Source: Vehtari et al., Bayesian Analysis 2021; computed by arviz-stats.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(KINDS)} is expected")
    quantiles = (0.05, 0.95) if kind == "tail" else None
    draws = _draws(chain)
    return _where_moved(
        "effective_sample_size", draws, lambda moved: array_stats.ess(moved, method=kind, prob=quantiles)
    )


def r_hat(chain: Tensor) -> Tensor:
    """The rank-normalised split R̂ of each entry: how much wider all B chains together are than each by itself.

    Args:
        chain: `(steps, B, D)`, at least four steps, of two chains at least.

    Returns:
        `(D,)`, float64, 1 where the chains agree; NaN for an entry in which a chain did not move.

    Raises:
        ValueError: where the chain has another shape, fewer steps, one chain, or values that are not finite.

    Source: Vehtari et al., Bayesian Analysis 2021; computed by arviz-stats.
    """
    draws = _draws(chain)
    if draws.shape[1] < 2:
        raise ValueError("this is one chain; R̂ compares chains, two at least are expected")
    return _where_moved("r_hat", draws, array_stats.rhat)


def autocorrelation_time(chain: Tensor) -> Tensor:
    """The integrated autocorrelation time of each entry: states over effective samples of the mean.

    Args:
        chain: `(steps, B, D)`, at least four steps.

    Returns:
        `(D,)`, float64, in steps; NaN for an entry in which a chain did not move.

    Raises:
        ValueError: where the chain has another shape, fewer steps, or values that are not finite.
    """
    effective = effective_sample_size(chain, "mean")
    return chain.shape[0] * chain.shape[1] / effective


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 200, seed: int = 0) -> float:
    """The sliced 2-Wasserstein distance of two samples: that of their projections, over random directions.

    Args:
        x, y: `(N, D)` and `(M, D)`, floats.
        projections: how many directions, 1 or more.
        seed: of the directions.

    Returns:
        the root of the mean over the directions of the squared distance, in the units of x.

    Raises:
        ValueError: where x and y are not samples of one dimension, or an argument is not what is said above.

    Source: Bonneel et al., J. Math. Imaging Vis. 2015.
    """
    _check_samples(x, y, least=1)
    shape = x.shape[1], whole_number("projections", projections, least=1)
    directions = torch.randn(shape, generator=generator_of(seed), dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x)
    levels = (torch.arange(max(len(x), len(y)), dtype=x.dtype, device=x.device) + 0.5) / max(len(x), len(y))
    at = [_quantiles(points @ directions, levels) for points in (x, y)]
    return float((at[0] - at[1]).square().mean().sqrt())


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Of each column, the inverse of the empirical distribution function."""
    ranks = (levels * len(values)).ceil().long().clamp(1, len(values)) - 1
    return values.sort(dim=0).values[ranks]


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    """The squared maximum mean discrepancy of two samples.

    Args:
        x, y: `(N, D)` and `(M, D)`, two points at least of each; the cost is (N + M)².
        bandwidth: of the Gaussian kernel, in the units of x; by default the median distance within y.

    Returns:
        an unbiased estimate, so that it may lie below zero; it has no unit, the kernel being 1 at distance 0.

    Raises:
        ValueError: where x and y are not samples of one dimension, of two points at least, or the bandwidth, or the
            median distance in its place, is not positive.

    Source: Gretton et al., JMLR 2012, lemma 6.
    """
    _check_samples(x, y, least=2)
    if bandwidth is None:
        bandwidth = float(torch.pdist(y[:2000]).median())
        if bandwidth == 0:
            raise ValueError("the median distance within y is 0: most of its points are the same; give a bandwidth")
    width = positive_number("bandwidth", bandwidth)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * width**2)).exp()

    n, m = len(x), len(y)
    within_x = (kernel(x, x).sum() - n) / (n * (n - 1))
    within_y = (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(within_x + within_y - 2 * kernel(x, y).mean())


def mode_weights(x: Tensor, mixture: Mixture, sigma: float = 0.0) -> Tensor:
    """The share of points that each component of a known mixture accounts for.

    Args:
        x: points `(N, D)` of the density, or of its noisy one.
        mixture: the density.
        sigma: the noise level of the points, one number in their units.

    Returns:
        `(K,)`, with the sum 1; to be compared with the mixture's weights.

    Raises:
        ValueError: where x is not a sample of the density's dimension, or sigma is not one number from 0.
    """
    _check_sample("x", x, least=1)
    if x.shape[1] != mixture.dimension:
        raise ValueError(f"x has shape {tuple(x.shape)}; (N, {mixture.dimension}) is expected, as the mixture has it")
    return mixture.shares(x, noise_level(sigma, zero=True)).mean(0)


def _check_samples(x: Tensor, y: Tensor, least: int) -> None:
    _check_sample("x", x, least)
    _check_sample("y", y, least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has shape {tuple(x.shape)}, y has {tuple(y.shape)}; samples of one dimension are expected")


def _check_sample(name: str, x: Tensor, least: int) -> None:
    """Floats `(N, D)`, finite, of `least` points or more; a `ValueError` says what is missing."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} is of type {kind}; a tensor of floats (N, D) is expected")
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; (N, D) is expected")
    if len(x) < least:
        raise ValueError(f"{name} has {len(x)} point(s); {least} at least are expected")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} has values that are not finite; finite ones are expected")


def _draws(chain: Tensor) -> np.ndarray:
    """As arviz expects it, `(D, B, steps)`."""
    if not isinstance(chain, Tensor) or chain.ndim != 3 or not chain.shape[1]:
        given = f"shape {tuple(chain.shape)}" if isinstance(chain, Tensor) else f"type {type(chain).__name__}"
        raise ValueError(f"a chain of {given}; a tensor (steps, B, D) is expected")
    if len(chain) < LEAST_STEPS:
        raise ValueError(f"a chain of {len(chain)} step(s); {LEAST_STEPS} at least are expected")
    draws = chain.detach().permute(2, 1, 0).cpu().double().numpy()
    if not np.isfinite(draws).all():
        raise ValueError("the chain has values that are not finite; finite ones are expected")
    return draws


def _where_moved(name: str, draws: np.ndarray, metric: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """The metric of each entry in which every chain moved; NaN, and a warning, for the others."""
    moved = (np.ptp(draws, axis=2) > 0).all(axis=1)
    metrics = np.full(len(draws), math.nan)
    if moved.any():
        metrics[moved] = metric(draws[moved])
    if not moved.all():
        warnings.warn(
            f"{name}: {(~moved).sum()} of {len(moved)} entries have a chain that did not move; NaN stands for them",
            RuntimeWarning,
            stacklevel=3,
        )
    return torch.from_numpy(metrics)
