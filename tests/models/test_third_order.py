"""The third-order head: its tensor, its units, where it begins, and its networks beside those of the lower orders."""

import math

import pytest
import torch

import models
from configs import Config
from linalg import SymmetricCP
from models import ThirdOrderNetworks, variance_scale

close = torch.testing.assert_close
SHAPE = (1, 8, 8)
MEAN, STD = 0.3, 0.5


def config(runner: str = "LowRankHybridRunner", **more) -> Config:
    model = {"network": "unet", "unet": {"widths": [8, 8]}, "taper": {2.0: 3, math.inf: 1}, "order": 3, **more}
    if runner == "DoubleDiagonalHybridRunner":
        model["taper"] = None
    return Config(
        runner=runner, loss="centered", noise=[0.01, 10.0], rank=4, model=model, data={"mean": MEAN, "std": STD}
    )


def networks(*args, trained: bool = True, **options) -> ThirdOrderNetworks:
    torch.manual_seed(0)
    network = models.build(config(*args, **options), SHAPE)
    assert isinstance(network, ThirdOrderNetworks)
    if trained:
        for part in (network.lower.denoiser, network.lower.covariance, network.third):
            torch.nn.init.normal_(part.network.conv_out.weight, std=0.2)
    return network


def points(count: int = 3) -> torch.Tensor:
    return MEAN + STD * torch.randn(count, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("runner", ["LowRankHybridRunner", "DoubleDiagonalHybridRunner"])
def test_it_begins_at_zero(runner):
    _, _, s3 = networks(runner, trained=False)(points(), 0.5)
    assert isinstance(s3, SymmetricCP)
    assert s3.rank == (4 if runner == "LowRankHybridRunner" else 0)
    close(s3.squared_norm(), torch.zeros(3))
    assert runner != "LowRankHybridRunner" or (s3.vectors.abs() > 0).any()


def test_its_columns_are_counted_by_themselves():
    assert networks(third_rank=7)(points(), 0.5)[2].rank == 7


def test_the_skewness_it_predicts_is_of_the_same_size_at_every_level():
    """κ3 in units of the predicted standard deviation."""
    network = networks("DoubleDiagonalHybridRunner")
    for sigma in (0.02, 0.5, 10.0):
        x = MEAN + (STD**2 + sigma**2) ** 0.5 * torch.randn(20, 64, generator=torch.Generator().manual_seed(2))
        _, s2, s3 = network(x, sigma)
        variance = (sigma**4 * s2 + sigma**2).diagonal()
        skewness = sigma**6 * s3.diagonal() / variance**1.5
        assert 0.1 < skewness.square().mean().sqrt() < 10


def test_a_level_for_each_point_is_that_level():
    network, x = networks(), points()
    sigma = torch.tensor([[0.1], [0.5], [2.0]])
    together = network(x, sigma)[2]
    for i in range(3):
        alone = network(x[i : i + 1], sigma[i].item())[2].dense()
        close(together[i : i + 1].dense(), alone, rtol=1e-4, atol=1e-5 * alone.abs().max().item())


def test_the_first_rows_alone():
    network, x = networks(), points(6)
    sigma = torch.linspace(0.1, 1, 6)[:, None]
    s1, s2, s3 = network(x, sigma, 4, 2)
    assert (len(s1), len(s2), len(s3)) == (6, 4, 2)
    expected = network(x, sigma)[2].diagonal()[:2]
    close(s3.diagonal(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_no_gradient_reaches_the_lower_orders():
    network = networks()
    network(points(), 0.5)[2].squared_norm().sum().backward()
    assert all(weight.grad is None for weight in network.lower.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in network.third.parameters())


def test_scores_have_all_three():
    network = networks().eval()
    scores = models.score_model(network, config(), SHAPE).at(0.5)
    x = points()
    s1, s2, s3 = network(x, 0.5)
    close(scores(x)[0], s1)
    close(scores(x)[1].dense(), s2.dense())
    close(scores.s3(x).form(x), s3.form(x))


def test_it_begins_from_the_covariance():
    """Its trunk, and its columns, the widest first, each in all windows before the next."""
    lower = networks().lower
    torch.manual_seed(1)
    network = models.build(config(third_rank=8), SHAPE)
    trained = models.score_model(lower, config(order=2), SHAPE)
    models.take_denoiser(network, trained)
    close(network.lower.state_dict(), lower.state_dict())
    own, theirs = network.third.network, lower.covariance.network
    close(own.middle.state_dict(), theirs.middle.state_dict())
    close(own.conv_in.weight[:, :2], theirs.conv_in.weight)
    assert not own.conv_in.weight[:, 2].any()
    places = 4  # 2 × 2 windows for 8 columns
    for i, column in ((0, 3), (places - 1, 3), (places, 2)):
        close(own.conv_out.weight[1 + i], theirs.conv_out.weight[1 + column] / 2)
    x = points()
    close(network(x, 0.5)[2].squared_norm(), torch.zeros(3))


def test_the_tensor_is_made_of_maps_and_windows():
    head = networks().third
    outputs = torch.randn(2, 9 * 64, generator=torch.Generator().manual_seed(3))
    deviation, sigma = torch.rand(2, 64, generator=torch.Generator().manual_seed(4)), 0.7
    unit = variance_scale(sigma, STD) ** 0.5
    a, b, c = outputs.view(2, 9, 64).split([1, 4, 4], dim=1)
    dense = torch.diag_embed(torch.diag_embed(deviation**3 * a[:, 0]))
    for i in range(4):
        column = unit * head.windows[i] * b[:, i]
        dense = dense + (head.windows[i] * c[:, i]).mean(1)[:, None, None, None] * torch.einsum(
            "bi,bj,bk->bijk", column, column, column
        )
    close(head.tensor(outputs, deviation, unit, sigma).dense(), dense / sigma**6, rtol=1e-4, atol=1e-4)
