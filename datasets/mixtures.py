"""Mixtures with exact scores at every noise level: truth to compare a learned score with.

A mixture `p = Σ_k w_k p_k` has the noisy density `q_σ = p * N(0, σ²I) = Σ_k w_k q_k`. With the shares
`r_k = w_k q_k / q_σ`, the components' scores `g_k` and their second-order scores `S_k`,

    s1 = Σ_k r_k g_k,    s2 = Σ_k r_k (S_k + (g_k − s1)(g_k − s1)ᵀ),

and s3 is in `datasets.mixture_tensors`.

A component is a Gaussian, a product of one-dimensional densities, or one point of a quadrature along a curve.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from datasets.mixture_tensors import MixtureThird
from linalg import Dense, SymmetricMatrix
from losses.perturbation import noise_level
from models.scores import Scores

__all__ = [
    "CurveMixture",
    "GaussianMixture",
    "LogisticMixture",
    "Mixture",
    "ProductMixture",
    "UniformMixture",
    "multivariate_normal",
]

WIDE = 10  # σ/s from which on the logistic is the narrower factor of the integrand
TAIL = 80.0  # of the logistic's variable: where the Gaussian leaves a tail of e^{−u/2}
ROOT = math.sqrt(2 * math.pi)

Marginals = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class ComponentScores:
    """The components' densities and scores at B points.

    Attributes:
        log_densities: `log q_k`, `(B, K)`.
        s1: g_k, `(B, K, D)`, in 1/units.
        precisions: −S_k, the components' own s2, alike at all points, `(K, D, D)` in 1/units²; None where they differ.
        own_second, own_third: the diagonals of the components' own s2 and s3, which have no other entries, `(B, K, D)`
            in 1/units² and 1/units³; None where there are `precisions`, and s3 is zero.
    """

    log_densities: Tensor
    s1: Tensor
    precisions: Tensor | None = None
    own_second: Tensor | None = None
    own_third: Tensor | None = None

    def curvature(self, shares: Tensor) -> Tensor:
        """`Σ_k r_k S_k`, `(B, D, D)`, from r `(B, K)`."""
        if self.own_second is None:
            return -torch.einsum("bk,kij->bij", shares, self.precisions)
        return torch.diag_embed((shares[:, :, None] * self.own_second).sum(1))


class Mixture:
    """`Σ_k w_k p_k` in D dimensions; a subclass has the components: `log_components`, `component_scores`, `draw`.

    Every method takes points `(B, D)` of any floating type and answers in that type, on their device. σ is one number,
    in the units of the points; 0 stands for the density itself, and what is no such number is a ValueError.

    Args:
        weights: `(K,)`, positive; they are divided by their sum.
        dimension: D.

    Raises:
        ValueError: where a weight is not positive.
    """

    def __init__(self, weights: Tensor | ArrayLike, dimension: int):
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        if not (self.weights > 0).all():
            raise ValueError(f"weights {self.weights.tolist()}; positive ones are expected")
        self.weights = self.weights / self.weights.sum()
        self.dimension = dimension

    @property
    def shape(self) -> tuple[int]:
        """Of a point: `(D,)`."""
        return (self.dimension,)

    def log_components(self, x: Tensor, sigma: float) -> Tensor:
        """`log q_k(x)`, `(B, K)`."""
        raise NotImplementedError

    def component_scores(self, x: Tensor, sigma: float) -> ComponentScores:
        """The components' densities and scores."""
        raise NotImplementedError

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        """A point of each of the components whose numbers `component` `(B,)` lists: `(B, D)`, float64."""
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent points `(count, D)`, float32, on the CPU."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.draw(component, generator).float()

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`log q_σ(x)`, `(B,)`, in nats."""
        return self._log_parts(x, sigma).logsumexp(1)

    def shares(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`r_k`: how likely it is that each component made the noisy point; `(B, K)`, with sum 1."""
        return self._log_parts(x, sigma).softmax(1)

    def _log_parts(self, x: Tensor, sigma: float) -> Tensor:
        """`log w_k q_k(x)`, `(B, K)`."""
        return self.log_components(x, noise_level(sigma, zero=True)) + self.weights.log().to(x)

    def at(self, sigma: float) -> Scores:
        """The exact scores at noise level σ; σ = 0 gives those of the density itself.

        Returns:
            scores whose s2 is dense: `scores(x)` takes both orders from one evaluation of the components, and
            `.s1(x)`, `.s2(x)`, `.s3(x)` are what the methods of those names return. Densities with edges have no
            scores at σ = 0: asked for them, they raise ValueError.
        """
        sigma = noise_level(sigma, zero=True)

        def both(x: Tensor) -> tuple[Tensor, SymmetricMatrix]:
            s1, s2 = self._scores(x, sigma)
            return s1, Dense(s2())

        return Scores(
            sigma,
            lambda x: self.s1(x, sigma),
            lambda x: Dense(self.s2(x, sigma)),
            both,
            self.shape,
            s3=lambda x: self.s3(x, sigma),
        )

    def s1(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`∇ log q_σ(x)`, `(B, D)`, in 1/units of the points."""
        return self._scores(x, sigma)[0]

    def s2(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`∇² log q_σ(x)`, `(B, D, D)`, in 1/units² of the points."""
        return self._scores(x, sigma)[1]()

    def s3(self, x: Tensor, sigma: float = 0.0) -> MixtureThird:
        """`∇³ log q_σ(x)`, in 1/units³ of the points, by its contractions."""
        components, shares, s1 = self._mixed(x, sigma)
        offsets = components.s1 - s1[:, None]
        return MixtureThird(shares, offsets, components.precisions, components.own_second, components.own_third)

    def _scores(self, x: Tensor, sigma: float) -> tuple[Tensor, Callable[[], Tensor]]:
        """s1, and a function that returns s2 from the same evaluation of the components."""
        components, shares, s1 = self._mixed(x, sigma)

        def s2() -> Tensor:
            spread = (components.s1 - s1[:, None]) * shares.sqrt()[:, :, None]
            return components.curvature(shares) + spread.mT @ spread

        return s1, s2

    def _mixed(self, x: Tensor, sigma: float) -> tuple[ComponentScores, Tensor, Tensor]:
        """The components, their shares `(B, K)`, and s1."""
        components = self.component_scores(x, noise_level(sigma, zero=True))
        shares = (components.log_densities + self.weights.log().to(x)).softmax(1)
        return components, shares, (shares[:, :, None] * components.s1).sum(1)


class GaussianMixture(Mixture):
    """`Σ_k w_k N(μ_k, C_k)`; `q_k = N(μ_k, C_k + σ²I)`.

    Args:
        weights: `(K,)`.
        means: μ, `(K, D)`.
        covariances: C, `(K, D, D)`.

    Raises:
        ValueError: where the shapes do not fit, a weight is not positive or a covariance is not positive definite.
    """

    def __init__(self, weights: Tensor | ArrayLike, means: Tensor | ArrayLike, covariances: Tensor | ArrayLike):
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.covariances = torch.as_tensor(covariances, dtype=torch.float64)
        super().__init__(weights, self.means.shape[-1])
        count, dimension = len(self.weights), self.dimension
        if self.means.shape != (count, dimension) or self.covariances.shape != (count, dimension, dimension):
            raise ValueError(
                f"weights {tuple(self.weights.shape)}, means {tuple(self.means.shape)} and covariances "
                f"{tuple(self.covariances.shape)}; (K,), (K, D) and (K, D, D) are expected"
            )
        self.roots, failed = torch.linalg.cholesky_ex(self.covariances)
        if failed.any():
            raise ValueError("a covariance is not positive definite")

    def log_components(self, x: Tensor, sigma: float) -> Tensor:
        return self.component_scores(x, sigma).log_densities

    def component_scores(self, x: Tensor, sigma: float) -> ComponentScores:
        root = torch.linalg.cholesky(self.covariances + sigma**2 * torch.eye(self.dimension, dtype=torch.float64))
        precision = torch.cholesky_inverse(root).to(x)  # (C_k + σ²I)⁻¹
        logdet = -2 * root.diagonal(dim1=1, dim2=2).log().sum(1).to(x)  # of the precision
        offset = self.means.to(x) - x[:, None]
        scores = torch.einsum("kij,bkj->bki", precision, offset)
        log_densities = (logdet - (scores * offset).sum(2) - self.dimension * math.log(2 * math.pi)) / 2
        return ComponentScores(log_densities, scores, precision)

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        z = torch.randn(len(component), self.dimension, 1, generator=generator, dtype=torch.float64)
        points = torch.empty(len(component), self.dimension, dtype=torch.float64)
        for k in component.unique():  # one root at a time: K of them for each point would not fit
            rows = component == k
            points[rows] = self.means[k] + (self.roots[k] @ z[rows])[:, :, 0]
        return points


def multivariate_normal(mean: Tensor | ArrayLike, covariance: Tensor | ArrayLike) -> GaussianMixture:
    """`N(mean, covariance)`, of `(D,)` and `(D, D)`: a mixture of one.

    Raises:
        ValueError: where the shapes do not fit or the covariance is not positive definite.
    """
    return GaussianMixture(torch.ones(1), torch.as_tensor(mean)[None], torch.as_tensor(covariance)[None])


class ProductMixture(Mixture):
    """Components that are products over the dimensions, `q_k(x) = ∏_d f_kd(x_d)`; a subclass has `marginals`."""

    def marginals(self, x: Tensor, sigma: float) -> Marginals:
        """`log f`, and `f'/f`, `f''/f` and `f'''/f` in 1/units, their square and their cube; `(B, K, D)` each."""
        raise NotImplementedError

    def log_components(self, x: Tensor, sigma: float) -> Tensor:
        return self.marginals(x, sigma)[0].sum(2)

    def component_scores(self, x: Tensor, sigma: float) -> ComponentScores:
        log_density, first, second, third = self.marginals(x, sigma)
        own = second - first.square()
        third_cumulant = third - 3 * first * second + 2 * first**3
        return ComponentScores(log_density.sum(2), first, own_second=own, own_third=third_cumulant)


class LogisticMixture(ProductMixture):
    """`Σ_k w_k ∏_d logistic(x_d; m_kd, s_kd)`, whose noisy marginals are integrals over z.

    Args:
        weights: `(K,)`.
        locations: m, `(K, D)`.
        scales: s > 0, `(K, D)` or what expands to it; a marginal's variance is `π²s²/3`.

    Raises:
        ValueError: where a weight or a scale is not positive.

    The integral `f(x) = ∫ logistic(x − σz) φ(z) dz` is taken by the trapezoidal rule. Its integrand is analytic within
    `a = π s/σ` of the real line, so that the error falls like `exp(−2π a/spacing)`, or like `exp(−2π²/spacing²)` where
    a is large: relative to f it is below 1e-12 for σ < s/2 and σ > 3s/2, and at most 2e-10, at σ ≈ 0.8 s. For σ far
    above s it is taken over the logistic's variable, whose density is analytic within π of the real line: 1e-17.

    Source: Trefethen and Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56 (2014), section 5.
    """

    def __init__(self, weights: Tensor | ArrayLike, locations: Tensor | ArrayLike, scales: Tensor | ArrayLike):
        self.locations = torch.as_tensor(locations, dtype=torch.float64)
        self.scales = torch.as_tensor(scales, dtype=torch.float64).expand_as(self.locations)
        super().__init__(weights, self.locations.shape[-1])
        if not (self.scales > 0).all():
            raise ValueError("a scale is not positive")

    def marginals(self, x: Tensor, sigma: float) -> Marginals:
        s = self.scales.to(x)
        distance = x[:, None] - self.locations.to(x)
        if sigma == 0:
            return _logistic(distance, s)
        total = torch.full_like(distance, -torch.inf)
        first = second = third = torch.zeros_like(s)
        # One node at a time, with running means: all of them at once would take (B, K, D, nodes) of memory.
        for log_part, slope, curvature, rate in self._nodes(distance, sigma):
            total = torch.logaddexp(total, log_part)
            share = (log_part - total).exp()
            first = first + share * (slope - first)
            second = second + share * (curvature - second)
            third = third + share * (rate - third)
        return total, first, second, third

    def _nodes(self, distance: Tensor, sigma: float) -> Iterator[Marginals]:
        """The logarithm of the integrand times the spacing, and its `f'/f`, `f''/f` and `f'''/f`, at each node."""
        s = self.scales.to(distance)
        ratio = sigma / float(self.scales.min())
        if ratio > WIDE and float((distance * s).abs().max()) <= sigma**2 / 2:
            spacing = 0.5
            for u in np.arange(-TAIL, TAIL + spacing / 2, spacing):  # the logistic's own variable, x = m + s u
                log_density, *_ = _logistic(torch.full_like(s, u), torch.ones_like(s))
                slope = -(distance - s * u) / sigma**2
                log_part = log_density - (sigma * slope).square() / 2 - math.log(sigma)
                rate = slope**3 - 3 * slope / sigma**2
                yield log_part + math.log(spacing / ROOT), slope, slope.square() - 1 / sigma**2, rate
            return
        spacing = min(0.7, 0.56 / ratio)
        reach = 8.5 + ratio  # in the tail of the logistic the integrand's mass lies around z = σ/s
        for z in np.arange(-reach, reach + spacing / 2, spacing):
            log_density, slope, curvature, rate = _logistic(distance - sigma * z, s)
            yield log_density - z**2 / 2 + math.log(spacing / ROOT), slope, curvature, rate

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(len(component), self.dimension, generator=generator, dtype=torch.float64)
        return self.locations[component] + self.scales[component] * u.clamp(1e-16, 1 - 1e-16).logit()


def _logistic(x: Tensor, s: Tensor) -> Marginals:
    """`log f`, `f'/f`, `f''/f` and `f'''/f` of a logistic density of scale s, at distance x from its centre."""
    u = (x / s).abs()
    slope = torch.tanh(x / s / 2)
    log_density = -u - 2 * torch.log1p((-u).exp()) - s.log()
    return log_density, -slope / s, (1.5 * slope.square() - 0.5) / s.square(), (2 * slope - 3 * slope**3) / s**3


class UniformMixture(ProductMixture):
    """`Σ_k w_k U(a_k, b_k)`, boxes with noisy marginals `[Φ((b−x)/σ) − Φ((a−x)/σ)]/(b−a)`.

    Args:
        weights: `(K,)`.
        lower, upper: corners a < b, `(K, D)`.

    Raises:
        ValueError: where a weight is not positive or a box is empty; and where σ = 0 is asked for: only the noisy
            density is smooth.
    """

    def __init__(self, weights: Tensor | ArrayLike, lower: Tensor | ArrayLike, upper: Tensor | ArrayLike):
        self.lower = torch.as_tensor(lower, dtype=torch.float64)
        self.upper = torch.as_tensor(upper, dtype=torch.float64)
        super().__init__(weights, self.lower.shape[-1])
        if not (self.lower < self.upper).all():
            raise ValueError("a box is empty")

    def marginals(self, x: Tensor, sigma: float) -> Marginals:
        if sigma == 0:
            raise ValueError("a density with edges has no scores without noise; σ > 0 is expected")
        lower, upper = self.lower.to(x), self.upper.to(x)
        a, b = (lower - x[:, None]) / sigma, (upper - x[:, None]) / sigma
        # Φ(b) − Φ(a) as a difference of two small numbers, on whichever side of 0 they are small
        small, large = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)
        log_large = torch.special.log_ndtr(large)
        log_mass = log_large + torch.log1p(-(torch.special.log_ndtr(small) - log_large).exp())
        at_a, at_b = ((-edge.square() / 2 - log_mass).exp() / math.sqrt(2 * math.pi) for edge in (a, b))
        first = (at_a - at_b) / sigma
        second = (a * at_a - b * at_b) / sigma**2
        third = ((a.square() - 1) * at_a - (b.square() - 1) * at_b) / sigma**3
        return log_mass - (upper - lower).log(), first, second, third

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(len(component), self.dimension, generator=generator, dtype=torch.float64)
        return self.lower[component] + (self.upper - self.lower)[component] * u


