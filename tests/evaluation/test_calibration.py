"""On Gaussian data with the exact scores, every metric has a known value."""

import math
import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import evaluation
from datasets import ImageData
from linalg import Dense, DiagonalPlusLowRank
from models import Scores

SIGMA, SIZE = 0.2, 4


@dataclass(frozen=True)
class Setting:
    """Images `x ~ N(½, diag(d) + UUᵀ)`, the exact scores of `x̃ = x + σz`, and the covariance of x given x̃."""

    scores: Scores
    data: ImageData
    covariance: Tensor


@pytest.fixture(scope="module")
def setting():
    """10000 images of 4×4 whose values lie within the bytes' range."""
    torch.manual_seed(0)
    identity = torch.eye(SIZE**2)
    d = torch.full((SIZE**2,), 0.01**2)
    u = 0.05 * torch.randn(SIZE**2, 2)
    x = 0.5 + torch.randn(10_000, 2) @ u.T + 0.01 * torch.randn(10_000, SIZE**2)
    images = (x * 255).round().clamp(0, 255).to(torch.uint8).view(-1, 1, SIZE, SIZE)
    precision = torch.linalg.inv(torch.diag(d) + u @ u.T + SIGMA**2 * identity)
    covariance = SIGMA**2 * identity - SIGMA**4 * precision
    values, vectors = torch.linalg.eigh(covariance)
    floor = values[0] / 2  # any split into a diagonal and a factor will do
    beta = vectors * (values - floor).sqrt() / SIGMA**2

    def s2(x):
        alpha = (floor - SIGMA**2).expand(x.shape) / SIGMA**4
        return DiagonalPlusLowRank(alpha, beta.expand(len(x), -1, -1))

    scores = Scores(SIGMA, lambda x: (0.5 - x) @ precision, s2)
    return Setting(scores, ImageData(images, (1, SIZE, SIZE), torch.device("cpu")), covariance)


def few(data: ImageData) -> ImageData:
    return replace(data, images=data.images[:200])


def test_exact_scores_have_perfect_metrics(setting):
    collected = evaluation.predictions(setting.scores, setting.data, seed=1)
    metrics = collected.metrics()
    assert metrics["trace_ratio"] == pytest.approx(1, abs=0.05)
    assert metrics["negative_variances"] == 0
    for level in (50, 90, 95):
        assert metrics[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.01)
    values = torch.linalg.eigvalsh(setting.covariance).flip(0)
    for k in (1, 5, 10):
        assert metrics[f"captured_{k}"] == pytest.approx(float(values[:k].sum() / values.sum()), abs=0.03)
    assert metrics["component_ratios"][:2] == pytest.approx([1, 1], abs=0.1)
    predicted, observed = collected.bins()
    torch.testing.assert_close(observed, predicted, rtol=0.1, atol=0)


def test_variances_and_components_are_those_of_the_covariance(setting):
    collected = evaluation.predictions(setting.scores, few(setting.data), seed=1)
    variances, eigenvalues = torch.cat(collected.variances), torch.cat(collected.eigenvalues)
    torch.testing.assert_close(variances, setting.covariance.diagonal().expand(200, -1), rtol=1e-4, atol=1e-7)
    expected = torch.linalg.eigvalsh(setting.covariance.double()).flip(0)[:10].float()
    torch.testing.assert_close(eigenvalues, expected.expand(200, -1), rtol=1e-3, atol=1e-7)


