"""Against autograd, independent formulas and convolutions, in float64."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import datasets
from datasets import GaussianMixture, LogisticMixture, Mixture, UniformMixture, mixtures

close = torch.testing.assert_close


def random_gaussians() -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    roots = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.1 * torch.eye(2)
    return GaussianMixture([0.2, 0.3, 0.5], torch.randn(3, 2, generator=generator), covariances)


def random_logistics() -> LogisticMixture:
    generator = torch.Generator().manual_seed(2)
    locations = torch.randn(3, 2, generator=generator)
    return LogisticMixture([1.0, 2.0, 1.0], locations, 0.3 + 0.4 * torch.rand(3, 2, generator=generator))


DENSITIES = {
    "normal": lambda: datasets.multivariate_normal([1.0, -1.0], [[1.0, 0.6], [0.6, 0.5]]),
    "gaussians": random_gaussians,
    "logistics": random_logistics,
    "two moons": lambda: datasets.two_moons(0.2),
    "rings": lambda: datasets.rings((1.0, 2.0), 0.2),
    "checkerboard": datasets.checkerboard,
}


@pytest.fixture(params=DENSITIES)
def density(request):
    return DENSITIES[request.param]()


def some_points(count: int = 6) -> Tensor:
    return 1.5 * torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _derivative(values: Tensor, leaf: Tensor) -> Tensor:
    """Of each point's value `(B,)` with respect to the point, `(B, D)`; zero where it does not depend on it."""
    if not values.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(values.sum(), leaf, create_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def assert_derivatives_of_log_prob(density: Mixture, sigma: float, x: Tensor) -> None:
    """s1, s2 and s3 of `density.at(sigma)` against autograd's derivatives of the log density."""
    scores = density.at(sigma)
    assert scores.sigma == sigma
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(leaf, sigma).sum(), leaf, create_graph=True)
    hessian = torch.stack([_derivative(column, leaf) for column in gradient.unbind(1)], dim=1)
    third = torch.stack([_derivative(entry, leaf).detach() for entry in hessian.flatten(1).unbind(1)], dim=1)
    third = third.unflatten(1, hessian.shape[1:])
    close(scores.s1(x), gradient.detach(), rtol=1e-7, atol=1e-7)
    close(scores.s2(x).dense(), hessian.detach(), rtol=1e-6, atol=1e-6)
    s3, rounding = scores.s3(x), 1e-6 + 1e-7 * third.abs().max().item()
    v = torch.randn(*x.shape, 2, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    close(s3.dense(), third, rtol=1e-6, atol=rounding)
    close(s3.contract(v), torch.einsum("bijk,bin,bjn->bkn", third, v, v), rtol=1e-6, atol=9 * rounding)
    close(s3.form(v), torch.einsum("bijk,bin,bjn,bkn->bn", third, v, v, v), rtol=1e-6, atol=9 * rounding)
    close(s3.diagonal(), torch.einsum("biii->bi", third), rtol=1e-6, atol=rounding)
    close((2 * s3)[1:3].dense(), 2 * s3.dense()[1:3])
    close(s3[[1, 1, 0]].contract(v[:3]), torch.einsum("bijk,bin,bjn->bkn", s3.dense()[[1, 1, 0]], v[:3], v[:3]))


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_scores_are_the_derivatives_of_the_log_density(density, sigma):
    assert_derivatives_of_log_prob(density, sigma, some_points())


def test_scores_without_noise_are_the_derivatives_of_the_log_density(density):
    if isinstance(density, UniformMixture):
        with pytest.raises(ValueError, match="σ > 0 is expected"):
            density.at(0.0)(some_points())
    else:
        assert_derivatives_of_log_prob(density, 0.0, some_points())


@pytest.mark.parametrize("name", ["normal", "logistics"])
def test_scores_in_more_dimensions(name):
    density = datasets.DENSITIES[name](3)
    assert density.shape == (3,)
    x = density.sample(4, torch.Generator().manual_seed(0)).double()
    assert_derivatives_of_log_prob(density, 0.4, x)


def test_both_orders_from_one_evaluation_are_those_taken_apart(density, monkeypatch):
    x, evaluations = some_points(), []
    component_scores = density.component_scores

    def counted(*arguments):
        evaluations.append(arguments)
        return component_scores(*arguments)

    monkeypatch.setattr(density, "component_scores", counted)
    scores = density.at(0.3)
    s1, s2 = scores(x)
    assert len(evaluations) == 1
    for first, second in ((scores.s1(x), scores.s2(x).dense()), (density.s1(x, 0.3), density.s2(x, 0.3))):
        assert torch.equal(s1, first)
        assert torch.equal(s2.dense(), second)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_scores_are_finite_differences(density, sigma):
    x, h = some_points(), 1e-4
    for d in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[d] = h
        slope = (density.log_prob(x + step, sigma) - density.log_prob(x - step, sigma)) / (2 * h)
        close(density.s1(x, sigma)[:, d], slope, rtol=1e-5, atol=1e-5)
        curve = (density.s1(x + step, sigma) - density.s1(x - step, sigma)) / (2 * h)
        close(density.s2(x, sigma)[:, d], curve, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), [(0.2, 0.3), (0.3, 1.0)])