class CurveMixture(GaussianMixture):
    """Points drawn evenly along circular arcs in the plane, blurred with `N(0, spread²I)`.

    The density is an integral along each arc, taken by Gauss and Legendre's rule with so many nodes that it holds to
    1e-11 of its largest value at σ = 0: a mixture of Gaussians at the nodes. Points are drawn from the arcs themselves.

    Args:
        centers: `(A, 2)`, of the A arcs.
        radii: `(A,)`.
        angles: from and to, `(A, 2)`, in radians.
        spread: standard deviation about the curve, in the units of the points.

    Raises:
        ValueError: where the spread is not positive and finite.

    Source: Trefethen, *Approximation Theory and Approximation Practice* (2013), chapter 19: where the integrand is
    analytic, the error of Gauss's rule falls geometrically with the number of nodes.
    """

    def __init__(
        self, centers: Tensor | ArrayLike, radii: Tensor | ArrayLike, angles: Tensor | ArrayLike, spread: float
    ):
        if not 0 < spread < math.inf:
            raise ValueError(f"spread is {spread}; a positive, finite number is expected")
        self.centers, self.radii, self.angles = (
            torch.as_tensor(values, dtype=torch.float64) for values in (centers, radii, angles)
        )
        self.lengths = self.radii * (self.angles[:, 1] - self.angles[:, 0])
        self.spread = spread
        weights, means = [], []
        for arc, length in enumerate(self.lengths.tolist()):
            nodes, node_weights = np.polynomial.legendre.leggauss(16 + math.ceil(2.2 * length / spread))
            weights.append(length * torch.from_numpy(node_weights))
            means.append(self._along(torch.full((len(nodes),), arc), torch.from_numpy(nodes + 1) / 2))
        count = sum(map(len, weights))
        covariances = (spread**2 * torch.eye(2, dtype=torch.float64)).expand(count, 2, 2)
        super().__init__(torch.cat(weights), torch.cat(means), covariances)

    def _along(self, arc: Tensor, way: Tensor) -> Tensor:
        """The points that lie at `way`, from 0 at its begin to 1 at its end, along each of the arcs listed."""
        begin, end = self.angles[arc].unbind(1)
        angle = begin + (end - begin) * way
        return self.centers[arc] + self.radii[arc, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        arc = torch.multinomial(self.lengths, count, replacement=True, generator=generator)
        on_curve = self._along(arc, torch.rand(count, generator=generator, dtype=torch.float64))
        blur = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return (on_curve + self.spread * blur).float()
