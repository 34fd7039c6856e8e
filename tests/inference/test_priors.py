"""Against torch's multivariate normal."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import datasets
from datasets import generator_of, multivariate_normal
from inference import GaussianPrior
from inference.priors import noise_range, prior_of
from models import from_denoiser

close = torch.testing.assert_close
DOUBLE = {"dtype": torch.float64}
SIGMA = 0.7


def points(count=400, dimension=5):
    generator = generator_of(0)
    mixing = torch.randn(dimension, dimension, generator=generator, **DOUBLE)
    return torch.randn(count, dimension, generator=generator, **DOUBLE) @ mixing + 1


@pytest.mark.parametrize("rank", [0, 2, 5])
def test_fitted_prior_has_the_moments_of_the_points_in_its_directions(rank):
    x = points()
    prior = GaussianPrior.fitted(x, rank)
    close(prior.mean, x.mean(0))
    close(prior.covariance.trace(), x.T.cov().trace()[None])
    close(prior.variances, torch.linalg.eigvalsh(x.T.cov()).flip(0)[:rank])
    if rank == 5:
        close(prior.covariance.dense()[0], x.T.cov())


@pytest.mark.parametrize("rank", [0, 2, 5])
def test_density_divergence_and_samples_are_those_of_the_normal(rank):
    prior = GaussianPrior.fitted(points(), rank)
    eye = torch.eye(5, **DOUBLE)
    exact = MultivariateNormal(prior.mean, prior.covariance.dense()[0] + SIGMA**2 * eye)
    x = points(6)
    close(prior.log_prob(x, SIGMA), exact.log_prob(x))
    noisy = MultivariateNormal(x, SIGMA**2 * eye.expand(6, -1, -1))
    close(prior.divergence(x, SIGMA), kl_divergence(noisy, exact.expand((6,))))
    drawn = prior.sample(20_000, SIGMA, generator_of(1))
    spread = exact.covariance_matrix.diagonal().sqrt()
    assert ((drawn.mean(0) - prior.mean).abs() < 5 * spread / 20_000**0.5).all()
    difference = (drawn.T.cov() - exact.covariance_matrix).abs()
    assert (difference < 5 * (2 / 20_000) ** 0.5 * spread[:, None] * spread).all()


def test_prior_of_an_exact_density_has_its_moments():
    covariance = points().T.cov()
    mean = torch.arange(5.0, **DOUBLE)
    prior = prior_of(multivariate_normal(mean, covariance), mean)
    close(prior.mean, mean, rtol=0, atol=1e-6)
    close(prior.covariance.dense()[0], covariance, rtol=0, atol=1e-5)
    mixture = datasets.DENSITIES["checkerboard"](2)
    x = mixture.sample(200_000, generator_of(0)).double()
    prior = prior_of(mixture, x)
    close(prior.covariance.dense()[0], x.T.cov(), rtol=0, atol=0.02)
    low, high = noise_range(mixture)
    assert 0 < low < 0.2 < 2 < high


def test_what_is_not_known_is_asked_for():
    model = from_denoiser(lambda x, sigma: x, (0.1, 1.0), (3,))
    assert noise_range(model) == (0.1, 1.0)
    with pytest.raises(ValueError, match="give a prior, such as"):
        prior_of(model, torch.zeros(1))
    with pytest.raises(ValueError, match=r"floats \(N, D\) are expected, N at least 2"):
        GaussianPrior.fitted(torch.zeros(1, 3))
