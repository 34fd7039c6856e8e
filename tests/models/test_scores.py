"""One object for both orders, whatever it comes from."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

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


class TestPoints:
    """Given in any form, or refused with what is expected."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_become_those_of_the_model(self, dtype):
        scores = a_model().at(0.5)
        images = torch.rand(3, *SHAPE).to(dtype)
        flat = images.flatten(1).float()
        forms = [images, images.flatten(1), list(images), images.requires_grad_()]
        if dtype != torch.bfloat16:
            forms += [images.detach().numpy(), list(images.detach().numpy()), images.detach().tolist()]
        for form in forms:
            points = scores.points(form)
            assert points.dtype == torch.float32
            assert not points.requires_grad
            assert torch.equal(points, flat)

    def test_of_no_known_type_keep_theirs_but_for_half_precision(self):
        scores = Scores(0.5, torch.neg)
        for dtype in (torch.float64, torch.float32):
            assert scores.points(torch.zeros(2, 3, dtype=dtype)).dtype == dtype
        for dtype in (torch.float16, torch.bfloat16):
            assert scores.points(torch.zeros(2, 3, dtype=dtype)).dtype == torch.float32
        assert scores.points(torch.zeros(2, 1, 4, 4)).shape == (2, 16)

    WRONG = {
        "another D": (torch.zeros(2, 63), "x has shape (2, 63); (B, 64) or (B, 1, 8, 8) is expected"),
        "one point": (
            torch.zeros(64),
            "x has shape (64,); (B, 64) or (B, 1, 8, 8) is expected, [None] adds the axis B",
        ),
        "one image": (torch.zeros(SHAPE), "(B, 64) or (B, 1, 8, 8) is expected, [None] adds the axis B"),
        "channels last": (np.zeros((2, 8, 8, 1), np.float32), "x has shape (2, 8, 8, 1); (B, 64) or (B, 1, 8, 8) is"),
        "pixels": (
            torch.zeros(2, 64, dtype=torch.uint8),
            "x is of type torch.uint8; floats in the units of the scores",
        ),
        "integers": (np.zeros((2, 64), np.int64), "x is of type torch.int64; floats in the units of the scores"),
        "complex": (torch.zeros(2, 64, dtype=torch.complex64), "x is of type torch.complex64; floats in the units"),
        "text in an array": (np.array(["a"]), "x is of type <U1; floats in the units of the scores are expected"),
        "not finite": (torch.full((2, 64), math.nan), "x has 128 of 128 values that are not finite"),
        "a picture": (Image.new("L", (8, 8)), "x is of type Image; a tensor or array of floats (B, D) is expected"),
        "pictures": ([Image.new("L", (8, 8))], "x is a list of parts that differ or are no numbers; an array is"),
        "parts that differ": ([torch.zeros(64), torch.zeros(63)], "x is a list of parts that differ"),
        "an empty list": ([], "x is of type list; a tensor or array of floats (B, D) is expected"),
        "nothing": (None, "x is of type NoneType; a tensor or array of floats (B, D) is expected"),
        "a path": ("one.png", "x is of type str; a tensor or array of floats (B, D) is expected"),
    }

    @pytest.mark.parametrize("case", WRONG)
    def test_that_are_none_are_refused_with_what_is_expected(self, case):
        x, message = self.WRONG[case]
        with pytest.raises(ValueError, match="x ") as refusal:
            a_model().at(0.5).points(x)
        assert message in str(refusal.value)
        assert "\n" not in str(refusal.value)

    def test_of_another_size_are_named_wherever_they_meet_the_scores(self):
        scores = a_model().at(0.5)
        for call in (scores, scores.s1, scores.s2):
            with pytest.raises(ValueError, match=r"points of shape \(2, 63\); a tensor \(B, 64\) is expected"):
                call(torch.zeros(2, 63))
            with pytest.raises(ValueError, match=r"points of the type ndarray; a tensor \(B, 64\) is expected"):
                call(np.zeros((2, 64)))


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

    def test_its_answer_has_the_shape_of_the_question(self):
        model = models.from_denoiser(lambda x, sigma: x.mean(1), sigmas=(0.5, 0.5), shape=(3, 4, 6))
        with pytest.raises(
            ValueError, match=r"denoise returned .*\[2, 4, 6\].* for points \(2, 3, 4, 6\); the same is"
        ):
            model.at(0.5).s1(torch.zeros(2, 72))

    @pytest.mark.parametrize("shape", [(), (2, 3), 4, None, (0,)])
    def test_points_have_a_shape(self, shape):
        with pytest.raises(ValueError, match=r"shape is .*; that of a point is expected, \(C, H, W\) or \(D,\)"):
            models.from_denoiser(lambda x, sigma: x, sigmas=(0.1, 1.0), shape=shape)

    def test_is_a_function(self):
        with pytest.raises(ValueError, match="denoise is of type Tensor; a function of noisy points and σ is expected"):
            models.from_denoiser(torch.zeros(3), sigmas=(0.1, 1.0), shape=(3,))

    @pytest.mark.parametrize("sigmas", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (1.0,), 1.0])
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
