"""σ for each point, in every form that is one; and nothing that is none."""

import math

import numpy as np
import pytest
import torch

import inference
import losses
from linalg import Dense, DiagonalPlusLowRank
from losses.perturbation import noise_level, noise_levels

close = torch.testing.assert_close
LEVELS = torch.tensor([0.1, 0.5, 2.0, 3.0])
SQUARE = torch.arange(16.0).view(4, 4)  # B = D: a σ of shape (B,) that broadcasts would be spread over the entries


def each_form(levels: torch.Tensor) -> list:
    return [levels, levels[:, None], levels.double(), levels.tolist(), levels.numpy(), levels[:, None].numpy()]


@pytest.mark.parametrize("form", range(6))
def test_a_level_for_each_point_goes_with_the_point(form):
    """Of every function of σ, against the points taken one at a time, where B = D."""
    sigma = each_form(LEVELS)[form]
    noise, s1 = torch.randn(4, 4), torch.randn(4, 4)
    s2 = DiagonalPlusLowRank(torch.randn(4, 4), torch.randn(4, 4, 2))
    p = losses.perturb(SQUARE, sigma, antithetic=True, noise=noise)
    mean, covariance = inference.posterior_mean(s1, SQUARE, sigma), inference.posterior_covariance(s2, sigma).dense()
    assert p.inputs.dtype == mean.dtype == covariance.dtype == torch.float32
    assert p.levels.shape == (12, 1)
    for i, level in enumerate(LEVELS.tolist()):
        row = slice(i, i + 1)
        one = losses.perturb(SQUARE[row], level, antithetic=True, noise=noise[row])
        close(p.inputs[i::4], one.inputs)
        for loss in (losses.dsm, losses.dsm_vr):
            close(
                loss(torch.zeros(12, 4), p, torch.eye(4)[i]) * 4,
                loss(torch.zeros(3, 4), one),
            )
        close(mean[row], inference.posterior_mean(s1[row], SQUARE[row], level))
        close(covariance[row], inference.posterior_covariance(s2[row], level).dense())


@pytest.mark.parametrize("sigma", [0.5, 1, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor(2)])
def test_one_level_for_all(sigma):
    number = float(sigma)
    noise = torch.randn(4, 4)
    close(losses.perturb(SQUARE, sigma, noise=noise).inputs, SQUARE + number * noise)
    close(inference.posterior_mean(noise, SQUARE, sigma), SQUARE + number**2 * noise)
    eye = Dense(torch.eye(4).expand(4, 4, 4))
    close(inference.posterior_covariance(eye, sigma).dense(), (number**4 + number**2) * torch.eye(4).expand(4, 4, 4))
    assert noise_level(sigma) == number


NOT_LEVELS = {
    "zero": (0.0, "sigma is 0; a positive, finite number is expected"),
    "negative": (-0.5, "sigma is -0.5; a positive, finite number is expected"),
    "NaN": (math.nan, "sigma is nan; a positive, finite number is expected"),
    "infinite": (math.inf, "sigma is inf; a positive, finite number is expected"),
    "no dimension, negative": (torch.tensor(-1.0), "sigma lies between -1 and -1; positive, finite numbers are"),
    "one is zero": (torch.tensor([1.0, 0.0, 1.0, 1.0]), "sigma lies between 0 and 1; positive, finite numbers are"),
    "one is negative": (torch.tensor([[1.0], [2.0], [-3.0], [1.0]]), "sigma lies between -3 and 2; positive, finite"),
    "one is NaN": (torch.tensor([1.0, math.nan, 1.0, 1.0]), "sigma lies between nan and nan; positive, finite"),
    "for other points": (torch.ones(3), r"sigma has shape (3,); a number, (4,) or (4, 1) is expected for 4 points"),
    "for all but one": (torch.ones(1), r"sigma has shape (1,); a number, (4,) or (4, 1) is expected for 4 points"),
    "a row": (torch.ones(1, 4), r"sigma has shape (1, 4); a number, (4,) or (4, 1) is expected for 4 points"),
    "for each entry": (torch.ones(4, 4), r"sigma has shape (4, 4); a number, (4,) or (4, 1) is expected"),
    "for images": (torch.ones(4, 1, 1, 1), r"sigma has shape (4, 1, 1, 1); a number, (4,) or (4, 1) is expected"),
    "text": ("0.5", "sigma is '0.5'; a number is expected"),
    "nothing": (None, "sigma is None; a number, or one for each point, is expected"),
    "truth": (True, "sigma is True; a number is expected"),
    "truths": (torch.ones(4, dtype=torch.bool), "sigma is of type torch.bool; positive, finite numbers are expected"),
    "complex": (torch.ones(4, dtype=torch.complex64), "sigma is of type torch.complex64; positive, finite numbers"),
    "words": (["a", "b"], "sigma is a list; a number, or one for each point, is expected"),
}


@pytest.mark.parametrize("case", NOT_LEVELS)
def test_what_is_no_level_is_refused(case):
    sigma, message = NOT_LEVELS[case]
    calls = (
        lambda: losses.perturb(SQUARE, sigma),
        lambda: losses.OBJECTIVES[2]["dsm_vr"].perturb(SQUARE, sigma),
        lambda: inference.posterior_mean(SQUARE, SQUARE, sigma),
        lambda: inference.posterior_covariance(Dense(torch.eye(4).expand(4, 4, 4)), sigma),
    )
    for call in calls:
        with pytest.raises(ValueError, match="sigma") as refusal:
            call()
        assert message in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_the_gradient_of_a_level_is_kept():
    sigma = torch.full((4,), 0.5, requires_grad=True)
    noise = torch.randn(4, 4)
    losses.perturb(SQUARE, sigma, noise=noise).inputs.sum().backward()
    close(sigma.grad, noise.sum(1))


def test_zero_stands_for_the_density_itself_where_it_may():
    assert noise_level(0, zero=True) == 0
    with pytest.raises(ValueError, match="a finite number, not negative, is expected"):
        noise_level(-1, zero=True)


def test_a_level_takes_the_type_of_the_points():
    assert noise_levels(LEVELS.double(), SQUARE).dtype == torch.float32
    assert noise_levels(torch.tensor(2), SQUARE.double()).dtype == torch.float64
    assert isinstance(noise_levels(np.float64(2), SQUARE), float)


def test_points_are_floats():
    with pytest.raises(ValueError, match="x is of type torch.int64; a tensor of floats"):
        losses.perturb(SQUARE.long(), 0.5)
    with pytest.raises(ValueError, match="x is of type ndarray; a tensor of floats"):
        losses.perturb(SQUARE.numpy(), 0.5)


def test_moments_need_scores_of_their_points():
    with pytest.raises(ValueError, match=r"s1 has shape \(1, 4\), the noisy points have \(4, 4\)"):
        inference.posterior_mean(SQUARE[:1], SQUARE, 0.5)
    with pytest.raises(ValueError, match=r"s2 is a Tensor; a matrix of linalg is expected, such as linalg.Dense\(s2\)"):
        inference.posterior_covariance(torch.eye(4).expand(4, 4, 4), 0.5)
    with pytest.raises(ValueError, match="s2 is None; a matrix of linalg is expected"):
        inference.posterior_covariance(None, 0.5)


def test_a_weight_for_each_point():
    """`(B, 1)` weights would be multiplied with each of the B losses."""
    p = losses.perturb(SQUARE, 0.5)
    for weight in (torch.ones(4, 1), torch.ones(3), torch.ones(())):
        with pytest.raises(ValueError, match=r"weight has shape .*; \(4,\) is expected, one for each point"):
            losses.dsm(SQUARE, p, weight)
