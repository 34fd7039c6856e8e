"""Guided steps where the answer is known: Gaussian densities, their exact conditional means, finite differences."""

from functools import partial

import pytest
import torch

import datasets
from inference.guidance import dps_step, pigdm_step, tmpd_step
from inference.operators import Blur, Dense, Downsample, Mask, Operator
from models import Scores

close = torch.testing.assert_close
SHAPE = (1, 4, 4)
SIZE = 16
SIGMA, SIGMA_Y = 0.6, 0.3
STEPS = {"dps": dps_step, "pigdm": pigdm_step, "tmpd": tmpd_step}
CHECKERED = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
OPERATORS = {
    "mask": Mask(CHECKERED, SHAPE),
    "downsample": Downsample(2, SHAPE),
    "blur": Blur(0.8, SHAPE),
    "dense": Dense(torch.randn(5, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)),
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    return OPERATORS[request.param]


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated() -> tuple[torch.Tensor, torch.Tensor]:
    """A mean and a covariance."""
    root = normal(SIZE, SIZE, seed=2) / SIZE**0.5
    return normal(SIZE, seed=3), root @ root.T + 0.1 * torch.eye(SIZE, dtype=torch.float64)


def given(mean: torch.Tensor, covariance: torch.Tensor, x: torch.Tensor, y: torch.Tensor, A: torch.Tensor):
    """E[x | x̃, y] of a Gaussian, from both measurements at once: precisions add up."""
    precision = covariance.inverse() + torch.eye(len(mean), dtype=torch.float64) / SIGMA**2 + A.T @ A / SIGMA_Y**2
    return (covariance.inverse() @ mean + x / SIGMA**2 + y @ A / SIGMA_Y**2) @ precision.inverse()


def matrix_of(operator: Operator) -> torch.Tensor:
    return operator(torch.eye(operator.shape[1], dtype=torch.float64)).T


def measured(operator: Operator) -> dict:
    return {"y": normal(3, operator.shape[0], seed=4), "operator": operator, "sigma_y": SIGMA_Y}


def noise(sigma_next: float, seed: int) -> torch.Tensor:
    """The noise of an ancestral step."""
    return sigma_next * (1 - sigma_next**2 / SIGMA**2) ** 0.5 * normal(3, SIZE, seed=seed)


def test_tmpd_is_the_kalman_update_of_a_gaussian(operator):
    mean, covariance = correlated()
    scores = datasets.multivariate_normal(mean, covariance).at(SIGMA)
    x, known = normal(3, SIZE), measured(operator)
    expected = given(mean, covariance, x, known["y"], matrix_of(operator))
    close(tmpd_step(scores, x, 0.0, **known), expected, rtol=1e-10, atol=1e-10)
    moved = tmpd_step(scores, x, 0.3, generator=torch.Generator().manual_seed(5), **known)
    close(moved, expected + 0.25 * (x - expected) + noise(0.3, 5), rtol=1e-10, atol=1e-10)


def test_pigdm_is_exact_for_an_isotropic_gaussian(operator):
    std = 1.4
    mean, covariance = torch.zeros(SIZE, dtype=torch.float64), std**2 * torch.eye(SIZE, dtype=torch.float64)
    scores = datasets.multivariate_normal(mean, covariance).at(SIGMA)
    x, known = normal(3, SIZE), measured(operator)
    expected = given(mean, covariance, x, known["y"], matrix_of(operator))
    tolerance = 1e-10 if operator.disjoint else 1e-3  # of conjugate gradients
    close(pigdm_step(scores, x, 0.0, std=std, **known), expected, rtol=tolerance, atol=tolerance)
    moved = pigdm_step(scores, x, 0.3, std=std, generator=torch.Generator().manual_seed(5), **known)
    close(moved, expected + 0.25 * (x - expected) + noise(0.3, 5), rtol=tolerance, atol=tolerance)


def test_dps_goes_down_the_gradient_of_the_squared_error(operator):
    """By central differences, of a density whose denoiser is not linear."""
    mean, covariance = correlated()
    weights, means = torch.tensor([0.3, 0.7]), torch.stack([mean, -mean])
    scores = datasets.GaussianMixture(weights, means, covariance.expand(2, -1, -1)).at(SIGMA)
    x, known = normal(3, SIZE), measured(operator)

    def denoised(x: torch.Tensor) -> torch.Tensor:
        return x + SIGMA**2 * scores.s1(x)

    def squared_error(x: torch.Tensor) -> torch.Tensor:
        return (known["y"] - operator(denoised(x))).square().sum(1)

    apart = 1e-5 * torch.eye(SIZE, dtype=torch.float64)
    slopes = torch.stack([(squared_error(x + step) - squared_error(x - step)) / 2e-5 for step in apart], dim=1)
    expected = denoised(x) - 0.7 * slopes / squared_error(x).sqrt()[:, None]
    close(dps_step(scores, x, 0.0, weight=0.7, **known), expected, rtol=1e-6, atol=1e-6)
    moved = dps_step(scores, x, 0.3, weight=0.7, generator=torch.Generator().manual_seed(5), **known)
    close(moved, expected + 0.25 * (x - denoised(x)) + noise(0.3, 5), rtol=1e-6, atol=1e-6)


def test_tmpd_of_many_measurements_takes_the_row_sums():
    """Of 100 measurements: `A C Aᵀ` is replaced by the diagonal matrix of its row sums."""
    root = normal(100, 100, seed=2).abs() / 100
    mean, covariance = normal(100, seed=3), root @ root.T + 0.1 * torch.eye(100, dtype=torch.float64)
    scores = datasets.multivariate_normal(mean, covariance).at(SIGMA)
    x, y, operator = normal(3, 100), normal(3, 100, seed=4), Blur(0.8, (1, 10, 10))
    A = matrix_of(operator)
    C = (covariance.inverse() + torch.eye(100, dtype=torch.float64) / SIGMA**2).inverse()
    denoised = (covariance.inverse() @ mean + x / SIGMA**2) @ C
    sums = (A @ C @ A.T).sum(1)
    assert (sums > 0).all()
    expected = denoised + ((y - denoised @ A.T) / (sums + SIGMA_Y**2)) @ A @ C
    close(tmpd_step(scores, x, 0.0, y=y, operator=operator, sigma_y=SIGMA_Y), expected, rtol=1e-10, atol=1e-10)


def test_tmpd_of_many_measurements_is_exact_where_nothing_correlates():
    """There the row sums are the diagonal."""
    mean, variances = normal(100, seed=3), normal(100, seed=2).square() + 0.1
    scores = datasets.multivariate_normal(mean, variances.diag()).at(SIGMA)
    x, y, mask = normal(3, 100), normal(3, 70, seed=4), torch.arange(100) < 70
    step = tmpd_step(scores, x, 0.0, y=y, operator=Mask(mask, (100,)), sigma_y=SIGMA_Y)
    expected = given(mean, variances.diag(), x, y, torch.eye(100, dtype=torch.float64)[mask])
    close(step, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", STEPS)
def test_a_network_is_differentiated_whether_or_not_gradients_are_on(name):
    """Each point has the answer that it has alone, and no graph is left behind."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(SIZE, 8), torch.nn.Tanh(), torch.nn.Linear(8, SIZE)).double()
    scores, operator = Scores(SIGMA, network, shape=(SIZE,)), OPERATORS["dense"]
    x, known = normal(3, SIZE), measured(operator)
    step = partial(STEPS[name], scores, sigma_next=0.0, operator=operator, sigma_y=SIGMA_Y)
    with torch.no_grad():
        together = step(x, y=known["y"])
    assert not step(x, y=known["y"]).requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    alone = torch.cat([step(x[i : i + 1], y=known["y"][i : i + 1]) for i in range(3)])
    close(together, alone)


def test_dps_stays_where_it_is_where_the_measurement_fits():
    """The length of the error is zero there, and so is its gradient."""
    scores = datasets.multivariate_normal(torch.zeros(2), torch.eye(2)).at(SIGMA)
    x = torch.ones(1, 2, dtype=torch.float64)
    denoised = x / (1 + SIGMA**2)
    operator = Mask(torch.tensor([True, False]), (2,))
    y = (x + SIGMA**2 * scores.s1(x))[:, :1]
    close(dps_step(scores, x, 0.0, y=y, operator=operator, sigma_y=SIGMA_Y), denoised)
