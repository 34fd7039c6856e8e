"""How well a chain mixed, and how close its states are to the density it was meant for.

A chain is `(steps, B, D)`: B chains of D entries, as the samplers return it with `keep_every`.
"""

import numpy as np
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from datasets import Mixture

__all__ = ["autocorrelation_time", "effective_sample_size", "mmd", "mode_weights", "r_hat", "sliced_wasserstein"]


def effective_sample_size(chain: Tensor, kind: str = "bulk") -> Tensor:
    """How many independent draws the states of all B chains together are worth, for each entry.

    Args:
        chain: `(steps, B, D)`, at least four steps: with fewer the answer is NaN.
        kind: `"bulk"`, of the centre; `"tail"`, the worse of the 5 % and 95 % quantiles; `"mean"`, of the mean.

    Returns:
        `(D,)`, float64. Per step: divided by steps; per second: divided by the time they took.

    Raises:
        ValueError: where the chain has another shape, or there is no such kind.

    Source: Vehtari et al., Bayesian Analysis 2021; computed by arviz-stats.
    """
    quantiles = (0.05, 0.95) if kind == "tail" else None
    return torch.from_numpy(np.asarray(array_stats.ess(_draws(chain), method=kind, prob=quantiles), dtype=np.float64))


def r_hat(chain: Tensor) -> Tensor:
    """The rank-normalised split R̂ of each entry: how much wider all B chains together are than each by itself.

    Args:
        chain: `(steps, B, D)`, at least four steps: with fewer the answer is NaN.

    Returns:
        `(D,)`, float64, 1 where the chains agree.

    Raises:
        ValueError: where the chain has another shape.

    Source: Vehtari et al., Bayesian Analysis 2021; computed by arviz-stats.
    """
    return torch.from_numpy(np.asarray(array_stats.rhat(_draws(chain)), dtype=np.float64))


def autocorrelation_time(chain: Tensor) -> Tensor:
    """The integrated autocorrelation time of each entry: states over effective samples of the mean.

    Args:
        chain: `(steps, B, D)`, at least four steps: with fewer the answer is NaN.

    Returns:
        `(D,)`, float64, in steps.

    Raises:
        ValueError: where the chain has another shape.
    """
    effective = effective_sample_size(chain, "mean")
    return chain.shape[0] * chain.shape[1] / effective


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 200, seed: int = 0) -> float:
    """The sliced 2-Wasserstein distance of two samples: that of their projections, over random directions.

    Args:
        x, y: `(N, D)` and `(M, D)`.
        projections: how many directions.
        seed: of the directions.

    Returns:
        the root of the mean over the directions of the squared distance, in the units of x.

    Source: Bonneel et al., J. Math. Imaging Vis. 2015.
    """
    directions = torch.randn(
        x.shape[1], projections, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
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

    Source: Gretton et al., JMLR 2012, lemma 6.
    """
    if bandwidth is None:
        bandwidth = float(torch.pdist(y[:2000]).median())

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()

    n, m = len(x), len(y)
    within_x = (kernel(x, x).sum() - n) / (n * (n - 1))
    within_y = (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(within_x + within_y - 2 * kernel(x, y).mean())


def mode_weights(x: Tensor, mixture: Mixture, sigma: float = 0.0) -> Tensor:
    """The share of points that each component of a known mixture accounts for.

    Args:
        x: points `(N, D)` of the density, or of its noisy one.
        mixture: the density.
        sigma: the noise level of the points, in their units.

    Returns:
        `(K,)`, with the sum 1; to be compared with the mixture's weights.
    """
    return mixture.shares(x, sigma).mean(0)


def _draws(chain: Tensor) -> np.ndarray:
    """As arviz expects it, `(D, B, steps)`."""
    if chain.ndim != 3:
        raise ValueError(f"a chain of shape {tuple(chain.shape)}; (steps, B, D) is expected")
    return chain.permute(2, 1, 0).cpu().double().numpy()
