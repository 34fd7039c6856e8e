"""What the plots show: labels, scales and values; how they look is for people."""

import numpy as np
import pytest
import torch

import datasets
import evaluation
import inference
from linalg import DiagonalPlusLowRank, SymmetricCP
from models import Scores


def test_a_row_of_pictures_for_each_label():
    rows = {"clean": torch.rand(3, 3, 4, 4), "noisy": torch.rand(3, 3, 4, 4)}
    figure = evaluation.image_rows(rows, "title")
    assert [axis.get_ylabel() for axis in figure.axes] == ["clean", "noisy"]
    for axis, images in zip(figure.axes, rows.values(), strict=True):
        shown = pictures(axis, 4)
        assert len(shown) == 3
        for ours, image in zip(shown, images, strict=True):
            assert np.array_equal(ours, image.permute(1, 2, 0).numpy())


def pictures(axis, width: int) -> list[np.ndarray]:
    """The pictures of a row, which are one, with a pixel between them."""
    line = np.asarray(axis.images[0].get_array())
    return [line[:, start : start + width] for start in range(0, line.shape[1], width + 1)]


@pytest.fixture
def posterior():
    """Of three grey images of 4×4: mean x̃, variance σ² but for the last entry, (1 + 8)σ²."""
    sigma = 0.1
    beta = torch.zeros(3, 16, 1)
    beta[:, 15] = 8**0.5 / sigma
    scores = Scores(sigma, torch.zeros_like, lambda x: DiagonalPlusLowRank(torch.zeros_like(x), beta))
    return inference.posterior(scores, torch.full((3, 16), 0.5))


def test_rows_of_a_posterior(posterior):
    figure = evaluation.posterior_figure(posterior, (1, 4, 4), torch.zeros(3, 16), components=1)
    labels = [axis.get_ylabel() for axis in figure.axes if axis.images and axis.get_ylabel()]
    assert labels == ["clean", "noisy", "denoised", "std", "PC 1"]
    std = figure.axes[3].images[0]
    assert std.get_array().max() == pytest.approx(0.3, rel=1e-5)
    assert std.get_array().min() == pytest.approx(0.1, rel=1e-5)
    component = pictures(figure.axes[4], 4)[0]
    assert component.reshape(16)[15] == pytest.approx(1, abs=1e-5)
    assert abs(component.reshape(16)[:15]).max() < 1e-5


def test_a_walk_goes_from_minus_to_plus_reach_standard_deviations(posterior):
    figure = evaluation.walk_figure(posterior, (1, 4, 4), components=1, reach=1.5)
    (axis,) = figure.axes
    last = [float(picture.reshape(16)[15]) for picture in pictures(axis, 4)]
    assert last == pytest.approx([0.5 + 0.3 * step for step in torch.linspace(-1.5, 1.5, 7).tolist()], abs=1e-4)
    assert [label.get_text() for label in axis.get_xticklabels()][::3] == ["-1.5 std", "mean", "+1.5 std"]
    assert axis.get_xticks() == pytest.approx([1.5 + 5 * k for k in range(7)])
    assert axis.get_ylabel() == "PC 1\nstd 0.3"


def test_beside_a_walk_is_the_distribution_along_it_where_s3_is_known(posterior):
    scores = posterior.scores
    third = SymmetricCP.diagonal_only(torch.full((3, 16), 600.0))

    def curved(x: torch.Tensor) -> DiagonalPlusLowRank:
        beta = torch.zeros(len(x), 16, 1)
        beta[:, 15] = 8**0.5 / scores.sigma
        return DiagonalPlusLowRank(600 * (x - 0.5), beta)

    known = Scores(scores.sigma, scores.s1, curved, shape=scores.shape, s3=lambda x: third[: len(x)])
    figure = evaluation.walk_figure(
        inference.posterior(known, posterior.noisy), (1, 4, 4), components=2, clean=posterior.mean
    )
    curves = [axis for axis in figure.axes if axis.lines]
    assert len(curves) == 2
    answers = inference.posterior(known, posterior.noisy)
    _, directions = answers.principal_components(2)
    skewness = answers.skewness(directions)[0]
    for axis, value in zip(curves, skewness.tolist(), strict=True):
        assert axis.get_title() == f"skewness {value:+.2f}"
        normal, skewed, clean = axis.lines
        assert clean.get_xdata()[0] == pytest.approx(0, abs=1e-5)
        assert sum(skewed.get_ydata()) * 0.05 == pytest.approx(1, abs=0.02)
        assert max(skewed.get_ydata()) != max(normal.get_ydata())