def test_the_jacobian_of_an_exact_score_is_the_exact_s2(setting):
    data = few(setting.data)
    jacobian = evaluation.jacobian_predictions(setting.scores, data, seed=1, seconds=1e9)
    head = evaluation.predictions(setting.scores, data, seed=1)
    assert len(jacobian.variances) == 200
    torch.testing.assert_close(torch.cat(jacobian.variances), torch.cat(head.variances), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(torch.cat(jacobian.eigenvalues), torch.cat(head.eigenvalues), rtol=1e-2, atol=1e-6)
    assert not evaluation.jacobian_predictions(setting.scores, data, seed=1, seconds=1, components=False).eigenvalues


def test_components_where_the_covariance_is_not_diagonal(setting):
    """A dense s2 has the components of the same matrix in low rank; a diagonal one has none."""
    data, s1, s2 = few(setting.data), setting.scores.s1, setting.scores.s2
    dense = evaluation.predictions(Scores(SIGMA, s1, lambda x: Dense(s2(x).dense())), data, seed=1)
    low_rank = evaluation.predictions(setting.scores, data, seed=1)
    torch.testing.assert_close(torch.cat(dense.eigenvalues), torch.cat(low_rank.eigenvalues), rtol=1e-3, atol=1e-6)
    diagonal = Scores(SIGMA, s1, lambda x: DiagonalPlusLowRank(s2(x).diagonal()))
    collected = evaluation.predictions(diagonal, data, seed=1)
    assert not collected.eigenvalues
    torch.testing.assert_close(torch.cat(collected.variances), torch.cat(low_rank.variances), rtol=1e-4, atol=1e-7)


def test_predictions_need_a_second_order(setting):
    with pytest.raises(ValueError, match="s2 is None"):
        evaluation.predictions(Scores(SIGMA, setting.scores.s1), setting.data, seed=1)


def test_the_time_given_to_the_jacobian_is_kept(setting):
    assert not evaluation.jacobian_predictions(setting.scores, setting.data, seed=1, seconds=0).variances
    started = time.monotonic()
    collected = evaluation.jacobian_predictions(setting.scores, setting.data, seed=1, seconds=1)
    assert 0 < len(collected.variances) < len(setting.data)
    assert time.monotonic() - started < 10


def test_negative_variances_are_counted_and_cover_nothing():
    collected = evaluation.Predictions()
    collected.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0, 3.0]]))
    metrics = collected.metrics()
    assert metrics["negative_variances"] == 0.5
    assert metrics["trace_ratio"] == 0.5
    assert metrics["coverage_95"] == 0.5
    assert "captured_1" not in metrics


def test_correlations_of_predicted_and_true_errors():
    variances = torch.tensor([[1.0, 2.0], [3.0, 10.0]])

    def correlations(squared_errors, variances=variances):
        collected = evaluation.Predictions()
        collected.add(squared_errors.sqrt(), variances)
        metrics = collected.metrics()
        return metrics["correlation_by_pixel"], metrics["correlation_by_image"]

    assert correlations(5 * variances) == pytest.approx((1, 1))
    assert correlations(11 - variances) == pytest.approx((-1, -1))
    within = correlations(variances.flip(1))  # right for the images, wrong within them
    assert within == pytest.approx((float(torch.corrcoef(torch.tensor([[1.0, 2, 3, 10], [2.0, 1, 10, 3]]))[0, 1]), 1))
    powers = correlations(variances**2, variances[:, :1].expand(2, 2))
    assert powers[1] == pytest.approx(1)
    assert all(map(math.isnan, correlations(torch.ones(2, 2))))
    assert correlations(torch.zeros(2, 2), -variances) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_predictions_that_are_none_say_so(setting):
    with pytest.raises(ValueError, match="seconds is -1; a number, 0 or more, is expected"):
        evaluation.jacobian_predictions(setting.scores, setting.data, 0, seconds=-1)
    collected = evaluation.Predictions()
    for ask in (collected.metrics, collected.bins):
        with pytest.raises(
            ValueError, match="no predictions; where they come from a Jacobian, more seconds are expected"
        ):
            ask()
    with pytest.raises(ValueError, match=r"residual has shape \(5, 4\), variances have \(4,\); \(B, D\) is expected"):
        collected.add(torch.zeros(5, 4), torch.zeros(4))
    collected.add(torch.zeros(5, 4), torch.ones(5, 4))
    with pytest.raises(
        ValueError, match="components in some of the batches; in every one or in none they are expected"
    ):
        collected.add(torch.zeros(5, 4), torch.ones(5, 4), (torch.ones(5, 1), torch.ones(5, 4, 1)))
    with pytest.raises(ValueError, match="count is 0; a whole number, 1 or more, is expected"):
        collected.bins(0)
    with pytest.raises(ValueError, match="count is 21; at most 20 bins can be had, one for each entry"):
        collected.bins(21)
