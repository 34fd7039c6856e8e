"""Against exact truth: Gaussians, whose posterior given a measurement is known, and a mixture of them."""

from functools import partial

import pytest
import torch

import evaluation
import inference
from datasets import multivariate_normal
from experiments import measurements
from inference import GaussianPrior, guidance, operators
from inference.kalman import Measured
from linalg import Dense, DiagonalPlusLowRank
from models import Scores, from_denoiser

close = torch.testing.assert_close
DOUBLE = {"dtype": torch.float64}
DIMENSION, SIGMA_Y = 6, 0.3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


MATRIX = random(2, DIMENSION, seed=1)
MEAN = random(DIMENSION, seed=2)
ROOT = random(DIMENSION, DIMENSION, seed=3)
COVARIANCE = ROOT @ ROOT.T / DIMENSION + 0.1 * torch.eye(DIMENSION, **DOUBLE)
Y = torch.tensor([1.0, -1.0], **DOUBLE)


def conditioned(mean, covariance, matrix, y, sigma_y):
    """Mean and covariance given y, by the dense formula."""
    innovation = matrix @ covariance @ matrix.T + sigma_y**2 * torch.eye(len(matrix), **DOUBLE)
    gain = covariance @ matrix.T @ torch.linalg.inv(innovation)
    return mean + gain @ (y - matrix @ mean), covariance - gain @ matrix @ covariance


def assert_law(x, mean, covariance):
    """Mean and covariance of independent samples within five standard errors."""
    spread = covariance.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * spread / len(x) ** 0.5).all()
    assert ((x.T.cov() - covariance).abs() < 5 * (2 / len(x)) ** 0.5 * spread[:, None] * spread).all()


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_samples_of_a_gaussian_have_the_exact_posterior_in_every_number_of_steps(steps, corrector):
    model = multivariate_normal(MEAN, COVARIANCE)
    answer = partial(inference.conditional, model, Y.expand(20_000, 2), operators.Dense(MATRIX), SIGMA_Y)
    x = answer(steps=steps, corrector=corrector, seed=0, progress=False)
    assert_law(x, *conditioned(MEAN, COVARIANCE, MATRIX, Y, SIGMA_Y))


IMAGE = (1, 12, 12)
HALF = torch.arange(144).view(12, 12) % 12 < 6


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize(
    "operator",
    [operators.Mask(HALF, IMAGE), operators.Downsample(4, IMAGE), operators.Blur(1.0, IMAGE)],
    ids=["mask", "down", "blur"],
)
def test_kalman_update_is_that_of_dense_matrices(operator, low_rank):
    """Woodbury's identity, a Cholesky factor and conjugate gradients, the last to their tolerance of 1e-4."""
    count, dimension = operator.shape
    prior = DiagonalPlusLowRank(0.5 + random(2, dimension).square(), random(2, dimension, 3, seed=1))
    dense = prior.dense()
    mean, y = random(2, dimension, seed=2), random(2, count, seed=3)
    measured = Measured(mean, prior if low_rank else Dense(dense), operator, 0.2)
    matrix = operator(torch.eye(dimension, **DOUBLE)).T
    expected = [conditioned(m, c, matrix, values, 0.2) for m, c, values in zip(mean, dense, y, strict=True)]
    tolerance = {"rtol": 0, "atol": 1e-9 if (low_rank and operator.disjoint) or count <= 64 else 3e-3}
    close(measured.posterior_mean(y), torch.stack([m for m, _ in expected]), **tolerance)
    close(measured.posterior_covariance().dense(), torch.stack([c for _, c in expected]), **tolerance)


def test_draws_given_a_measurement_have_the_exact_law():
    prior = DiagonalPlusLowRank(torch.full((1, DIMENSION), 0.2, **DOUBLE), random(1, DIMENSION, 2))[[0] * 20_000]
    measured = Measured(MEAN.expand(20_000, -1), prior, operators.Dense(MATRIX), SIGMA_Y)
    x = measured.draw(Y.expand(20_000, -1), torch.Generator().manual_seed(0))
    assert_law(x, *conditioned(MEAN, prior[:1].dense()[0], MATRIX, Y, SIGMA_Y))


