import pytest
import torch

import datasets
import evaluation
from configs import Config
from linalg import Dense
from models import Scores


@pytest.fixture(scope="module")
def data():
    return datasets.load(Config(data={"dataset": "Synthetic", "density": "two_moons", "size": 1000}), "test")


def test_errors_of_the_exact_scores_are_zero(data):
    exact = data.density.at(0.3)
    for scores in (exact, Scores(0.3, exact.s1)):
        errors = evaluation.score_errors(scores, data, 0, 1000)
        assert max(errors.values()) < 1e-3


@pytest.mark.parametrize("second_order", [True, False])
def test_scores_of_twice_the_size_have_a_relative_error_of_one(data, second_order):
    """With and without an s2 of their own: that of s1's Jacobian is twice the exact one as well."""
    s2 = (lambda x: Dense(2 * data.density.s2(x, 0.3))) if second_order else None
    scores = Scores(0.3, lambda x: 2 * data.density.s1(x, 0.3), s2)
    errors = evaluation.score_errors(scores, data, 0, 1000)
    for name in ("s1", "s2", "s2_diagonal"):
        assert errors[f"relative_{name}_error"] == pytest.approx(1, rel=1e-4)
    points = torch.cat([p.inputs for p in evaluation.noisy_batches(data, 0.3, 0, batch_size=500)])
    exact = data.density.s2(points.double(), 0.3)
    assert errors["s2_error"] == pytest.approx(exact.square().sum((1, 2)).mean().item(), rel=1e-4)
    diagonals = exact.diagonal(dim1=1, dim2=2)
    assert errors["s2_diagonal_error"] == pytest.approx(diagonals.square().sum(1).mean().item(), rel=1e-4)
    assert errors["s1_error"] == pytest.approx(
        data.density.s1(points.double(), 0.3).square().sum(1).mean().item(), rel=1e-4
    )


def test_as_many_points_as_asked_for_in_whole_batches(data):
    """s1 off by one in each of two entries: an error of 2 at however many points."""
    calls = []

    def s1(x):
        calls.append(len(x))
        return data.density.s1(x, 0.3) + 1

    scores = Scores(0.3, s1, data.density.at(0.3).s2)
    assert evaluation.score_errors(scores, data, 0, 400)["s1_error"] == pytest.approx(2, rel=1e-5)
    assert calls == [500]


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_errors_are_over_some_points(data, count):
    with pytest.raises(ValueError, match=f"count is {count}; a whole number, 1 or more, is expected"):
        evaluation.score_errors(data.density.at(0.3), data, 0, count)
