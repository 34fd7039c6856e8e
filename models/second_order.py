"""Second-order heads: networks whose output is s2 = diag(α) + ββᵀ at every point."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linalg import DiagonalPlusLowRank

__all__ = ["DiagonalHead", "LowRankHead", "second_order_score", "window_count", "windows"]

FLOOR = 1e-6


def second_order_score(alpha: Tensor, beta: Tensor, covariance: str, sigma: float) -> DiagonalPlusLowRank:
    """s2 from what the networks give.

    Args:
        alpha: `(B, D)`.
        beta: `(B, D, r)`, r = 0 where s2 is diagonal.
        covariance: `"free"`: s2 = diag(alpha) + beta·betaᵀ, as published. `"positive"`: the networks
            give the posterior covariance, `Cov = σ² (diag(softplus(alpha)) + beta·betaᵀ / r)`, and
            `s2 = (Cov − σ² I) / σ⁴`: no predicted variance can be negative, and values of order one are
            right at every σ.
        sigma: σ, in the units of the data.

    Returns:
        s2 in units of 1/σ².
    """
    if covariance == "positive":
        # The floor outlives the rounding of σ⁴ s2 + σ² in float32.
        alpha = (F.softplus(alpha) + FLOOR - 1) / sigma**2
        beta = beta / (sigma * max(1, beta.shape[-1]) ** 0.5)
    return DiagonalPlusLowRank(alpha, beta)


class DiagonalHead(nn.Module):
    """s2 = diag(α), α from a network of its own.

    Args:
        diagonal: maps `(B, D)` to α, `(B, D)`.
        covariance, sigma: see `second_order_score`.
    """

    def __init__(self, diagonal: nn.Module, covariance: str = "free", sigma: float = 1.0):
        super().__init__()
        self.covariance, self.sigma = covariance, sigma
        self.diagonal = diagonal

    def forward(self, x: Tensor) -> DiagonalPlusLowRank:
        alpha = self.diagonal(x)
        return second_order_score(alpha, alpha.new_zeros(*alpha.shape, 0), self.covariance, self.sigma)


class LowRankHead(nn.Module):
    """s2 = diag(α) + ββᵀ, α and β from a network each.

    Args:
        diagonal: maps `(B, D)` to α, `(B, D)`.
        factor: maps `(B, D)` to the r columns of β, one after the other, `(B, r·D)`.
        rank: r.
        covariance, sigma: see `second_order_score`.
    """

    def __init__(self, diagonal: nn.Module, factor: nn.Module, rank: int, covariance: str = "free", sigma: float = 1.0):
        super().__init__()
        self.rank, self.covariance, self.sigma = rank, covariance, sigma
        self.diagonal = diagonal
        self.factor = factor

    def forward(self, x: Tensor) -> DiagonalPlusLowRank:
        beta = self.factor(x).unflatten(1, (self.rank, -1)).mT
        return second_order_score(self.diagonal(x), beta, self.covariance, self.sigma)


def window_count(rank: int) -> int:
    """How many places there are for that many columns: those of a square grid, at most 4×4."""
    return min(4, math.isqrt(rank)) ** 2


def windows(rank: int, shape: tuple[int, int, int]) -> Tensor:
    """A Gaussian window for each column of a factor, centred in turn on the places of a grid over the image.

    A convolutional network gives every column the same rule everywhere: a column that holds the edges here holds those
    on the other side of the image too, and so makes them correlate. Multiplied by a window it is about one place, and
    neighbours overlap; the windows are where training begins, and are learned.

    Args:
        rank: number of columns.
        shape: `(C, H, W)` of the images.

    Returns:
        `(rank, C·H·W)`, each row of mean square one.

    Source: ours; the localisation of covariances by windows is that of Gaspari and Cohn, Q. J. R. Meteorol. Soc. 1999.
    """
    _, height, width = shape
    places = math.isqrt(window_count(rank))
    column = torch.arange(rank)
    profiles = []
    for size, place in ((height, column // places % places), (width, column % places)):
        spacing = size / places
        distance = torch.arange(size) + 0.5 - (place[:, None] + 0.5) * spacing
        profiles.append((-0.5 * (distance / (0.6 * spacing)).square()).exp())
    bumps = torch.einsum("rh,rw->rhw", *profiles)
    bumps = bumps / bumps.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return bumps[:, None].expand(rank, *shape).flatten(1)
