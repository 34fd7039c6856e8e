"""Noisy copies of clean data, `x̃ = x + σz`, laid out for one evaluation of the network."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from linalg import SymmetricMatrix

__all__ = ["Perturbation", "perturb", "weighted_mean"]

Batch = TypeVar("Batch", Tensor, SymmetricMatrix)


@dataclass(frozen=True)
class Perturbation:
    """A batch of clean points, the noise added to them, and all points at which a loss needs the scores.

    Attributes:
        clean: x, shape `(B, D)`.
        noise: z, shape `(B, D)`, standard normal.
        sigma: σ, a float or a `(B, 1)` tensor, in the units of x.
        points: which points `inputs` holds, in order: of `"plus"` (x + σz), `"minus"` (x − σz), `"clean"` (x).
        inputs: those points one after the other, shape `(len(points)·B, D)`.
    """

    clean: Tensor
    noise: Tensor
    sigma: float | Tensor
    points: tuple[str, ...]
    inputs: Tensor

    @property
    def levels(self) -> float | Tensor:
        """σ of each of `inputs`: a float, or `(len(points)·B, 1)`."""
        return (
            self.sigma.repeat(len(self.points), 1) if isinstance(self.sigma, Tensor) and self.sigma.ndim else self.sigma
        )

    def at(self, point: str, values: Batch) -> Batch:
        """The part of `values`, evaluated at (at least the first of) `inputs`, that belongs to `point`.

        Args:
            point: `"plus"`, `"minus"` or `"clean"`.
            values: shape `(n·B, …)`, in the order of `inputs`.

        Returns:
            shape `(B, …)`.

        Raises:
            ValueError: where the batch was not perturbed to that point, or `values` does not reach it.
        """
        batch = len(self.clean)
        if point not in self.points or len(values) < (self.points.index(point) + 1) * batch:
            raise ValueError(
                f"{len(values)} values for {batch} points do not include those at '{point}'; "
                "perturb with antithetic=True or with_clean=True and evaluate at all of .inputs"
            )
        start = self.points.index(point) * batch
        return values if len(values) == batch else values[start : start + batch]


def perturb(
    x: Tensor,
    sigma: float | Tensor,
    antithetic: bool = False,
    noise: Tensor | None = None,
    with_clean: bool | None = None,
) -> Perturbation:
    """Adds Gaussian noise of standard deviation σ.

    Args:
        x: clean points, shape `(B, D)`.
        sigma: noise level σ > 0 in the units of x: a float, or a `(B, 1)` tensor.
        antithetic: add the mirrored points x − σz.
        noise: z, shape `(B, D)`; drawn from N(0, I) where it is not given.
        with_clean: add x itself, the centre of the control variates of Meng et al. 2021, section 4;
            by default where `antithetic` is.

    Returns:
        a `Perturbation` whose `inputs` are `(B, D)`, or `(3B, D)` in the order x + σz, x − σz, x.

    Raises:
        ValueError: where x is not `(B, D)`, noise has another shape, or a `(B, 1)` σ does not fit.
    """
    if x.ndim != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; flatten each point to get (B, D)")
    if noise is None:
        noise = torch.randn_like(x)
    if noise.shape != x.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, x has {tuple(x.shape)}")
    if isinstance(sigma, Tensor) and sigma.ndim and sigma.shape != (len(x), 1):
        raise ValueError(f"sigma has shape {tuple(sigma.shape)}; a float or {(len(x), 1)} is expected")
    points = {"plus": x + sigma * noise}
    if antithetic:
        points["minus"] = x - sigma * noise
    if antithetic if with_clean is None else with_clean:
        points["clean"] = x
    return Perturbation(x, noise, sigma, tuple(points), torch.cat(list(points.values())))


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of `values · weight`, `(B,)` both: not divided by the weights."""
    return (values if weight is None else values * weight).mean()
