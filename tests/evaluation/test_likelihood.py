"""Against Gaussian densities, in which every expectation is known, and torch.distributions."""

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch
from torch.distributions import MultivariateNormal, Normal

import evaluation
import inference
from datasets import ImageData
from evaluation import likelihood
from linalg import Dense, DiagonalPlusLowRank, TaperedLowRank
from models import Scores

SIGMA, SHAPE, SIZE = 0.3, (1, 4, 4), 16
LOG_2_PI_E = math.log(2 * math.pi) + 1


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def covariance():
    """C, `(D, D)`, far from diagonal."""
    root = normal(SIZE, 3, seed=0)
    return root @ root.T + torch.diag(0.1 + normal(SIZE, seed=1).square())


@pytest.fixture(scope="module")
def residuals(covariance):
    """20,000 draws from N(0, C)."""
    return normal(20_000, SIZE, seed=2) @ torch.linalg.cholesky(covariance).T


def mean_log_score(residuals: torch.Tensor, covariance: torch.Tensor) -> float:
    values, _ = evaluation.log_score(residuals, Dense(covariance.expand(len(residuals), -1, -1)))
    return float(values.mean())


def test_the_log_score_of_a_gaussian_is_its_negative_entropy(covariance, residuals):
    standard_error = (2 * SIZE * len(residuals)) ** -0.5
    variances = covariance.diagonal()
    expected = {
        "full": -(float(torch.logdet(covariance)) / SIZE + LOG_2_PI_E) / 2,
        "diagonal": -(float(variances.log().mean()) + LOG_2_PI_E) / 2,
        "isotropic": -(math.log(float(variances.mean())) + LOG_2_PI_E) / 2,
    }
    measured = {
        "full": mean_log_score(residuals, covariance),
        "diagonal": mean_log_score(residuals, torch.diag(variances)),
        "isotropic": evaluation.isotropic_log_score(float(residuals.square().mean())),
    }
    assert measured["full"] == pytest.approx(expected["full"], abs=5 * standard_error)
    for kind in ("diagonal", "isotropic"):  # of correlated entries, so that their mean is less certain
        assert measured[kind] == pytest.approx(expected[kind], abs=0.02)
    assert measured["full"] > measured["diagonal"] + 0.1 > measured["isotropic"] + 0.1
    for wrong in (0.5 * covariance, 2 * covariance, covariance + 0.1 * torch.eye(SIZE)):
        assert mean_log_score(residuals, wrong) < measured["full"]
    best = torch.eye(SIZE) * residuals.square().mean()
    assert mean_log_score(residuals, best) == pytest.approx(measured["isotropic"], abs=1e-5)


def test_whitened_residuals_are_standard_normal_where_the_covariance_is_true(covariance, residuals):
    def distance(matrix: torch.Tensor) -> float:
        _, white = evaluation.log_score(residuals, Dense(matrix.expand(len(residuals), -1, -1)))
        return evaluation.ks_distance(white)

    chance = 2 / residuals.numel() ** 0.5
    assert distance(covariance) < chance
    half = scipy.stats.norm.cdf(math.sqrt(2 * math.log(2))) - scipy.stats.norm.cdf(math.sqrt(math.log(2)))
    assert distance(2 * covariance) == pytest.approx(half, abs=chance)  # whitened they are N(0, ½)
    assert distance(covariance.diagonal().mean() * torch.eye(SIZE)) > 10 * chance


@pytest.mark.parametrize("count", [1, 2, 1001])
def test_ks_distance_is_that_of_scipy(count):
    values = 1.3 * normal(count, 1, seed=3) + 0.2
    expected = scipy.stats.kstest(values.flatten().double().numpy(), "norm").statistic
    assert evaluation.ks_distance(values) == pytest.approx(expected, abs=1e-6)


def scores_of(kind: str) -> Scores:
    """A network that is right nowhere."""
    alpha, beta = normal(SIZE, seed=4).abs() / 2 - 1, normal(SIZE, 3, seed=5)

    def s2(x):
        points = 1 + x.square().mean(1, keepdim=True)  # differs from point to point
        if kind == "diagonal":
            return DiagonalPlusLowRank(alpha * points)
        if kind == "tapered":
            ranges = torch.tensor([1.0, 2.0, torch.inf])
            return TaperedLowRank(alpha * points, beta * points[:, :, None], ranges, SHAPE)
        return DiagonalPlusLowRank((alpha - (20 if kind == "free" else 0)) * points, beta * points[:, :, None])

    return Scores(SIGMA, lambda x: -x, s2)


@pytest.fixture(scope="module")
def data():
    images = torch.randint(256, (300, *SHAPE), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    return ImageData(images, SHAPE, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["diagonal", "low rank", "tapered", "free"])
def test_log_scores_are_those_of_torch_distributions(data, kind):
    """The free one has negative variances, which are raised to the floor."""
    scores = scores_of(kind)
    measured = evaluation.log_scores(scores, data, seed=7)
    full, diagonal, errors = [], [], []
    for p in evaluation.noisy_batches(data, SIGMA, 7):
        posterior = inference.posterior(scores, p.inputs)
        assert (posterior.covariance.diagonal() < 0).any() == (kind == "free")
        matrix = posterior.covariance.clamp(posterior.floor)[0].to(torch.float64).dense()
        mean, clean = posterior.mean.double(), p.clean.double()
        full.append(MultivariateNormal(mean, matrix).log_prob(clean) / SIZE)
        scale = matrix.diagonal(dim1=1, dim2=2).sqrt()
        diagonal.append(Normal(mean, scale).log_prob(clean).mean(1))
        errors.append((clean - mean).square().mean(1))
    mse = torch.cat(errors).mean()
    isotropic = Normal(0, mse.sqrt()).log_prob(mse.sqrt())  # at a squared error that is the mean one
    for name, expected in (("", full), ("_diagonal", diagonal), ("_isotropic", [isotropic[None]])):
        assert measured[f"log_score{name}"] == pytest.approx(float(torch.cat(expected).mean()), rel=1e-4)
    assert measured["log_score_images"] == 300
    assert 0 < measured["ks_whitened"] < 1


def test_of_tapered_ones_as_many_images_as_can_be_had(data, monkeypatch):
    monkeypatch.setattr(likelihood, "WORK", 260 * SIZE**3)
    for count, fewest in ((260, 1), (280, 280)):
        monkeypatch.setattr(likelihood, "FEWEST", fewest)
        some = evaluation.log_scores(scores_of("tapered"), data, seed=7)
        assert some["log_score_images"] == count
    first = replace(data, images=data.images[:280])
    assert evaluation.log_scores(scores_of("tapered"), first, seed=7)["log_score"] == some["log_score"]
    assert evaluation.log_scores(scores_of("low rank"), data, seed=7)["log_score_images"] == 300


def test_no_log_score_without_a_second_order(data):
    with pytest.raises(ValueError, match="s2 is None; scores with a second order are expected"):
        evaluation.log_scores(Scores(SIGMA, lambda x: -x), data, seed=7)
