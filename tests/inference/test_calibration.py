"""On Gaussian data with the exact scores, every figure has a known value."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

import inference
from datasets import ImageData
from models import DiagonalPlusLowRank

SIGMA, SIZE = 0.2, 4


class Exact(nn.Module):
    """The exact scores of `x̃ = x + σz`, `x ~ N(½, diag(d) + UUᵀ)`."""

    def __init__(self, d: torch.Tensor, u: torch.Tensor):
        super().__init__()
        noisy = torch.diag(d) + u @ u.T + SIGMA**2 * torch.eye(len(d))
        self.precision = torch.linalg.inv(noisy)
        covariance = SIGMA**2 * torch.eye(len(d)) - SIGMA**4 * self.precision
        # any split into a diagonal and a factor will do
        values, vectors = torch.linalg.eigh(covariance)
        self.floor = values[0] / 2
        self.factor = vectors * (values - self.floor).sqrt()
        self.covariance = covariance

    def s1(self, x):
        return (0.5 - x) @ self.precision

    def forward(self, x, rows=None):
        diagonal = (self.floor - SIGMA**2).expand(len(x), x.shape[1]) / SIGMA**4
        factor = (self.factor / SIGMA**2).expand(len(x), -1, -1)
        return self.s1(x), DiagonalPlusLowRank(diagonal, factor)


@pytest.fixture(scope="module")
def setting():
    """10000 images of 4×4 whose values lie within the bytes' range, and their exact model."""
    torch.manual_seed(0)
    d = torch.full((SIZE**2,), 0.01**2)
    u = 0.05 * torch.randn(SIZE**2, 2)
    x = 0.5 + torch.randn(10_000, 2) @ u.T + 0.01 * torch.randn(10_000, SIZE**2)
    images = (x * 255).round().clamp(0, 255).to(torch.uint8).view(-1, 1, SIZE, SIZE)
    return Exact(d, u), ImageData(images, (1, SIZE, SIZE), torch.device("cpu"))


def expected_capture(model: Exact, k: int) -> float:
    values = torch.linalg.eigvalsh(model.covariance).flip(0)
    return float(values[:k].sum() / values.sum())


def test_exact_scores_have_perfect_figures(setting):
    model, data = setting
    found = inference.predictions(model, data, SIGMA, seed=1)
    figures = found.figures()
    assert figures["trace_ratio"] == pytest.approx(1, abs=0.05)
    assert figures["negative_variances"] == 0
    for level in (50, 90, 95):
        assert figures[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.01)
    for k in (1, 5, 10):
        assert figures[f"captured_{k}"] == pytest.approx(expected_capture(model, k), abs=0.03)
    assert figures["component_ratios"][:2] == pytest.approx([1, 1], abs=0.1)
    predicted, observed = found.bins()
    torch.testing.assert_close(observed, predicted, rtol=0.1, atol=0)


def test_the_jacobian_of_an_exact_score_is_the_exact_s2(setting):
    model, data = setting
    data = replace(data, images=data.images[:200])
    found = inference.jacobian_predictions(model.s1, data, SIGMA, seed=1, seconds=1e9)
    ours = inference.predictions(model, data, SIGMA, seed=1)
    assert len(found.variances) == 200
    torch.testing.assert_close(torch.cat(found.variances), torch.cat(ours.variances), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(torch.cat(found.eigenvalues), torch.cat(ours.eigenvalues), rtol=1e-2, atol=1e-6)


def test_the_time_given_to_the_jacobian_is_kept(setting):
    model, data = setting
    assert not inference.jacobian_predictions(model.s1, data, SIGMA, seed=1, seconds=0).variances
    started = time.monotonic()
    found = inference.jacobian_predictions(model.s1, data, SIGMA, seed=1, seconds=1)
    assert 0 < len(found.variances) < len(data)
    assert time.monotonic() - started < 10


def test_negative_variances_are_counted_and_cover_nothing():
    found = inference.Predictions()
    found.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0, 3.0]]))
    figures = found.figures()
    assert figures["negative_variances"] == 0.5
    assert figures["trace_ratio"] == 0.5
    assert figures["coverage_95"] == 0.5
    assert "captured_1" not in figures


def test_calibration_figure_has_a_line_for_each_name_and_the_diagonal(setting):
    model, data = setting
    found = inference.predictions(model, data, SIGMA, seed=1)
    figure = inference.calibration_figure({"a": found, "b": found})
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels[:2] == ["a", "b"]
    assert len(labels) == 3
