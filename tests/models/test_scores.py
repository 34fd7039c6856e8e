"""One object for both orders, whatever it comes from."""

import math

import pytest
import torch

import inference
import models
from configs import Config, UserError
from datasets import GaussianMixture
from linalg import DiagonalPlusLowRank
from models import Scores, SharedNetwork

close = torch.testing.assert_close
SHAPE = (1, 8, 8)


def a_model(runner: str = "LowRankHybridRunner") -> models.ScoreModel:
    torch.manual_seed(0)
    config = Config(runner=runner, rank=2, noise=0.5, model={"ngf": 8, "network": "mlp", "trunk": "shared"})
    return models.score_model(models.build(config, SHAPE), config, SHAPE)


def test_both_orders_in_one_call_of_the_network():
    calls = []

    class Trunk(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.repeat(1, 4)

    config = Config(runner="LowRankHybridRunner", rank=2, noise=0.5)
    scores = models.score_model(SharedNetwork(Trunk(), 2, "positive", 0.5), config, (6,)).at(0.5)
    x = torch.randn(3, 6)
    s1, s2 = scores(x)
    assert calls == [3]
    close(scores.s1(x), s1)
    close(scores.s2(x).dense(), s2.dense())
    assert calls == [3, 3, 3]
    calls.clear()
    posterior = inference.posterior(scores, x)
    assert calls == [3]
    close(posterior.covariance.dense(), 0.5**4 * s2.dense() + 0.25 * torch.eye(6))
    close(posterior.mean, x + 0.25 * s1)


def test_a_level_that_the_model_has_not_is_refused_by_name():
    model = a_model()
    assert (model.sigmas, model.shape, model.config.rank) == ((0.5, 0.5), SHAPE, 2)
    assert model.at(0.5).sigma == model.at(torch.tensor(0.5)).sigma == 0.5
    with pytest.raises(UserError, match=r"the model has scores at σ = 0\.5, not at σ = 0\.3"):
        model.at(0.3)
    ranged = models.from_denoiser(lambda x, sigma: x, sigmas=(0.1, 2.0), shape=(3,))
    assert ranged.at(2.0).sigma == 2.0
    with pytest.raises(UserError, match=r"the model has scores at σ from 0\.1 to 2, not at σ = 0\.05"):
        ranged.at(0.05)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_a_level_is_a_number(sigma):
    with pytest.raises(ValueError, match="a finite number, not negative, is expected"):
        Scores(sigma, torch.neg)
    with pytest.raises(ValueError, match="a finite number, not negative, is expected"):
        a_model().at(sigma)


def test_a_level_for_each_point_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"sigma has shape \(3, 1\); scores have one noise level"):
        Scores(torch.ones(3, 1), torch.neg)


def test_first_order_alone():
    scores = a_model("UnetDSMRunner").at(0.5)
    s1, s2 = scores(torch.randn(3, 64))
    assert s1.shape == (3, 64)
    assert s2 is None
    assert scores.s2 is None


class TestFromADenoiser:
    def test_s1_is_tweedies(self):
        """The denoiser of N(0, I) is x̃/(1 + σ²), and its score −x̃/(1 + σ²)."""
        x = torch.randn(5, 3, dtype=torch.float64)
        model = models.from_denoiser(lambda x, sigma: x / (1 + sigma**2), sigmas=(0.1, 2.0), shape=(3,))
        for sigma in (0.1, 0.7, 2.0):
            close(model.at(sigma).s1(x), -x / (1 + sigma**2))
            assert model.at(sigma).s2 is None

    def test_images_are_given_as_images(self):
        seen = []

        def denoise(x, sigma):
            seen.append(tuple(x.shape))
            return x / 2

        model = models.from_denoiser(denoise, sigmas=(0.5, 0.5), shape=(3, 4, 6))
        assert model.at(0.5).s1(torch.randn(2, 72)).shape == (2, 72)
        assert seen == [(2, 3, 4, 6)]
        assert model.config is None
        assert model.device == torch.device("cpu")

    @pytest.mark.parametrize("sigmas", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
    def test_levels_ascend(self, sigmas):
        with pytest.raises(ValueError, match="the lowest and the highest noise level are expected"):
            models.from_denoiser(lambda x, sigma: x, sigmas=sigmas, shape=(3,))


def test_the_three_lines_are_the_same_for_every_source():
    """A density, its denoiser as a bare function, and the same with a second order: one posterior."""
    density = GaussianMixture([1.0], torch.zeros(1, 3), torch.diag(torch.tensor([1.0, 0.5, 0.1]))[None])
    variances = torch.tensor([1.0, 0.5, 0.1])
    denoiser = models.from_denoiser(lambda x, s: x * variances / (variances + s**2), sigmas=(0.1, 2.0), shape=(3,))
    noisy = torch.randn(4, 3)
    exact, implied = (inference.posterior(source.at(0.7), noisy) for source in (density, denoiser))
    by_hand = Scores(
        0.7,
        lambda x: -x / (variances + 0.49),
        lambda x: DiagonalPlusLowRank(-1 / (variances + 0.49).expand(len(x), 3)),
    )
    for posterior in (exact, implied, inference.posterior(by_hand, noisy)):
        close(posterior.mean, noisy * variances / (variances + 0.49), rtol=1e-4, atol=1e-5)
        close(posterior.variance(), (0.49 * variances / (variances + 0.49)).expand(4, 3), rtol=1e-4, atol=1e-5)
