"""Densities whose noisy scores are known exactly: truth to compare a learned score with.

Each is a mixture `p = Σ_k w_k p_k`, and so is its noisy density `q_σ = p * N(0, σ²I) = Σ_k w_k q_k`. With the shares
`r_k = w_k q_k / q_σ`, the components' scores `g_k` and their second-order scores `S_k`,

    s1 = Σ_k r_k g_k,    s2 = Σ_k r_k (S_k + (g_k − s1)(g_k − s1)ᵀ).

A component is a Gaussian, a product of one-dimensional densities, or one point of a quadrature along a curve.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "DENSITIES",
    "CurveMixture",
    "DensityData",
    "GaussianMixture",
    "LogisticMixture",
    "Mixture",
    "UniformMixture",
    "checkerboard",
    "correlated_normal",
    "gaussians",
    "logistics",
    "multivariate_normal",
    "rings",
    "two_moons",
]


class Mixture:
    """`Σ_k w_k p_k` in D dimensions; subclasses have the components.

    Every method takes points `(B, D)` of any floating type and answers in that type; σ is in the units of the
    points, 0 for the density itself.

    Args:
        weights: `(K,)`, positive; they are divided by their sum.
        dimension: D.

    Raises:
        ValueError: where a weight is not positive.
    """

    def __init__(self, weights: Tensor, dimension: int):
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        if not (self.weights > 0).all():
            raise ValueError(f"weights {self.weights.tolist()}; positive ones are wanted")
        self.weights = self.weights / self.weights.sum()
        self.dimension = dimension

    def log_components(self, x: Tensor, sigma: float) -> Tensor:
        """`log q_k(x)`, `(B, K)`."""
        raise NotImplementedError

    def component_scores(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """`log q_k` `(B, K)`, `g_k` `(B, K, D)`, and a function from shares r `(B, K)` to `Σ_k r_k S_k` `(B, D, D)`."""
        raise NotImplementedError

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        """A point of each of the named components, float64."""
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent points `(count, D)`, float32."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.draw(component, generator).float()

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`log q_σ(x)`, `(B,)`."""
        return (self.log_components(x, sigma) + self.weights.log().to(x)).logsumexp(1)

    def shares(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`r_k`: how likely each component is, given the noisy point; `(B, K)`."""
        return (self.log_components(x, sigma) + self.weights.log().to(x)).softmax(1)

    def s1(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`∇ log q_σ(x)`, `(B, D)`."""
        return self._scores(x, sigma)[0]

    def s2(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """`∇² log q_σ(x)`, `(B, D, D)`."""
        s1, shares, scores, curvature = self._scores(x, sigma)
        spread = (scores - s1[:, None]) * shares.sqrt()[:, :, None]
        return curvature(shares) + spread.mT @ spread

    def _scores(self, x: Tensor, sigma: float):
        log_densities, scores, curvature = self.component_scores(x, sigma)
        shares = (log_densities + self.weights.log().to(x)).softmax(1)
        return (shares[:, :, None] * scores).sum(1), shares, scores, curvature


class GaussianMixture(Mixture):
    """`Σ_k w_k N(μ_k, C_k)`; `q_k = N(μ_k, C_k + σ²I)`.

    Args:
        weights: `(K,)`.
        means: μ, `(K, D)`.
        covariances: C, `(K, D, D)`.

    Raises:
        ValueError: where the shapes do not fit or a covariance is not positive definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.covariances = torch.as_tensor(covariances, dtype=torch.float64)
        super().__init__(weights, self.means.shape[-1])
        count, dimension = len(self.weights), self.dimension
        if self.means.shape != (count, dimension) or self.covariances.shape != (count, dimension, dimension):
            raise ValueError(
                f"weights {tuple(self.weights.shape)}, means {tuple(self.means.shape)} and covariances "
                f"{tuple(self.covariances.shape)}; (K,), (K, D) and (K, D, D) are wanted"
            )
        self.roots, failed = torch.linalg.cholesky_ex(self.covariances)
        if failed.any():
            raise ValueError("a covariance is not positive definite")

    def _noisy(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """`(C_k + σ²I)⁻¹` `(K, D, D)`, `log det` of it `(K,)`, and `g_k` at x."""
        noisy = self.covariances + sigma**2 * torch.eye(self.dimension, dtype=torch.float64)
        root = torch.linalg.cholesky(noisy)
        precision = torch.cholesky_inverse(root).to(x)
        logdet = -2 * root.diagonal(dim1=1, dim2=2).log().sum(1).to(x)
        scores = torch.einsum("kij,bkj->bki", precision, self.means.to(x) - x[:, None])
        return precision, logdet, scores

    def log_components(self, x: Tensor, sigma: float) -> Tensor:
        return self.component_scores(x, sigma)[0]

    def component_scores(self, x: Tensor, sigma: float):
        precision, logdet, scores = self._noisy(x, sigma)
        quadratic = (scores * (self.means.to(x) - x[:, None])).sum(2)
        log_densities = (logdet - quadratic - self.dimension * math.log(2 * math.pi)) / 2
        return log_densities, scores, lambda shares: -torch.einsum("bk,kij->bij", shares, precision)

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        z = torch.randn(len(component), self.dimension, 1, generator=generator, dtype=torch.float64)
        points = torch.empty(len(component), self.dimension, dtype=torch.float64)
        for k in component.unique():  # one root at a time: K of them for each point would not fit
            mine = component == k
            points[mine] = self.means[k] + (self.roots[k] @ z[mine])[:, :, 0]
        return points


def multivariate_normal(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    """`N(mean, covariance)`, of `(D,)` and `(D, D)`: a mixture of one."""
    return GaussianMixture(torch.ones(1), torch.as_tensor(mean)[None], torch.as_tensor(covariance)[None])


class ProductMixture(Mixture):
    """Components that are products over the dimensions, `q_k(x) = ∏_d f_kd(x_d)`."""

    def marginals(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """`log f`, `f'/f` and `f''/f`, `(B, K, D)` each."""
        raise NotImplementedError

    def log_components(self, x: Tensor, sigma: float) -> Tensor:
        return self.marginals(x, sigma)[0].sum(2)

    def component_scores(self, x: Tensor, sigma: float):
        log_density, first, second = self.marginals(x, sigma)
        own = second - first.square()
        return log_density.sum(2), first, lambda r: torch.diag_embed((r[:, :, None] * own).sum(1))


class LogisticMixture(ProductMixture):
    """`Σ_k w_k ∏_d logistic(x_d; m_kd, s_kd)`, whose noisy marginals are integrals over z.

    Args:
        weights: `(K,)`.
        locations: m, `(K, D)`.
        scales: s > 0, `(K, D)`; a marginal's variance is `π²s²/3`.

    The integral `f(x) = ∫ logistic(x − σz) φ(z) dz` is taken by the trapezoidal rule, whose error falls exponentially
    with the number of nodes: the integrand is analytic within `π s/σ` of the real line, and the spacing is chosen for
    an error below 1e-14.
    """

    def __init__(self, weights: Tensor, locations: Tensor, scales: Tensor):
        self.locations = torch.as_tensor(locations, dtype=torch.float64)
        self.scales = torch.as_tensor(scales, dtype=torch.float64).expand_as(self.locations)
        super().__init__(weights, self.locations.shape[-1])
        if not (self.scales > 0).all():
            raise ValueError("a scale is not positive")

    def marginals(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        s = self.scales.to(x)
        distance = x[:, None] - self.locations.to(x)
        if sigma == 0:
            return _logistic(distance, s)
        ratio = sigma / float(self.scales.min())
        spacing = min(0.7, 0.56 / ratio)
        reach = 8.5 + ratio  # in the tail of the logistic the integrand's mass lies around z = σ/s
        # One node at a time, with running means: all of them at once would take (B, K, D, nodes) of memory.
        total, first, second = torch.full_like(distance, -torch.inf), torch.zeros_like(s), torch.zeros_like(s)
        for z in np.arange(-reach, reach + spacing / 2, spacing):
            log_density, slope, curvature = _logistic(distance - sigma * z, s)
            log_part = log_density - z**2 / 2
            total = torch.logaddexp(total, log_part)
            share = (log_part - total).exp()
            first = first + share * (slope - first)
            second = second + share * (curvature - second)
        return total + math.log(spacing / math.sqrt(2 * math.pi)), first, second

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(len(component), self.dimension, generator=generator, dtype=torch.float64)
        return self.locations[component] + self.scales[component] * u.clamp(1e-16, 1 - 1e-16).logit()


def _logistic(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`log f`, `f'/f` and `f''/f` of a logistic density of scale s, at distance x from its centre."""
    u = (x / s).abs()
    slope = torch.tanh(x / s / 2)
    return -u - 2 * torch.log1p((-u).exp()) - s.log(), -slope / s, (1.5 * slope.square() - 0.5) / s.square()


class UniformMixture(ProductMixture):
    """`Σ_k w_k U(a_k, b_k)`, boxes with noisy marginals `[Φ((b−x)/σ) − Φ((a−x)/σ)]/(b−a)`.

    Args:
        weights: `(K,)`.
        lower, upper: corners a < b, `(K, D)`.

    Raises:
        ValueError: where a box is empty, or scores are asked for at σ = 0, where there are none.
    """

    def __init__(self, weights: Tensor, lower: Tensor, upper: Tensor):
        self.lower = torch.as_tensor(lower, dtype=torch.float64)
        self.upper = torch.as_tensor(upper, dtype=torch.float64)
        super().__init__(weights, self.lower.shape[-1])
        if not (self.lower < self.upper).all():
            raise ValueError("a box is empty")

    def marginals(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        if sigma == 0:
            raise ValueError("a density with edges has no scores without noise; σ > 0 is wanted")
        lower, upper = self.lower.to(x), self.upper.to(x)
        a, b = (lower - x[:, None]) / sigma, (upper - x[:, None]) / sigma
        # Φ(b) − Φ(a) as a difference of two small numbers, on whichever side of 0 they are small
        small, large = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)
        log_large = torch.special.log_ndtr(large)
        log_mass = log_large + torch.log1p(-(torch.special.log_ndtr(small) - log_large).exp())
        at_a, at_b = ((-edge.square() / 2 - log_mass).exp() / math.sqrt(2 * math.pi) for edge in (a, b))
        first = (at_a - at_b) / sigma
        second = (a * at_a - b * at_b) / sigma**2
        return log_mass - (upper - lower).log(), first, second

    def draw(self, component: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(len(component), self.dimension, generator=generator, dtype=torch.float64)
        return self.lower[component] + (self.upper - self.lower)[component] * u


def checkerboard(squares: int = 4, side: float = 1.0) -> UniformMixture:
    """The black squares of a board of `squares`² fields of the given side, centred at the origin."""
    corners = [(i, j) for i in range(squares) for j in range(squares) if (i + j) % 2 == 0]
    lower = side * (torch.tensor(corners, dtype=torch.float64) - squares / 2)
    return UniformMixture(torch.ones(len(lower)), lower, lower + side)


class CurveMixture(GaussianMixture):
    """Points drawn evenly along circular arcs in the plane, blurred with `N(0, spread²I)`.

    The density is an integral along each arc, taken by Gauss and Legendre's rule with so many nodes that it holds to
    1e-12 at σ = 0: a mixture of Gaussians at the nodes. Points are drawn from the arcs themselves.

    Args:
        centers: `(A, 2)`, of the A arcs.
        radii: `(A,)`.
        angles: from and to, `(A, 2)`, in radians.
        spread: standard deviation about the curve.
    """

    def __init__(self, centers: Tensor, radii: Tensor, angles: Tensor, spread: float):
        self.centers, self.radii, self.angles = (
            torch.as_tensor(values, dtype=torch.float64) for values in (centers, radii, angles)
        )
        self.lengths = self.radii * (self.angles[:, 1] - self.angles[:, 0])
        self.spread = spread
        weights, means = [], []
        for arc, length in enumerate(self.lengths.tolist()):
            nodes, shares = np.polynomial.legendre.leggauss(16 + math.ceil(2.2 * length / spread))
            weights.append(length * torch.from_numpy(shares))
            means.append(self._along(torch.full((len(nodes),), arc), torch.from_numpy(nodes + 1) / 2))
        weights = torch.cat(weights)
        covariances = (spread**2 * torch.eye(2, dtype=torch.float64)).expand(len(weights), 2, 2)
        super().__init__(weights, torch.cat(means), covariances)

    def _along(self, arc: Tensor, share: Tensor) -> Tensor:
        begin, end = self.angles[arc].unbind(1)
        angle = begin + (end - begin) * share
        return self.centers[arc] + self.radii[arc, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        arc = torch.multinomial(self.lengths, count, replacement=True, generator=generator)
        on_curve = self._along(arc, torch.rand(count, generator=generator, dtype=torch.float64))
        blur = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return (on_curve + self.spread * blur).float()


def two_moons(spread: float = 0.1) -> CurveMixture:
    """Two interleaving half circles, as scikit-learn's `make_moons` has them."""
    return CurveMixture([[0.0, 0.0], [1.0, 0.5]], [1.0, 1.0], [[0.0, math.pi], [math.pi, 2 * math.pi]], spread)


def rings(radii: tuple[float, ...] = (1.0, 2.0, 3.0), spread: float = 0.1) -> CurveMixture:
    """Concentric circles, as likely as they are long."""
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
    u = torch.randn(dimension, factors, generator=generator, dtype=torch.float64) / factors**0.5
    covariance = 0.2 * torch.eye(dimension, dtype=torch.float64) + u @ u.T
    return multivariate_normal(torch.zeros(dimension, dtype=torch.float64), covariance)


def logistics(dimension: int, components: int = 20, seed: int = 0) -> LogisticMixture:
    """Equal products of logistics with random locations in [−1, 1] and scales from 0.1 to 0.2."""
    generator = torch.Generator().manual_seed(seed)
    locations, scales = (torch.rand(components, dimension, generator=generator, dtype=torch.float64) for _ in range(2))
    return LogisticMixture(torch.ones(components), 2 * locations - 1, 0.1 + 0.1 * scales)


DENSITIES: dict[str, Callable[[int], Mixture]] = {
    "normal": correlated_normal,
    "logistics": logistics,
    "gaussians": lambda dimension: gaussians(),
    "two_moons": lambda dimension: two_moons(),
    "rings": lambda dimension: rings(),
    "checkerboard": lambda dimension: checkerboard(),
}


@dataclass(frozen=True)
class DensityData:
    """Points of a density as a data set: as many as are asked for, never the same twice.

    A batch is drawn when it is wanted, from a generator that its indices seed, so that a run that goes on finds the
    same points again.

    Attributes:
        density: where the points come from.
        size: how many make an epoch.
        split: `"train"` or `"test"`, which differ.
        device: where batches are wanted.
    """

    density: Mixture
    size: int
    split: str
    device: torch.device

    @property
    def shape(self) -> tuple[int]:
        """`(D,)`."""
        return (self.density.dimension,)

    def __len__(self) -> int:
        return self.size

    def draw(self, indices: Tensor) -> Tensor:
        """Points `(len(indices), D)`; the first two indices say which."""
        first, second = (indices[:2].tolist() + [0])[:2]
        seed = 2 * (first + self.size * second) + (self.split == "test")
        generator = torch.Generator().manual_seed(seed)
        return self.density.sample(len(indices), generator).to(self.device)
