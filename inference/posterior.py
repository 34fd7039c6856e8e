"""The Gaussian approximation of the clean point given the noisy one: mean, spread, directions, samples."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import losses
import models
from inference.jacobian import jacobian_product
from inference.subspace import subspace_iteration
from models import DiagonalPlusLowRank

__all__ = ["Posterior", "posterior"]

FLOOR = 1e-6


@dataclass(frozen=True)
class Posterior:
    """`N(E[x|x̃], Cov[x|x̃])` at B noisy points.

    A learned covariance can have negative variances. What needs positive ones takes those below `floor` for `floor`,
    and says how many there were in a `RuntimeWarning`; `covariance` itself stays as it was predicted.

    Attributes:
        mean: `E[x|x̃]`, `(B, D)`.
        covariance: `Cov[x|x̃]`, as predicted.
        noisy: x̃, `(B, D)`.
        sigma: σ, a float or `(B, 1)`.
        floor: the smallest variance, in the squared units of x.
        s1: the score as a function, where it was given as one.
    """

    mean: Tensor
    covariance: DiagonalPlusLowRank
    noisy: Tensor
    sigma: float | Tensor
    floor: float
    s1: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows) -> "Posterior":
        """The posteriors of some of the points: a slice, a list of numbers, or a mask."""
        sigma = self.sigma[rows] if isinstance(self.sigma, Tensor) and self.sigma.ndim else self.sigma
        return Posterior(self.mean[rows], self.covariance[rows], self.noisy[rows], sigma, self.floor, self.s1)

    @property
    def clipped(self) -> Tensor:
        """How many of a point's D predicted variances lie below `floor`, `(B,)`."""
        return (self.covariance.full_diagonal() < self.floor).sum(1)

    def variance(self) -> Tensor:
        """The variance of each entry, `(B, D)`, none below `floor`."""
        return self._clip(self.covariance.full_diagonal(), "predicted variances")

    def std(self) -> Tensor:
        """The standard deviation of each entry, `(B, D)`."""
        return self.variance().sqrt()

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The central interval of each entry that holds it with probability `level`: its ends, `(B, D)` each.

        Raises:
            ValueError: where level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; a probability between 0 and 1 is wanted")
        width = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item() * self.std()
        return self.mean - width, self.mean + width

    def principal_components(self, k: int, refine: int = 0) -> tuple[Tensor, Tensor]:
        """The k directions in which the clean point may differ most.

        Args:
            k: how many.
            refine: steps of subspace iteration with the covariance that s1 alone implies, `σ⁴∇s1 + σ²I`, started from
                the predicted directions; k Jacobian-vector products of s1 a step.

        Returns:
            variances `(B, k)`, descending, none below `floor`; and orthonormal directions `(B, D, k)`, the largest
            entry of each positive.

        Raises:
            ValueError: as of `DiagonalPlusLowRank.eigh_top`; or to refine where s1 was given as values.

        Source: the iteration is that of Manor and Michaeli, ICLR 2024, with Jacobian-vector products in place of
            finite differences, and with a start.
        """
        variances, directions = self.covariance.eigh_top(k)
        if refine:
            if self.s1 is None:
                raise ValueError("to refine, s1 is wanted as a function, not as its values")

            def multiply(v: Tensor, rows: Tensor) -> Tensor:
                x = self.noisy[rows]
                sigma = self.sigma[rows, :, None] if isinstance(self.sigma, Tensor) and self.sigma.ndim else self.sigma
                return sigma**2 * v + sigma**4 * jacobian_product(self.s1, x, v)

            variances, directions, _ = subspace_iteration(multiply, directions, refine)
        return self._clip(variances, "variances of components"), with_fixed_sign(directions)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` draws for every point, `(n, B, D)`; the part `diag(α)` of the covariance is clipped at `floor`."""
        positive = self._positive()
        shape = (n, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        draws = self.mean + positive.diagonal.sqrt() * noise
        if positive.factor is None:
            return draws
        shape = (n, len(self), positive.factor.shape[2], 1)
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return draws + (positive.factor @ noise)[..., 0]

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density at one clean point `(B, D)` for each noisy one, `(B,)`; clipped as in `sample`."""
        positive = self._positive()
        error = x - self.mean
        mahalanobis = (error * positive.solve(error)).sum(1)
        return -(mahalanobis + positive.logdet() + x.shape[1] * math.log(2 * math.pi)) / 2

    def _positive(self) -> DiagonalPlusLowRank:
        clipped = self._clip(self.covariance.diagonal, "entries of the covariance's diagonal part")
        return DiagonalPlusLowRank(clipped, self.covariance.factor)

    def _clip(self, variances: Tensor, what: str) -> Tensor:
        if below := int((variances < self.floor).sum()):
            warnings.warn(
                f"{below} of {variances.numel()} {what} lie below {self.floor:.3g} and are taken for that",
                RuntimeWarning,
                stacklevel=3,
            )
        return variances.clamp(min=self.floor)


@torch.no_grad()
def posterior(
    s1: Callable[[Tensor], Tensor] | Tensor,
    s2: Callable[[Tensor], DiagonalPlusLowRank | Tensor] | DiagonalPlusLowRank | Tensor,
    x_noisy: Tensor,
    sigma: float | Tensor,
    floor: float | None = None,
) -> Posterior:
    """The posterior of the clean points, from both scores.

    Args:
        s1: the score, a function of points `(B, D)` or its values at them.
        s2: the second-order score, likewise; a dense `(B, D, D)` is taken too.
        x_noisy: x̃, `(B, D)`.
        sigma: σ, a float or `(B, 1)`, in the units of x̃.
        floor: the smallest variance; by default one millionth of σ² (of the largest, where there are several).

    Returns:
        a `Posterior`, evaluated in one call of the network where s1 and s2 are the two of one shared trunk.

    Raises:
        ValueError: where there is no s2.

    Source: Tweedie's formula; Meng et al. 2021, theorem 1 and section 5.
    """
    if callable(s1) and callable(s2):
        score, curvature = models.evaluate(s1, s2, x_noisy)
    else:
        score = s1(x_noisy) if callable(s1) else s1
        curvature = s2(x_noisy) if callable(s2) else s2
    if curvature is None:
        raise ValueError("s2 is None: the model has no second order; inference.jacobian of its s1 can be given for it")
    if isinstance(curvature, Tensor):
        curvature = DiagonalPlusLowRank.from_dense(curvature)
    if floor is None:
        floor = FLOOR * float(torch.as_tensor(sigma).max()) ** 2
    return Posterior(
        losses.posterior_mean(score, x_noisy, sigma),
        losses.posterior_covariance(curvature, sigma),
        x_noisy,
        sigma,
        floor,
        s1 if callable(s1) else None,
    )


def with_fixed_sign(directions: Tensor) -> Tensor:
    """Directions `(B, D, k)` turned so that the largest entry of each is positive."""
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * largest.sign()
