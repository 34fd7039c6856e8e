"""Distributions of one number, by its mean, standard deviation and skewness: two halves of normal distributions.

With `δ = s₂ − s₁` and a mode at 0, the density is `√(2/π)/(s₁ + s₂) · exp(−t²/2s²)`, s = s₁ below the mode and s₂
above:

    mean = √(2/π) δ,    variance = (1 − 2/π) δ² + s₁s₂,    third cumulant = √(2/π) δ ((4/π − 1) δ² + s₁s₂)

Source: John, *The three-parameter two-piece normal family of distributions and its fitting*, Commun. Stat. 1982;
Wallis, *The two-piece normal, binormal, or double Gaussian distribution*, Statistical Science 2014.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

__all__ = ["SKEWNESS_LIMIT", "SplitNormal"]

SKEWNESS_LIMIT = 0.7
ATTAINABLE = 0.995
ROOT = math.sqrt(2 / math.pi)
CURVE = 2 - 6 / math.pi
NEWTON_STEPS = 12


@dataclass(frozen=True)
class SplitNormal:
    """A normal distribution on either side of its mode, of another width each; the normal one where they are equal.

    Every method takes and returns tensors that broadcast with those of the distribution.

    Attributes:
        mode: where the halves meet, in the units of the variable.
        lower, upper: s₁ and s₂, the standard deviations that the halves have as wholes, likewise; positive.
        clipped: where a skewness beyond the limit was taken for that.
    """

    mode: Tensor
    lower: Tensor
    upper: Tensor
    clipped: Tensor

    @classmethod
    def of_moments(cls, mean: Tensor, std: Tensor, skewness: Tensor, limit: float = SKEWNESS_LIMIT) -> "SplitNormal":
        """The distribution of these three moments.

        Args:
            mean, std: of any one shape; std positive.
            skewness: third cumulant over the cube of std. This family has none beyond 0.9953, where one half has no
                width: there the density has an edge, beyond which anything that happens was impossible.
            limit: what is beyond ±limit is taken for that; below 0.995.

        Raises:
            ValueError: where limit is not from 0 to 0.995, a std is not positive, or a moment is not a number.
        """
        if not 0 <= limit <= ATTAINABLE:
            raise ValueError(f"limit is {limit}; a skewness from 0 to {ATTAINABLE} can be had")
        if not bool((std > 0).all()) or bool((mean + skewness).isnan().any()):
            raise ValueError("a std is not positive, or a moment is not a number")
        within = skewness.clamp(-limit, limit)
        delta = within / ROOT
        for _ in range(NEWTON_STEPS):  # of skewness = √(2/π) (δ − (2 − 6/π) δ³), which rises with δ
            delta = delta - (delta - CURVE * delta**3 - within / ROOT) / (1 - 3 * CURVE * delta.square())
        product = 1 - (1 - 2 / math.pi) * delta.square()
        larger = (delta.abs() + (delta.square() + 4 * product).sqrt()) / 2
        smaller = product / larger
        lower, upper = torch.where(delta > 0, smaller, larger), torch.where(delta > 0, larger, smaller)
        return cls(mean - ROOT * delta * std, lower * std, upper * std, skewness.abs() > limit)

    @property
    def mean(self) -> Tensor:
        return self.mode + ROOT * (self.upper - self.lower)

    @property
    def std(self) -> Tensor:
        spread = self.upper - self.lower
        return ((1 - 2 / math.pi) * spread.square() + self.lower * self.upper).sqrt()

    @property
    def skewness(self) -> Tensor:
        spread = self.upper - self.lower
        third = ROOT * spread * ((4 / math.pi - 1) * spread.square() + self.lower * self.upper)
        return third / self.std**3

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at x, in nats."""
        t = x - self.mode
        width = torch.where(t < 0, self.lower, self.upper)
        return math.log(ROOT) - (self.lower + self.upper).log() - (t / width).square() / 2

    def cdf(self, x: Tensor) -> Tensor:
        """The probability of less than x."""
        t, total = x - self.mode, self.lower + self.upper
        below = 2 * self.lower / total * ndtr(t.clamp(max=0) / self.lower)
        return below + 2 * self.upper / total * (ndtr(t.clamp(min=0) / self.upper) - 0.5)

    def quantile(self, level: Tensor | float) -> Tensor:
        """The x below which lies a share `level` between 0 and 1; NaN for other levels."""
        device = self.mode.device if self.mode.device.type != "mps" else "cpu"
        level = torch.as_tensor(level, dtype=torch.float64, device=device)
        total = self.lower + self.upper
        below = level.to(self.mode) * total / (2 * self.lower)
        above = (1 - level).to(self.mode) * total / (2 * self.upper)  # while it has the digits of a level near 1
        return self.mode + torch.where(
            below < 0.5, self.lower * ndtri(below.clamp(max=0.5)), -self.upper * ndtri(above.clamp(max=0.5))
        )

    def crps(self, x: Tensor) -> Tensor:
        """The continuous ranked probability score `∫ (F(t) − 1{t ≥ x})² dt`, in the units of the variable; less is
        better.

        With a = 2s/(s₁ + s₂) of the half that x lies in, and y = |x − mode|,
        `y + (a₁²s₁ + a₂²s₂) (1/√2π − 1/2√π) − 2as (1/√2π − g(−y/s))`, g(u) = uΦ(u) + φ(u).

        Source: Gneiting and Raftery 2007, section 4; for this family, Gneiting and Thorarinsdottir, arXiv 1003.2318.
        """
        t, total = x - self.mode, self.lower + self.upper
        width = torch.where(t < 0, self.lower, self.upper)
        u = -t.abs() / width
        g = u * ndtr(u) + (-u.square() / 2).exp() / math.sqrt(2 * math.pi)
        halves = 4 * (self.lower**3 + self.upper**3) / total.square()
        constant = 1 / math.sqrt(2 * math.pi) - 1 / (2 * math.sqrt(math.pi))
        return t.abs() + halves * constant - 4 * width.square() / total * (1 / math.sqrt(2 * math.pi) - g)