def test_fields_of_a_normal_with_and_without_its_second_order():
    """N(0, C): s2 = −(C + σ²I)⁻¹ everywhere."""
    covariance = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
    density = datasets.multivariate_normal(torch.zeros(2), covariance)
    exact = density.at(0.5)
    scores = {"exact": exact, "Jacobian": Scores(0.5, exact.s1)}
    figure = evaluation.score_fields(scores, lambda x: density.log_prob(x, 0.5))
    s2 = -torch.linalg.inv(covariance + 0.25 * torch.eye(2))
    for column, name in enumerate(scores):
        assert figure.axes[column].get_title() == f"{name}: s1"
        for row, (i, j) in enumerate(((0, 0), (0, 1), (1, 1))):
            shown = np.asarray(figure.axes[2 * (row + 1) + column].images[0].get_array())
            assert shown == pytest.approx(np.full((81, 81), s2[i, j].item()), rel=1e-4)


def test_calibration_has_a_line_for_each_name_and_the_diagonal():
    collected = evaluation.Predictions()
    collected.add(torch.rand(5, 4), torch.rand(5, 4))
    figure = evaluation.calibration_figure({"a": collected, "b": collected})
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines[:2]] == ["a", "b"]
    assert len(lines) == 3
    predicted, observed = collected.bins()
    assert lines[0].get_xdata() == pytest.approx(predicted.numpy())
    assert lines[0].get_ydata() == pytest.approx(observed.numpy())


def test_what_cannot_be_shown_says_so(posterior):
    with pytest.raises(ValueError, match=r"no rows; one of pictures \(n, C, H, W\) at least is expected"):
        evaluation.image_rows({})
    rows = {"clean": torch.rand(3, 1, 4, 4), "noisy": torch.rand(2, 1, 4, 4)}
    with pytest.raises(
        ValueError, match=r"row 'noisy' has shape \(2, 1, 4, 4\); 3 pictures .* are expected, as in the"
    ):
        evaluation.image_rows(rows)
    with pytest.raises(ValueError, match=r"row 'flat' has shape \(3, 16\); 3 pictures"):
        evaluation.image_rows({"flat": torch.rand(3, 16)})
    for figure in (evaluation.posterior_figure, evaluation.walk_figure):
        with pytest.raises(ValueError, match=r"shape is \(1, 5, 5\); that of an image \(C, H, W\) of 16 entries is"):
            figure(posterior, (1, 5, 5))
    for index in (3, -1):
        with pytest.raises(ValueError, match=f"index is {index}; a "):
            evaluation.walk_figure(posterior, (1, 4, 4), index=index)
    with pytest.raises(ValueError, match="components is -1; a whole number, 0 or more, is expected"):
        evaluation.posterior_figure(posterior, (1, 4, 4), components=-1)
    with pytest.raises(ValueError, match="reach is 0; a positive, finite number is expected"):
        evaluation.walk_figure(posterior, (1, 4, 4), reach=0)
    with pytest.raises(ValueError, match="no scores; a name and models.Scores in two dimensions"):
        evaluation.score_fields({}, torch.neg)
    with pytest.raises(ValueError, match="no predictions"):
        evaluation.calibration_figure({"a": evaluation.Predictions()})