def test_noise_upon_noise_is_more_noise(density, first, second):
    """`∫ q_a(x + b z) φ(z) dz = q_{√(a² + b²)}(x)`, by Gauss and Hermite's rule."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    z = torch.cartesian_prod(torch.from_numpy(nodes), torch.from_numpy(nodes))
    w = torch.from_numpy(np.outer(weights, weights)).flatten() / (2 * math.pi)
    for x in some_points(3):
        mean = (density.log_prob(x + second * z, first).exp() * w).sum()
        close(mean, density.log_prob(x[None], math.hypot(first, second)).exp()[0], rtol=1e-6, atol=1e-12)


def test_without_noise_it_is_the_limit(density):
    x = some_points()
    if isinstance(density, UniformMixture):
        with pytest.raises(ValueError, match="σ > 0 is expected"):
            density.s1(x)
    else:
        close(density.log_prob(x), density.log_prob(x, 1e-6), rtol=1e-5, atol=1e-5)


def test_samples_have_the_density(density):
    """Tweedie's identities hold over noisy samples only where samples and scores belong together: with σ = 0.5 the
    residual has mean 0, and mean ‖x − x̂‖² = mean tr Cov."""
    sigma, count = 0.5, 20_000
    generator = torch.Generator().manual_seed(3)
    x = density.sample(count, generator).double()
    noisy = x + sigma * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    residual = x - (noisy + sigma**2 * density.s1(noisy, sigma))
    assert (residual.mean(0).abs() < 5 * residual.std(0) / count**0.5).all()
    traces = 2 * sigma**2 + sigma**4 * density.s2(noisy, sigma).diagonal(dim1=1, dim2=2).sum(1)
    difference = residual.square().sum(1) - traces
    assert difference.mean().abs() < 5 * difference.std() / count**0.5


def test_float32_is_close_to_float64(density):
    x = some_points(50)
    for name, tolerance in (("s1", 1e-3), ("s2", 5e-3)):
        exact = getattr(density, name)(x, 0.3)
        ours = getattr(density, name)(x.float(), 0.3)
        assert ours.dtype == torch.float32
        close(ours.double(), exact, rtol=tolerance, atol=tolerance * exact.abs().max().item())


def test_gaussians_are_those_of_torch():
    density, x = random_gaussians(), some_points()
    parts = torch.distributions.MultivariateNormal(density.means, density.covariances + 0.09 * torch.eye(2))
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(density.weights), parts)
    close(density.log_prob(x, 0.3), mixture.log_prob(x))


def test_logistics_are_those_of_scipy():
    """The quadrature against an adaptive one, in one dimension, far into the tail."""
    density = LogisticMixture([1.0], [[0.2]], [[0.1]])
    for sigma in (0.01, 0.08, 0.1, 1.0):
        for x in (0.2, 0.5, 2.0):

            def integrand(z: float, x: float = x, sigma: float = sigma) -> float:
                return scipy.stats.logistic.pdf(x - sigma * z, 0.2, 0.1) * scipy.stats.norm.pdf(z)

            truth, _ = scipy.integrate.quad(integrand, -40, 40, points=[0, (x - 0.2) / sigma], limit=500, epsabs=1e-16)
            ours = density.log_prob(torch.tensor([[x]], dtype=torch.float64), sigma).exp().item()
            assert ours == pytest.approx(truth, rel=1e-7)


def test_a_ring_is_a_bessel_function():
    """Around one circle of radius R, `q ∝ exp(−(r² + R²)/2v) I₀(rR/v)`, v = spread² + σ²."""
    density, v = datasets.rings((2.0,), 0.1), 0.1**2 + 0.2**2
    r = torch.tensor([0.0, 0.5, 1.9, 2.0, 3.0], dtype=torch.float64)
    x = torch.stack([r * math.cos(0.7), r * math.sin(0.7)], dim=1)
    expected = torch.special.i0e(2 * r / v).log() - (r - 2).square() / (2 * v) - math.log(2 * math.pi * v)
    close(density.log_prob(x, 0.2), expected, rtol=1e-9, atol=1e-9)


def test_a_board_without_its_edges_is_flat():
    density = datasets.checkerboard(4, 1.0)
    inside = torch.tensor([[-1.5, -1.5], [0.5, 0.5]], dtype=torch.float64)
    outside = torch.tensor([[-0.5, -1.5], [5.0, 5.0]], dtype=torch.float64)
    close(density.log_prob(inside, 0.02).exp(), torch.full((2,), 1 / 8, dtype=torch.float64))
    assert (density.log_prob(outside, 0.02) < -100).all()
    assert density.s1(outside, 0.02).isfinite().all()


def test_shares_say_which_component():
    means = torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
    density = GaussianMixture([0.3, 0.7], means, torch.eye(2).expand(2, 2, 2))
    close(density.shares(means, 0.1), torch.eye(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "not positive definite"),
        (lambda: GaussianMixture([1.0, 1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]]), "are expected"),
        (lambda: GaussianMixture([0.0], [[0.0]], [[[1.0]]]), "positive ones are expected"),
        (lambda: LogisticMixture([1.0], [[0.0]], [[0.0]]), "scale is not positive"),
        (lambda: UniformMixture([1.0], [[0.0]], [[0.0]]), "a box is empty"),
        (lambda: datasets.two_moons(0.0), "spread is 0.0; a positive"),
        (lambda: datasets.rings(spread=math.nan), "spread is nan; a positive"),
    ],
)
def test_what_is_no_density_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["log_prob", "shares", "s1", "s2"])
@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (-0.5, "sigma is -0.5; a finite number, not negative, is expected"),
        (math.nan, "sigma is nan"),
        (math.inf, "sigma is inf"),
        ("0.5", "sigma is '0.5'; a number is expected"),
        (torch.tensor([0.5, 0.5]), r"sigma has shape \(2,\); scores have one noise level"),
        (torch.full((6, 1), 0.5), r"sigma has shape \(6, 1\)"),
    ],
)
def test_sigma_is_one_number(density, name, sigma, message):
    with pytest.raises(ValueError, match=message):
        getattr(density, name)(some_points(), sigma)
    with pytest.raises(ValueError, match=message):
        density.at(sigma)


def test_sigma_as_a_tensor_of_no_dimension(density):
    x = some_points()
    close(density.s1(x, torch.tensor(0.5)), density.s1(x, 0.5))
    assert density.at(torch.tensor(0.5)).sigma == 0.5


def test_points_of_another_size_are_refused_by_name(density):
    scores = density.at(0.5)
    assert scores.shape == (2,)
    with pytest.raises(ValueError, match=r"points of shape \(6, 3\); a tensor \(B, 2\) is expected"):
        scores(torch.zeros(6, 3))


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_noisy_logistics_far_above_their_scale_are_those_of_the_other_integral(monkeypatch, sigma):
    density = LogisticMixture([1.0, 2.0], [[0.0, 1.0], [-1.0, 0.5]], [[0.1, 0.2], [0.15, 0.1]])
    x = 3 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = density.marginals(x, sigma)
    monkeypatch.setattr(mixtures, "WIDE", math.inf)
    *others, third = density.marginals(x, sigma)
    for ours, other in zip(wide, others, strict=False):
        close(ours, other, rtol=1e-8, atol=1e-8)
    close(wide[3], third, rtol=1e-8, atol=1e-6)  # in the other integral terms of 1/s³ cancel