def test_conditional_scores_of_a_gaussian_are_those_of_its_noisy_posterior():
    mean, covariance = conditioned(MEAN, COVARIANCE, MATRIX, Y, SIGMA_Y)
    exact = multivariate_normal(mean, covariance).at(0.7)
    x = random(5, DIMENSION, seed=4)
    given = inference.conditional_scores(
        multivariate_normal(MEAN, COVARIANCE).at(0.7), Y.expand(5, -1), operators.Dense(MATRIX), SIGMA_Y
    )
    s1, s2 = given(x)
    close(s1, exact.s1(x))
    close(s2.dense(), exact.s2(x).dense())


def test_of_a_mixture_ours_is_nearer_to_the_truth_than_its_rivals_at_as_many_calls():
    rows = measurements.of_mixtures([20], 500, 6, 1.0)
    distance = {row["method"]: row["distance"] for row in rows}
    assert min(distance, key=distance.get) == "exact"
    del distance["exact"]
    assert min(distance, key=distance.get) == measurements.CORRECTED


def test_exact_samples_of_a_mixture_fit_its_measurement():
    density, matrix, y = measurements.mixture(0, 1.0)
    x = measurements.exact_samples(density, matrix, y, 4000, 1)
    other = measurements.exact_samples(density, matrix, y, 4000, 2)
    assert (x @ matrix.T - y).square().mean().sqrt() < 2 * measurements.SPREAD
    assert evaluation.sliced_wasserstein(x, other) < 0.1


def test_a_denoiser_without_s2_answers_by_its_jacobian():
    """A normal density by its denoiser alone: products with the Jacobian in the place of s2."""
    variances = torch.tensor([1.0, 0.5, 0.1], **DOUBLE)
    model = from_denoiser(lambda x, sigma: x * variances / (variances + sigma**2), (0.05, 3.0), (3,))
    matrix = torch.tensor([[1.0, 1.0, 0.0]], **DOUBLE)
    prior = GaussianPrior(torch.zeros(3, **DOUBLE), variances, torch.eye(3, **DOUBLE), 0.0)
    y = torch.full((4000, 1), 0.7, **DOUBLE)
    x = inference.conditional(model, y, operators.Dense(matrix), 0.1, steps=3, prior=prior, seed=0, progress=False)
    assert_law(x, *conditioned(torch.zeros(3, **DOUBLE), variances.diag(), matrix, y[0], 0.1))
    with pytest.raises(ValueError, match="give a prior"):
        inference.conditional(model, y, operators.Dense(matrix), 0.1)


def test_seeds_repeat_and_bad_measurements_are_refused():
    model, operator = multivariate_normal(MEAN, COVARIANCE), operators.Dense(MATRIX)
    answer = partial(inference.conditional, model, operator=operator, sigma_y=0.1, steps=2, progress=False)
    close(answer(Y[None], seed=3), answer(Y[None], seed=3), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"y has shape \(2,\); floats \(B, 2\) are expected"):
        answer(Y)
    with pytest.raises(ValueError, match="y has values that are not finite"):
        answer(Y[None] * torch.inf)
    with pytest.raises(ValueError, match="sigma_y is 0"):
        inference.conditional(model, Y[None], operator, 0)
    with pytest.raises(ValueError, match=r"model is of type Scores; .* model.at\(sigma\)"):
        inference.conditional(Scores(1.0, lambda x: -x), Y[None], operator, 0.1)
    with pytest.raises(ValueError, match="descending ones are expected"):
        inference.conditional(model, Y[None], operator, 0.1, steps=[0.1, 1.0])


@pytest.mark.parametrize("step", [partial(guidance.dps_step, weight=0.1), guidance.pigdm_step, guidance.tmpd_step])
def test_rivals_are_steps_of_the_same_driver(step):
    model = multivariate_normal(MEAN, COVARIANCE)
    x = inference.conditional(model, Y.expand(50, -1), operators.Dense(MATRIX), 0.1, steps=20, step=step, seed=0)
    assert (x @ MATRIX.T - Y).square().mean() < 1
