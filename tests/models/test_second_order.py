import pytest
import torch

import models
from configs import Config
from models import MLP, DiagonalHead, LowRankHead, ScoreModel, SharedScoreModel
from models.second_order import second_order_score


def config(runner: str, trunk: str, covariance: str, network: str = "refinenet") -> Config:
    section = {"ngf": 4, "trunk": trunk, "covariance": covariance, "network": network}
    return Config(runner=runner, rank=3, noise=0.3, model=section, data={"image_size": 8, "channels": 1})


@pytest.mark.parametrize("network", ["refinenet", "mlp"])
@pytest.mark.parametrize("covariance", ["free", "positive"])
@pytest.mark.parametrize("trunk", ["separate", "shared"])
@pytest.mark.parametrize(("runner", "rank"), [("LowRankHybridRunner", 3), ("DoubleDiagonalHybridRunner", None)])
def test_every_arrangement(runner, rank, trunk, covariance, network):
    torch.manual_seed(0)
    model = models.build_model(config(runner, trunk, covariance, network))
    x = torch.randn(4, 64)
    s1, s2 = model(x)
    assert s1.shape == (4, 64)
    assert s2.diagonal.shape == (4, 64)
    assert (None if s2.factor is None else s2.factor.shape[2]) == rank
    torch.testing.assert_close(model.s1(x), s1)
    torch.testing.assert_close(model.s2(x).dense(), s2.dense())
    s1, few = model(x, rows=2)
    assert (len(s1), len(few)) == (4, 2)
    torch.testing.assert_close(few.dense(), s2.dense()[:2])
    if covariance == "positive":
        assert (torch.linalg.eigvalsh(s2.affine(0.3**4, 0.3**2).dense()) > 0).all()


def test_trunks_are_what_they_say():
    assert isinstance(models.build_model(config("LowRankHybridRunner", "shared", "free")), SharedScoreModel)
    separate = models.build_model(config("LowRankHybridRunner", "separate", "free"))
    assert isinstance(separate, ScoreModel)
    assert isinstance(separate.s2, LowRankHead)
    assert isinstance(models.build_model(config("DoubleDiagonalHybridRunner", "separate", "free")).s2, DiagonalHead)
    assert models.build(config("UnetDSMRunner", "separate", "free"))[1] is None


@pytest.mark.parametrize("sigma", [0.01, 0.5, 5.0])
@pytest.mark.parametrize("raw", [-1e4, -20.0, 0.0, 50.0])
def test_a_positive_covariance_survives_rounding(sigma, raw):
    """Also where softplus is zero in float32, as σ⁴ s2 + σ² takes the difference of two equal numbers."""
    s2 = second_order_score(torch.full((1, 100), raw), torch.zeros(1, 100, 2), "positive", sigma)
    assert (s2.affine(sigma**4, sigma**2).full_diagonal() > 0).all()


def test_a_positive_covariance_is_softplus_and_factor_in_units_of_the_noise():
    raw, factor = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    covariance = second_order_score(raw, factor, "positive", 0.3).affine(0.3**4, 0.3**2).dense()
    expected = 0.09 * (torch.diag_embed(torch.nn.functional.softplus(raw)) + factor @ factor.mT / 4)
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-6)


def test_mlp_gives_blocks():
    network = MLP(5, 8, outputs=3)
    assert network(torch.randn(2, 5)).shape == (2, 15)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in network.layers) == 4
