"""Densities by name, and points drawn from them as a data set.

A new density is a function that returns a `Mixture`, in a module of its own, and a line in `DENSITIES`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from datasets.mixtures import (
    CurveMixture,
    GaussianMixture,
    LogisticMixture,
    Mixture,
    UniformMixture,
    multivariate_normal,
)
from datasets.seeds import derived_seed, generator_of

__all__ = [
    "DENSITIES",
    "DensityData",
    "checkerboard",
    "correlated_normal",
    "gaussians",
    "independent_normal",
    "logistics",
    "rings",
    "two_moons",
    "varied_logistics",
]


def checkerboard(squares: int = 4, side: float = 1.0) -> UniformMixture:
    """The black squares of a board of `squares`² fields whose sides are `side`, centred at the origin; in the plane."""
    corners = [(i, j) for i in range(squares) for j in range(squares) if (i + j) % 2 == 0]
    lower = side * (torch.tensor(corners, dtype=torch.float64) - squares / 2)
    return UniformMixture(torch.ones(len(lower)), lower, lower + side)


def two_moons(spread: float = 0.1) -> CurveMixture:
    """Two interleaving half circles in the plane, as scikit-learn's `make_moons` has them, blurred by `spread`."""
    return CurveMixture([[0.0, 0.0], [1.0, 0.5]], [1.0, 1.0], [[0.0, math.pi], [math.pi, 2 * math.pi]], spread)


def rings(radii: tuple[float, ...] = (1.0, 2.0, 3.0), spread: float = 0.1) -> CurveMixture:
    """Concentric circles in the plane, as likely as they are long, blurred by `spread`."""
    count = len(radii)
    return CurveMixture([[0.0, 0.0]] * count, radii, [[0.0, 2 * math.pi]] * count, spread)


def gaussians() -> GaussianMixture:
    """Three long Gaussians in the plane, lying across each other."""
    angles = torch.tensor([0.0, 2.1, 4.2], dtype=torch.float64)
    axes = torch.stack([torch.stack([angles.cos(), -angles.sin()], 1), torch.stack([angles.sin(), angles.cos()], 1)], 1)
    covariances = axes * torch.tensor([1.0, 0.04], dtype=torch.float64) @ axes.mT
    means = 1.2 * torch.stack([-angles.sin(), angles.cos()], dim=1)
    return GaussianMixture(torch.tensor([0.3, 0.3, 0.4]), means, covariances)


def correlated_normal(dimension: int, factors: int = 20, seed: int = 0) -> GaussianMixture:
    """`N(0, C)` with `C = I/5 + UUᵀ`, U of `factors` random columns: variances of about 1.2, most of them shared."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(dimension, factors, generator=generator, dtype=torch.float64) / factors**0.5
    covariance = 0.2 * torch.eye(dimension, dtype=torch.float64) + columns @ columns.T
    return multivariate_normal(torch.zeros(dimension, dtype=torch.float64), covariance)


def logistics(
    dimension: int, components: int = 20, seed: int = 0, scales: tuple[float, float] = (0.1, 0.2)
) -> LogisticMixture:
    """Equal products of logistics with random locations in [−1, 1] and scales in a range."""
    generator = torch.Generator().manual_seed(seed)
    locations, shares = (torch.rand(components, dimension, generator=generator, dtype=torch.float64) for _ in range(2))
    low, high = scales
    return LogisticMixture(torch.ones(components), 2 * locations - 1, low + (high - low) * shares)


def varied_logistics(
    dimension: int, components: int = 20, seed: int = 0, median: float = 1.13, spread: float = 0.5
) -> LogisticMixture:
    """Equal products of logistics with random locations in [−1, 1] and log-normal scales of a median and a standard
    deviation of their logarithms: in 50 dimensions ‖diag(s2)‖² is 26, as the paper's table has it. With a median of 1
    and a spread of 0.43 it is that too, and a linear score's error is 0.70 of it, as the paper's are."""
    generator = torch.Generator().manual_seed(seed)
    locations = torch.rand(components, dimension, generator=generator, dtype=torch.float64)
    logarithms = spread * torch.randn(components, dimension, generator=generator, dtype=torch.float64)
    return LogisticMixture(torch.ones(components), 2 * locations - 1, median * logarithms.exp())


def independent_normal(dimension: int) -> GaussianMixture:
    """`N(0, C)`, C diagonal with variances from 1.1 to 2.1: in 100 dimensions ‖s2‖² is 43, as the paper's table has
    it."""
    variances = torch.linspace(1.1, 2.1, dimension, dtype=torch.float64)
    return multivariate_normal(torch.zeros(dimension, dtype=torch.float64), variances.diag())


# --- name -> a function of `data.dimension`; densities of the plane take no notice of it ---

DENSITIES: dict[str, Callable[[int], Mixture]] = {
    "normal": correlated_normal,
    "independent_normal": independent_normal,
    "logistics": logistics,
    "wide_logistics": partial(logistics, scales=(0.5, 1.0)),
    "varied_logistics": varied_logistics,
    "paper_logistics": partial(varied_logistics, median=1.0, spread=0.43),
    "gaussians": lambda dimension: gaussians(),
    "two_moons": lambda dimension: two_moons(),
    "rings": lambda dimension: rings(),
    "checkerboard": lambda dimension: checkerboard(),
}


@dataclass(frozen=True)
class DensityData:
    """Points of a density as a data set: drawn afresh without end, or a fixed set of `points`.

    A batch of fresh points is drawn when it is needed, from a generator that its first two indices seed, so that a
    resumed run gets the same points again: batches that begin alike have the same points, all others share none.

    Attributes:
        density: where the points come from.
        size: how many make an epoch.
        split: `"train"` or `"test"`, which differ.
        device: that batches are moved to.
        points: of how many points all batches are made, always the same ones; None: all are fresh.
    """

    density: Mixture
    size: int
    split: str
    device: torch.device
    points: int | None = None

    @property
    def shape(self) -> tuple[int]:
        """Of a point: `(D,)`."""
        return self.density.shape

    def __len__(self) -> int:
        return self.size

    @cached_property
    def kept(self) -> Tensor:
        """The `points` of the set, `(points, D)`."""
        assert self.points is not None
        return self.density.sample(self.points, generator_of(derived_seed(0, self.points)))

    def draw(self, indices: Tensor) -> Tensor:
        """Points `(len(indices), D)`, float32, on `device`."""
        if self.points is not None:
            return self.kept[indices % self.points].to(self.device)
        first, second = (indices[:2].tolist() + [0])[:2]
        seed = 2 * (first + self.size * second) + (self.split == "test")
        return self.density.sample(len(indices), generator_of(seed)).to(self.device)
