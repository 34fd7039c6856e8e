"""Noisy copies of clean data, `x̃ = x + σz`, laid out for one evaluation of the network."""

import math
import numbers
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from linalg import SymmetricCP, SymmetricMatrix

__all__ = ["Perturbation", "noise_level", "noise_levels", "perturb", "weighted_mean"]

Batch = TypeVar("Batch", Tensor, SymmetricMatrix, SymmetricCP)


@dataclass(frozen=True)
class Perturbation:
    """A batch of clean points, the noise added to them, and all points at which a loss needs the scores.

    Attributes:
        clean: x, shape `(B, D)`.
        noise: z, shape `(B, D)`, standard normal.
        sigma: σ, a float or a tensor of no dimension or `(B, 1)`, in the units of x.
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

    def sigma_power(self, power: int, count: int) -> float | Tensor:
        """`σ^power`, a number, or that of each of `count` points `(count,)`, in the order of `inputs`."""
        if isinstance(self.sigma, Tensor) and self.sigma.ndim:
            return (self.sigma**power).flatten().repeat(count // len(self.sigma))
        return self.sigma**power

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


def noise_level(sigma: float | Tensor, zero: bool = False) -> float:
    """One σ, checked.

    Args:
        sigma: a number, or a tensor of no dimension, in the units of the points.
        zero: whether 0 is taken, which stands for the density itself.

    Returns:
        a float.

    Raises:
        ValueError: where it is not one number, finite and positive.
    """
    shape = tuple(getattr(sigma, "shape", ()))
    if shape:
        raise ValueError(f"sigma has shape {shape}; scores have one noise level, a number is expected")
    try:
        if isinstance(sigma, bool | str):
            raise TypeError
        level = float(sigma)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"sigma is {_said(sigma)}; a number is expected") from None
    if not (0 < level < math.inf or (zero and level == 0)):
        expected = "finite number, not negative," if zero else "positive, finite number"
        raise ValueError(f"sigma is {level:g}; a {expected} is expected")
    return level


def noise_levels(sigma: float | Tensor, x: Tensor | SymmetricMatrix) -> float | Tensor:
    """The σ of each of B points, checked, and in a shape that no other axis is taken for.

    Args:
        sigma: a number, or a tensor or array of no dimension, `(B,)` or `(B, 1)`, in the units of the points.
        x: B points `(B, D)`, or matrices, whose type and device σ is to have.

    Returns:
        a float for a number; else a tensor of no dimension or `(B, 1)`, with the gradient that it had.

    Raises:
        ValueError: where σ has another shape, or one is not positive and finite.
    """
    if isinstance(sigma, numbers.Real | str):
        return noise_level(sigma)
    try:
        levels = torch.as_tensor(sigma)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"sigma is {_said(sigma)}; a number, or one for each point, is expected") from None
    if levels.dtype == torch.bool or levels.is_complex():
        raise ValueError(f"sigma is of type {levels.dtype}; positive, finite numbers are expected")
    count = len(x)
    if levels.shape not in ((), (count,), (count, 1)):
        expected = f"a number, {(count,)} or {(count, 1)} is expected for {count} points"
        raise ValueError(f"sigma has shape {tuple(levels.shape)}; {expected}")
    if not bool(((levels > 0) & (levels < math.inf)).all()):
        low, high = levels.min().item(), levels.max().item()  # NaN, where one is
        raise ValueError(f"sigma lies between {low:g} and {high:g}; positive, finite numbers are expected")
    levels = levels.to(x.device, x.dtype)
    return levels.reshape(-1, 1) if levels.ndim else levels


def _said(value: object) -> str:
    return repr(value) if isinstance(value, str | bool | None) else f"a {type(value).__name__}"


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
        sigma: noise level σ > 0 in the units of x: a float, or a tensor of no dimension, `(B,)` or `(B, 1)`.
        antithetic: add the mirrored points x − σz.
        noise: z, shape `(B, D)`; drawn from N(0, I) where it is not given.
        with_clean: add x itself, the centre of the control variates of Meng et al. 2021, section 4;
            by default where `antithetic` is.

    Returns:
        a `Perturbation` whose `inputs` are `(B, D)`, or `(3B, D)` in the order x + σz, x − σz, x.

    Raises:
        ValueError: where x is not `(B, D)` floats, noise has another shape, or σ does not fit or is not positive.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x is of type {kind}; a tensor of floats (B, D) is expected")
    if x.ndim != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; flatten each point to get (B, D)")
    if noise is None:
        noise = torch.randn_like(x)
    if noise.shape != x.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, x has {tuple(x.shape)}")
    sigma = noise_levels(sigma, x)
    points = {"plus": x + sigma * noise}
    if antithetic:
        points["minus"] = x - sigma * noise
    if antithetic if with_clean is None else with_clean:
        points["clean"] = x
    return Perturbation(x, noise, sigma, tuple(points), torch.cat(list(points.values())))


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of `values · weight`, `(B,)` both: not divided by the weights.

    Raises:
        ValueError: where the weights have another shape: `(B, 1)` would give each value every weight.
    """
    if weight is not None and weight.shape != values.shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; {tuple(values.shape)} is expected, one for each point"
        )
    return (values if weight is None else values * weight).mean()
