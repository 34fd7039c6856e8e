"""Against exact truth: reverse steps of Gaussians, whose law is known, and the flow of one, which has a closed form."""

from functools import partial

import pytest
import torch

import inference
from datasets import generator_of, multivariate_normal
from inference import GaussianPrior, IsotropicCovariance
from inference.reverse import transition
from linalg import Dense
from models import Scores

close = torch.testing.assert_close
DOUBLE = {"dtype": torch.float64}
VARIANCES = torch.tensor([2.0, 0.5, 0.05], **DOUBLE)
AXES = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)).Q
COVARIANCE = AXES * VARIANCES @ AXES.T
MEAN = torch.tensor([1.0, -2.0, 0.5], **DOUBLE)
MODEL = multivariate_normal(MEAN, COVARIANCE)
COUNT = 20_000


def noisy(sigma, seed=0):
    prior = GaussianPrior(MEAN, VARIANCES, AXES, 0.0)
    return prior.sample(COUNT, sigma, generator_of(seed))


def assert_law(x, mean, covariance):
    spread = covariance.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * spread / len(x) ** 0.5).all()
    assert ((x.T.cov() - covariance).abs() < 5 * (2 / len(x)) ** 0.5 * spread[:, None] * spread).all()


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_one_step_from_any_noise_samples_a_gaussian(sigma):
    x = inference.reverse(MODEL, [sigma], noisy(sigma), seed=1, progress=False)
    assert_law(x, MEAN, COVARIANCE)


def test_every_level_has_its_law_on_the_way():
    _, chain = inference.reverse(MODEL, [3.0, 1.0, 0.4], noisy(3.0), seed=1, keep_every=1, progress=False)
    for sigma, x in zip([1.0, 0.4, 0.0], chain, strict=True):
        assert_law(x, MEAN, COVARIANCE + sigma**2 * torch.eye(3))


def test_transition_is_the_conditional_law_of_a_gaussian():
    """x_τ given x_σ, of x_τ = x + noise of τ and x_σ = x_τ + more."""
    sigma, tau = 1.5, 0.7
    eye = torch.eye(3, **DOUBLE)
    gain = (COVARIANCE + tau**2 * eye) @ torch.linalg.inv(COVARIANCE + sigma**2 * eye)
    x = noisy(sigma)[:5]
    known = inference.posterior(MODEL.at(sigma), x)
    mean, covariance = transition(known.mean, known.covariance, x, sigma, tau)
    close(mean, MEAN + (x - MEAN) @ gain.T)
    expected = COVARIANCE + tau**2 * eye - gain @ (COVARIANCE + tau**2 * eye)
    close(covariance.dense(), expected.expand(5, -1, -1))


def test_what_is_taken_for_the_covariance():
    known = inference.posterior(MODEL.at(0.5), noisy(0.5)[:4])
    full = inference.full_covariance(known).dense()
    close(inference.diagonal_covariance(known).dense(), torch.diag_embed(full.diagonal(dim1=1, dim2=2)))
    close(inference.no_covariance(known).dense(), torch.zeros_like(full))
    isotropic = IsotropicCovariance(MODEL.sample(100).double())(known)
    close(isotropic.dense(), full.diagonal(dim1=1, dim2=2).mean() * torch.eye(3, **DOUBLE).expand(4, -1, -1))


def test_without_covariance_samples_are_too_narrow_and_with_its_diagonal_uncorrelated():
    levels = [3.0, 0.5]
    step = partial(inference.reverse_step, covariance=inference.no_covariance)
    x = inference.reverse(MODEL, levels, noisy(3.0), step=step, seed=1, progress=False)
    assert x.var(0).sum() < 0.5 * VARIANCES.sum()
    step = partial(inference.reverse_step, covariance=inference.diagonal_covariance)
    x = inference.reverse(MODEL, [3.0], noisy(3.0), step=step, seed=1, progress=False)
    error = (x.T.cov() - COVARIANCE).abs().max()
    assert error > 0.05


def test_lanczos_with_all_products_has_the_root_of_the_matrix():
    x = noisy(0.8)[:6]
    given = MODEL.at(0.8)
    first_order = Scores(0.8, given.s1)
    step = inference.lanczos_step(first_order, x, 0.3, generator=generator_of(0), products=3)
    known = inference.posterior(given, x)
    mean, covariance = transition(known.mean, known.covariance, x, 0.8, 0.3)
    noise = torch.randn(x.shape, generator=generator_of(0), **DOUBLE)
    root = covariance.apply(lambda values: values.sqrt(), noise)
    close(step, mean + root)


def test_heun_follows_the_flow_of_a_gaussian_with_errors_of_second_order():
    x = noisy(2.0)[:50]
    along = (x - MEAN) @ AXES
    exact = MEAN + (along * (VARIANCES + 0.25).sqrt() / (VARIANCES + 4.0).sqrt()) @ AXES.T
    errors = []
    for count in (8, 16):
        levels = torch.linspace(2.0, 0.5, count + 1).tolist()
        state = x
        for sigma, after in zip(levels, levels[1:], strict=False):
            state = inference.heun_step(MODEL.at(sigma), state, after, model=MODEL)
        errors.append(float((state - exact).abs().max()))
    assert 3 < errors[0] / errors[1] < 5
    close(
        inference.heun_step(MODEL.at(0.5), x, 0.0, model=MODEL),
        inference.posterior(MODEL.at(0.5), x).mean,
    )


def test_seeds_repeat_and_bad_levels_are_refused():
    start = noisy(1.0)[:3]
    again = [inference.reverse(MODEL, [1.0, 0.5], start, seed=4, progress=False) for _ in range(2)]
    close(*again, rtol=0, atol=0)
    with pytest.raises(ValueError, match="descending ones are expected"):
        inference.reverse(MODEL, [0.5, 1.0], start)
    with pytest.raises(ValueError, match="model is of type Scores"):
        inference.reverse(MODEL.at(1.0), [1.0], start)
    broken = Scores(1.0, lambda x: x * torch.nan, lambda x: Dense(-torch.eye(3, **DOUBLE).expand(len(x), 3, 3)))
    model = type("Broken", (), {"at": lambda self, sigma: broken})()
    with pytest.raises(inference.DivergedError, match="reverse diverged at step 1"):
        inference.reverse(model, [1.0, 0.5], start, progress=False)
