import pytest
import torch

import models
from configs import Config, UserError
from models import MLP, DiagonalHead, LowRankHead, SeparateNetworks, SharedNetwork
from models.second_order import second_order_score

SHAPE = (1, 8, 8)


def config(runner: str, trunk: str, covariance: str, network: str = "refinenet") -> Config:
    section = {"ngf": 4, "trunk": trunk, "covariance": covariance, "network": network}
    return Config(runner=runner, rank=3, noise=0.3, model=section, data={"image_size": 8, "channels": 1})


@pytest.mark.parametrize("network", ["refinenet", "mlp"])
@pytest.mark.parametrize("covariance", ["free", "positive"])
@pytest.mark.parametrize("trunk", ["separate", "shared"])
@pytest.mark.parametrize(("runner", "rank"), [("LowRankHybridRunner", 3), ("DoubleDiagonalHybridRunner", 0)])
def test_every_arrangement(runner, rank, trunk, covariance, network):
    torch.manual_seed(0)
    model = models.build(config(runner, trunk, covariance, network), SHAPE)
    x = torch.randn(4, 64)
    s1, s2 = model(x, 0.3)
    assert s1.shape == (4, 64)
    assert s2.alpha.shape == (4, 64)
    assert s2.beta.shape == (4, 64, rank)
    torch.testing.assert_close(model.first_order(x, 0.3), s1)
    torch.testing.assert_close(model.second_order(x, 0.3).dense(), s2.dense())
    s1, few = model(x, 0.3, rows=2)
    assert (len(s1), len(few)) == (4, 2)
    torch.testing.assert_close(few.dense(), s2.dense()[:2])
    if covariance == "positive":
        assert (torch.linalg.eigvalsh((0.3**4 * s2 + 0.3**2).dense()) > 0).all()


def test_trunks_are_what_they_say():
    assert isinstance(models.build(config("LowRankHybridRunner", "shared", "free"), SHAPE), SharedNetwork)
    separate = models.build(config("LowRankHybridRunner", "separate", "free"), SHAPE)
    assert isinstance(separate, SeparateNetworks)
    assert isinstance(separate.s2, LowRankHead)
    assert isinstance(models.build(config("DoubleDiagonalHybridRunner", "separate", "free"), SHAPE).s2, DiagonalHead)
    assert models.build(config("UnetDSMRunner", "separate", "free"), SHAPE).s2 is None


def test_an_unknown_head_is_an_error():
    c = config("SyntheticRunner", "separate", "free")
    wrong = c.model_copy(update={"model": c.model.model_copy(update={"head": "dense"})})
    with pytest.raises(UserError, match="model.head: dense; none, diagonal or low_rank is expected"):
        models.build(wrong, SHAPE)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 5.0])
@pytest.mark.parametrize("raw", [-1e4, -20.0, 0.0, 50.0])
def test_a_positive_covariance_survives_rounding(sigma, raw):
    """Also where softplus is zero in float32, as σ⁴ s2 + σ² takes the difference of two equal numbers."""
    s2 = second_order_score(torch.full((1, 100), raw), torch.zeros(1, 100, 2), "positive", sigma)
    assert ((sigma**4 * s2 + sigma**2).diagonal() > 0).all()


def test_a_positive_covariance_is_softplus_and_factor_in_units_of_the_noise():
    raw, factor = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    covariance = (0.3**4 * second_order_score(raw, factor, "positive", 0.3) + 0.3**2).dense()
    expected = 0.09 * (torch.diag_embed(torch.nn.functional.softplus(raw)) + factor @ factor.mT / 4)
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-6)


def test_mlp_gives_blocks():
    network = MLP(5, 8, outputs=3)
    assert network(torch.randn(2, 5)).shape == (2, 15)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in network.layers) == 4
