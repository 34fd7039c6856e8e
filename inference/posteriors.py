"""The clean point given the noisy one: mean, spread, directions and samples of its Gaussian approximation, and how
skewed it is."""

import math
import numbers
import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from inference.arguments import noise_of, points_of, positive_number, whole_number
from inference.marginals import SplitNormal
from inference.regions import Where, entries_of, region_of, restricted_scores
from inference.tweedie import posterior_covariance, posterior_mean
from linalg import (
    Jacobian,
    MatrixDerivative,
    SecondDerivative,
    SymmetricMatrix,
    SymmetricTensor,
    hutchinson_diagonal,
    refine_eigenpairs,
    restrict,
)
from models import Scores

__all__ = ["Posterior", "posterior"]

FLOOR = 1e-6
PROBES = 64


@dataclass(frozen=True)
class Posterior:
    """`N(E[x|x̃], Cov[x|x̃])` at B noisy points, and the third cumulant beside it.

    A learned covariance can have negative variances. What needs positive ones takes those below `floor` for `floor`,
    and says how many there were in a `RuntimeWarning`; `covariance` itself stays as it was predicted.

    Attributes:
        mean: `E[x|x̃]`, `(B, D)`, in the units of the data.
        covariance: `Cov[x|x̃]`, as predicted, in their square: of the kind of s2, or a `linalg.Jacobian` where there is
            none.
        noisy: x̃, `(B, D)`.
        scores: the scores that gave it.
        floor: the smallest variance, in the squared units of x.
        progress: show a bar, on a terminal, where variances take many products with a Jacobian.
    """

    mean: Tensor
    covariance: SymmetricMatrix
    noisy: Tensor
    scores: Scores
    floor: float
    progress: bool = False

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> "Posterior":
        """The posteriors of some of the points: a slice, a list of numbers, or a mask.

        Raises:
            ValueError: for the number of one point, whose batch axis would be lost.
        """
        if isinstance(rows, int) or getattr(rows, "shape", None) == ():
            number = int(rows)  # type: ignore[arg-type]
            raise ValueError(
                f"posterior[{number}] has no axis B; a slice is expected: posterior[{number}:{number + 1}]"
            )
        return replace(self, mean=self.mean[rows], covariance=self.covariance[rows], noisy=self.noisy[rows])

    @property
    def sigma(self) -> float:
        """The noise level σ, in the units of the data."""
        return self.scores.sigma

    @cached_property
    def _diagonal(self) -> tuple[Tensor, Tensor]:
        """The diagonal of the covariance and the standard error of each entry, `(B, D)` each."""
        if self.covariance.products_only and self.covariance.dimension > PROBES:
            generator = torch.Generator(self.noisy.device).manual_seed(0)
            return hutchinson_diagonal(self.covariance, PROBES, generator, self.progress)
        diagonal = self.covariance.diagonal()
        return diagonal, torch.zeros_like(diagonal)

    @property
    def clipped(self) -> Tensor:
        """How many of a point's D predicted variances lie below `floor`, `(B,)`."""
        return (self._diagonal[0] < self.floor).sum(1)

    def variance(self) -> Tensor:
        """The variance of each entry, `(B, D)`, in the squared units of the data, none below `floor`."""
        return self._clip(self._diagonal[0], "predicted variances")

    def std(self) -> Tensor:
        """The standard deviation of each entry, `(B, D)`, in the units of the data."""
        return self.variance().sqrt()

    def standard_error(self) -> Tensor:
        """Of `std`, `(B, D)`, to first order: zero where s2 gives the variances, or where there are at most 64 entries,
        and Hutchinson's, over 64 random probes, where they come from the Jacobian of s1."""
        return self._diagonal[1] / (2 * self._diagonal[0].clamp(min=self.floor).sqrt())

    @cached_property
    def third_cumulant(self) -> SymmetricTensor:
        """`κ3 = σ⁶ s3`, a symmetric tensor of order 3, in the cubed units of the data. Where there is no s3, the
        derivative of s2 stands for it, and where there is none either the second derivative of s1: known by products
        alone, each of several evaluations of the network."""
        if self.scores.s3 is None:
            return self._differentiated
        with torch.no_grad():
            return self.scores.s3(self.noisy) * self.sigma**6

    @property
    def _differentiated(self) -> SymmetricTensor:
        """κ3 by differentiation of the lower orders."""
        scores, power = self.scores, self.sigma**6
        if scores.s2 is not None:
            return MatrixDerivative(scores.s2, self.noisy, power)
        return SecondDerivative(scores.s1, self.noisy, power)

    @torch.no_grad()
    def skewness(self, directions: Tensor | None = None, differentiate: bool = False) -> Tensor:
        """`κ3/κ2^{3/2}`, without units, of each entry or along directions: positive where more is less surprising than
        less.

        Args:
            directions: `(B, D)`, or `(B, D, k)` such as `principal_components` gives, of any length but zero.
            differentiate: take the derivative of s2 along each direction in place of s3: slower, and on the models of
                `checkpoints` better.

        Returns:
            of each entry, `(B, D)`, or of each direction, `(B,)` or `(B, k)`. Where there is no s3, every entry and
            direction costs a derivative of s2, or two of s1.

        Raises:
            ValueError: where the directions are not of that shape, or one has no length; or to differentiate without
                directions.

        Source: Meng et al. 2021, theorem 2; along a direction without s3, Manor and Michaeli, ICLR 2024, section 4.
        """
        if directions is None:
            if differentiate:
                raise ValueError("differentiate is true and there are no directions; give some, or leave it out")
            return self.third_cumulant.diagonal() / self.variance() ** 1.5
        variance, third = self._along(directions, differentiate)
        return third / variance**1.5

    @torch.no_grad()
    def marginal(self, directions: Tensor | None = None, differentiate: bool = False) -> SplitNormal:
        """The distribution of each entry, or of how far the clean point lies from the mean along directions: one of
        these three moments, see `SplitNormal`, its skewness clipped at ±0.7 (`.clipped` says where).

        Args:
            directions, differentiate: see `skewness`.

        Returns:
            of each entry, about the mean, `(B, D)` in the units of the data; or of `v·(x − mean)` for each direction v
            as of unit length, about zero, `(B,)` or `(B, k)`, in the same units.

        Raises:
            ValueError: see `skewness`.
        """
        if directions is None:
            return SplitNormal.of_moments(self.mean, self.std(), self.skewness(None, differentiate))
        variance, third = self._along(directions, differentiate)
        return SplitNormal.of_moments(torch.zeros_like(variance), variance.sqrt(), third / variance**1.5)

    def _along(self, directions: Tensor, differentiate: bool) -> tuple[Tensor, Tensor]:
        """`vᵀκ2v`, none below the floor, and `κ3(v, v, v)` for directions as of unit length."""
        given = torch.as_tensor(directions)
        if given.shape[:2] != self.mean.shape or given.ndim > 3 or given.is_complex():
            size = ", ".join(map(str, self.mean.shape))
            raise ValueError(f"directions have shape {tuple(given.shape)}; ({size}) or ({size}, k), real, is expected")
        scale = given.abs().amax(1, keepdim=True)
        if not bool((scale > 0).all() and scale.isfinite().all()):
            raise ValueError("directions have no length, or are not finite; any other vectors are expected")
        scaled = (given / scale).to(self.mean)
        unit = scaled / scaled.norm(dim=1, keepdim=True)
        third = self._differentiated if differentiate else self.third_cumulant
        return self._clip(self.covariance.quadratic(unit), "variances along directions"), third.form(unit)

    def interval(self, level: float = 0.9, skewed: bool | None = None) -> tuple[Tensor, Tensor]:
        """The central interval of each entry that holds it with probability `level`: its ends, `(B, D)` each.

        Args:
            level: (1 − level)/2 lies below the interval, and as much above.
            skewed: that of `marginal`, whose two ends may be of different distance from the mean; by default where s3
                is known. False: that of the normal distribution.

        Raises:
            ValueError: where level is not between 0 and 1.
        """
        if not isinstance(level, numbers.Real) or not 0 < level < 1:
            raise ValueError(f"level is {level}; a probability between 0 and 1 is expected")
        if skewed is None:
            skewed = self.scores.s3 is not None
        if skewed:
            marginal = self.marginal()
            return marginal.quantile((1 - level) / 2), marginal.quantile((1 + level) / 2)
        width = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item() * self.std()
        return self.mean - width, self.mean + width

    @torch.no_grad()
    def principal_components(self, k: int, refine: int = 0, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k directions in which the clean point may differ most.

        Args:
            k: how many.
            refine: steps with the covariance that s1 alone implies, `σ⁴∇s1 + σ²I`: k Jacobian-vector products of s1
                each, by which the predicted covariance is corrected (`linalg.refine_eigenpairs`).
            tolerance: see `linalg.SymmetricMatrix.eigh_top`: 0.05 is quick, and loses less than 1 % of the energy.

        Returns:
            variances `(B, k)`, descending, none below `floor`; and orthonormal directions `(B, D, k)`, the largest
            entry of each positive.

        Raises:
            ValueError: where k is not from 1 to D, see `linalg.SymmetricMatrix.eigh_top`; or to refine where there is
                no s2: its components are those of the Jacobian already.

        Source: for components from products with the Jacobian, Manor and Michaeli, ICLR 2024; the correction is ours.
        """
        whole_number("k", k, least=1)
        if whole_number("refine", refine) and self.covariance.products_only:
            raise ValueError("refine: without s2 the components come from the Jacobian of s1 already; leave it out")
        if refine:
            implied = posterior_covariance(Jacobian(self.scores.s1, self.noisy), self.sigma)
            variances, directions = refine_eigenpairs(self.covariance, implied.__matmul__, k, refine, tolerance)
        else:
            variances, directions = self.covariance.eigh_top(k, tolerance)
        return self._clip(variances, "variances of components"), with_fixed_sign(directions)

    def region(self, where: Where) -> "Posterior":
        """The posterior of a region's pixels, given the whole picture.

        The components of a whole photograph mean little: its far parts are independent. Those of a region tell what it
        may be. Refined components, and all that is asked without s2, take products with the Jacobian of the region
        alone; where s1 is local (`models.Locality`) they cost no more in a large picture than in a small one.

        Args:
            where: (top, left, height, width) in pixels, or a mask `(H, W)` of type bool, a tensor or an array.

        Returns:
            of the entries of its pixels, in all channels, in the order of the picture: `(1, C·height·width)` for a box.

        Raises:
            ValueError: where there is more than one picture, they are no pictures, or the region does not lie in it.
        """
        shape = self.scores.shape
        if len(self) != 1 or shape is None or len(shape) != 3:
            given = f"{len(self)} points of shape {shape}"
            raise ValueError(f"{given}; one picture (C, H, W) is expected, posterior[i : i + 1] of several")
        picture = (shape[0], shape[1], shape[2])
        box, mask = region_of(where, picture)
        entries = entries_of(box, mask, picture).to(self.noisy.device)
        scores = restricted_scores(self.scores, self.noisy, box, mask, picture)
        noisy = self.noisy[:, entries]
        if self.covariance.products_only:
            covariance = posterior_covariance(Jacobian(scores.s1, noisy), self.sigma)
        else:
            covariance = restrict(self.covariance, entries)
        return replace(self, mean=self.mean[:, entries], covariance=covariance, noisy=noisy, scores=scores)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` draws for every point, `(n, B, D)`; the part `diag(α)` of the covariance is clipped at `floor`.

        Without s2 the root of the covariance comes from products with the Jacobian of s1, negative eigenvalues are
        taken for zero, and a draw costs dozens of products.

        Raises:
            ValueError: where n is not a whole number, 1 or more.
        """
        whole_number("n", n, least=1)
        positive = self.covariance if self.covariance.products_only else self._positive()
        return self.mean + positive.draw(n, generator)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density in nats at one clean point `(B, D)` for each noisy one, `(B,)`; clipped as in `sample`.

        Raises:
            ValueError: where there is no s2: products with a Jacobian give no determinant; or x is not such points.
        """
        if self.covariance.products_only:
            raise ValueError("log_prob: without s2 there are only products with the Jacobian of s1, no determinant")
        x = points_of(self.scores, x, "x").to(self.mean)
        if x.shape != self.mean.shape:
            expected = f"{tuple(self.mean.shape)} is expected, a clean point for each noisy one"
            raise ValueError(f"x has shape {tuple(x.shape)}; {expected}")
        positive = self._positive()
        error = x - self.mean
        mahalanobis = (error * positive.solve(error)).sum(1)
        return -(mahalanobis + positive.logdet() + x.shape[1] * math.log(2 * math.pi)) / 2

    def _positive(self) -> SymmetricMatrix:
        positive, below = self.covariance.clamp(self.floor)
        self._warn_of(below, positive.dimension * len(self), "entries of the covariance's diagonal part")
        return positive

    def _clip(self, variances: Tensor, what: str) -> Tensor:
        self._warn_of(int((variances < self.floor).sum()), variances.numel(), what)
        return variances.clamp(min=self.floor)

    def _warn_of(self, below: int, count: int, what: str) -> None:
        if below:
            warnings.warn(
                f"{below} of {count} {what} lie below {self.floor:.3g} and are taken for that",
                RuntimeWarning,
                stacklevel=4,
            )


@torch.no_grad()
def posterior(scores: Scores, noisy: Tensor, floor: float | None = None, progress: bool = False) -> Posterior:
    """The posterior of the clean points, from the scores at their noise level.

    Args:
        scores: where they have no s2, the covariance is that of the Jacobian of s1, by its products, as Manor and
            Michaeli take it: the same answers, slower.
        noisy: x̃, floats `(B, D)` or images `(B, C, H, W)` in the units of the scores: a tensor, an array or a list,
            converted to the type of the network and brought to its device.
        floor: the smallest variance; by default one millionth of σ².
        progress: where variances come from products with the Jacobian, show a bar with the time that is left, on a
            terminal.

    Returns:
        a `Posterior`, evaluated in one call of the network where it gives both orders; no gradients are tracked.

    Raises:
        ValueError: where `noisy` is not such points, or not finite; the floor is not positive; or the scores are those
            of the density itself, σ = 0.

    Source: Tweedie's formula; Meng et al. 2021, theorem 1 and section 5.
    """
    noisy = points_of(scores, noisy)
    sigma = noise_of(scores)
    s1, s2 = scores(noisy)
    curvature = Jacobian(scores.s1, noisy) if s2 is None else s2
    return Posterior(
        posterior_mean(s1, noisy, sigma),
        posterior_covariance(curvature, sigma),
        noisy,
        scores,
        FLOOR * sigma**2 if floor is None else positive_number("floor", floor),
        progress,
    )


def with_fixed_sign(directions: Tensor) -> Tensor:
    """Directions `(B, D, k)` turned so that the largest entry of each is positive."""
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * largest.sign()
