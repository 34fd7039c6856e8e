"""Against torch's own divergences, the probabilities of a discrete distribution, and the entropy of a Gaussian."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import inference
from datasets import generator_of, multivariate_normal
from inference import GaussianPrior
from inference.bounds import _log_probability, _step_divergence
from linalg import Dense, DiagonalPlusLowRank
from models import Scores

close = torch.testing.assert_close
DOUBLE = {"dtype": torch.float64}
COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.5, 0.1], [0.0, 0.1, 0.2]], **DOUBLE)
MODEL = multivariate_normal(torch.zeros(3, **DOUBLE), COVARIANCE)
KINDS = {"full": inference.full_covariance, "diagonal": inference.diagonal_covariance}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_costs_the_divergence_of_two_gaussians(kind):
    sigma, tau = 1.0, 0.4
    x = torch.randn(4, 3, generator=generator_of(0), **DOUBLE)
    known = inference.posterior(MODEL.at(sigma), x + sigma * torch.randn(4, 3, generator=generator_of(1), **DOUBLE))
    covariance = KINDS[kind](known)
    ratio = (tau / sigma) ** 2
    variance = tau**2 * (1 - ratio)
    eye = torch.eye(3, **DOUBLE)
    true = MultivariateNormal(x + ratio * (known.noisy - x), variance * eye.expand(4, -1, -1))
    step = MultivariateNormal(
        known.mean + ratio * (known.noisy - known.mean), (1 - ratio) ** 2 * covariance.dense() + variance * eye
    )
    close(_step_divergence(x, known, covariance, tau), kl_divergence(true, step))


@pytest.mark.parametrize("diagonal", [True, False])
def test_probabilities_of_all_pictures_sum_to_one(diagonal):
    values = torch.linspace(-1, 1, 5, **DOUBLE)
    x = torch.tensor(list(itertools.product(values.tolist(), repeat=2)), **DOUBLE)
    matrix = torch.tensor([[0.3, 0.2], [0.2, 0.4]], **DOUBLE)
    covariance = DiagonalPlusLowRank(matrix.diag().expand(25, 2)) if diagonal else Dense(matrix.expand(25, 2, 2))
    mean = torch.tensor([0.2, -0.9], **DOUBLE).expand(25, 2)
    close(_log_probability(x, mean, covariance, (-1.0, 1.0), 0.5).logsumexp(0), torch.zeros((), **DOUBLE))


def test_probabilities_keep_their_digits_far_out():
    x, mean = torch.tensor([[1.0], [-1.0]], **DOUBLE), torch.tensor([[-9.0], [9.0]], **DOUBLE)
    covariance = DiagonalPlusLowRank(torch.full((2, 1), 0.25, **DOUBLE))
    expected = torch.special.log_ndtr(torch.tensor(-19.5, **DOUBLE)).expand(2)
    close(_log_probability(x, mean, covariance, (-1.0, 1.0), 0.5), expected)


def test_the_bound_of_an_exact_model_nears_its_entropy_with_the_steps():
    """Of a normal in fine steps, whose prior is exact; with the right covariance it costs the same in any number."""
    prior = GaussianPrior.of_scores(MODEL.at(1e3), torch.zeros(3, **DOUBLE))
    spacing = 2 * 8 / 4095
    x = (MODEL.sample(2000, generator_of(0)).double() / spacing).round() * spacing
    exact = -(MODEL.log_prob(x) + 3 * math.log(spacing)).mean()
    totals = {name: [] for name in KINDS}
    for count in (1, 3, 12):
        bounds = inference.variational_bounds(
            MODEL,
            x,
            inference.levels.geometric(0.05, 3.0, count) if count > 1 else [3.0],
            KINDS,
            limits=(-8.0, 8.0),
            values=4096,
            prior=prior,
            seed=0,
        )
        for name, bound in bounds.items():
            close(bound.total, bound.prior + bound.steps + bound.decoder)
            totals[name].append(float(bound.total.mean() - exact))
    assert all(abs(over) < 0.1 for over in totals["full"])  # a standard error is 0.04
    assert all(over > full + 0.02 for over, full in zip(totals["diagonal"], totals["full"], strict=True))


def test_what_has_no_bound_is_refused():
    x = torch.zeros(1, 3, **DOUBLE)
    with pytest.raises(ValueError, match="a covariance of 0 at the narrowest level"):
        inference.variational_bounds(MODEL, x, [1.0], {"none": inference.no_covariance}, limits=(-1, 1))
    with pytest.raises(ValueError, match="the distance of black and white is 0"):
        inference.variational_bounds(MODEL, x, [1.0], KINDS, limits=(1, 1))
    wide = Scores(1.0, lambda x: -x, lambda x: DiagonalPlusLowRank(-0.5 + 0 * x, 0.1 + 0 * x[:, :, None]))
    model = type("Wide", (), {"at": lambda self, sigma: wide})()
    prior = GaussianPrior.isotropic(0.0, 1.0, 5000)
    with pytest.raises(ValueError, match="a diagonal one is expected above 4096"):
        inference.variational_bounds(model, torch.zeros(1, 5000), [1.0], KINDS, limits=(-1, 1), prior=prior)
