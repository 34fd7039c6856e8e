"""Networks for a range of noise levels: right in scale at both ends, whatever the U-Net says."""

import math

import pytest
import torch

import models
from configs import Config, UserError
from linalg import DiagonalPlusLowRank, TaperedLowRank
from models import ConditionalNetworks, variance_scale
from models.covariance import CovarianceHead

close = torch.testing.assert_close
SHAPE = (1, 8, 8)
MEAN, STD = 0.3, 0.5


def config(runner: str = "LowRankHybridRunner", taper: dict | None = None, **more) -> Config:
    model = {"network": "unet", "unet": {"widths": [8, 8]}, "taper": taper, **more}
    data = {"mean": MEAN, "std": STD}
    return Config(runner=runner, noise=[0.01, 10.0], rank=4, model=model, data=data)


def networks(*args, **options) -> ConditionalNetworks:
    torch.manual_seed(0)
    return models.build(config(*args, **options), SHAPE)


def points(count: int = 3) -> torch.Tensor:
    return MEAN + STD * torch.randn(count, 64, generator=torch.Generator().manual_seed(1))


class TestTheEndsOfTheAxis:
    def test_without_noise_the_denoiser_is_the_identity(self):
        x = points()
        close(networks().denoiser(x, 1e-5), x, rtol=0, atol=1e-4)

    def test_in_noise_alone_it_is_the_mean_to_the_scale_of_the_data(self):
        """D = μ + c_skip (x̃ − μ) + c_out F with F of order one: c_skip x̃ → 0 and c_out → σ_d."""
        network = networks()
        x = MEAN + 1e4 * torch.randn(3, 64)
        assert (network.denoiser(x, 1e4) - MEAN).abs().max() < 10 * STD

    def test_a_fresh_network_is_the_denoiser_of_a_normal(self):
        """Its last layer is zero, so D is the posterior mean under N(μ, σ_d²), at every σ."""
        x = points()
        for sigma in (0.01, 0.5, 10.0):
            expected = MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)
            close(networks().denoiser(x, sigma), expected)

    def test_a_fresh_covariance_is_a_share_of_that_of_a_normal(self):
        x, share = points(), math.log1p(math.exp(-3))
        for sigma in (0.01, 0.5, 10.0):
            _, s2 = networks("DoubleDiagonalHybridRunner")(x, sigma)
            variance = (sigma**4 * s2 + sigma**2).diagonal()
            close(variance, torch.full_like(variance, share * variance_scale(sigma, STD)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("taper", [None, {2.0: 3, math.inf: 1}])
def test_a_level_for_each_point_is_that_level(taper):
    network, x = networks(taper=taper), points()
    sigma = torch.tensor([[0.02], [0.3], [5.0]])
    s1, s2 = network(x, sigma)
    assert isinstance(s2, DiagonalPlusLowRank if taper is None else TaperedLowRank)
    for number, level in enumerate(sigma.flatten().tolist()):
        one_s1, one_s2 = network(x[number : number + 1], level)
        close(s1[number : number + 1], one_s1, rtol=1e-4, atol=1e-4 / level)
        close(s2[number : number + 1].dense(), one_s2.dense(), rtol=1e-3, atol=1e-4 / level**2)


def test_the_first_rows_alone():
    network, x = networks(), points()
    s1, s2 = network(x, torch.tensor([[0.1], [0.2], [0.3]]), rows=2)
    assert (len(s1), len(s2)) == (3, 2)
    close(network.first_order(x, 0.2), network(x, 0.2)[0])
    close(network.second_order(x, 0.2).dense(), network(x, 0.2)[1].dense())


def test_no_predicted_variance_is_negative():
    network = networks(taper={2.0: 4})
    with torch.no_grad():
        for weight in network.covariance.parameters():
            weight.add_(torch.randn_like(weight))
    for sigma in (0.01, 1.0, 10.0):
        covariance = sigma**4 * network.second_order(points(), sigma) + sigma**2
        assert (torch.linalg.eigvalsh(covariance.dense().double()) > 0).all()


def test_scores_at_every_level_of_the_range():
    c = config()
    model = models.score_model(networks(), c, SHAPE)
    assert model.sigmas == (0.01, 10.0)
    assert model.at(0.3).sigma == 0.3
    with pytest.raises(UserError, match="scores at σ from 0.01 to 10, not at σ = 20"):
        model.at(20.0)


def test_the_second_order_begins_from_the_denoiser():
    torch.manual_seed(0)
    trained = models.build(config("UnetDSMRunner"), SHAPE)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    network = networks(denoiser="a folder")
    models.take_denoiser(network, models.score_model(trained, config("UnetDSMRunner"), SHAPE))
    x = points()
    close(network.denoiser(x, 0.3), trained.denoiser(x, 0.3))
    own, theirs = network.covariance.network.state_dict(), trained.denoiser.network.state_dict()
    assert torch.equal(own["down.0.blocks.0.conv1.weight"], theirs["down.0.blocks.0.conv1.weight"])
    assert torch.equal(own["conv_in.weight"][:, :1], theirs["conv_in.weight"])
    assert (own["conv_in.weight"][:, 1:] == 0).all()
    assert not any(weight.requires_grad for weight in network.denoiser.parameters())
    assert all(weight.requires_grad for weight in network.covariance.parameters())


@pytest.mark.parametrize("options", [{"second_order": "features"}, {"trunk": "shared"}, {"second_order": "fresh"}])
def test_other_arrangements_take_the_denoiser_and_begin_small(options):
    """Of scores that are those of the denoiser, and a covariance of small variances, at first."""
    torch.manual_seed(0)
    trained = models.build(config("UnetDSMRunner"), SHAPE)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    network = networks(denoiser="a folder", taper={2.0: 3, math.inf: 1}, **options)
    models.take_denoiser(network, models.score_model(trained, config("UnetDSMRunner"), SHAPE))
    x, sigma = points(), torch.tensor([[0.02], [0.3], [5.0]])
    s1, s2 = network(x, sigma)
    close(s1, trained(x, sigma)[0])
    close(s1, network.first_order(x, sigma))
    close(network(x, sigma, rows=2)[1].dense(), s2.dense()[:2], rtol=1e-4, atol=1e-2)
    variances = (sigma**4 * s2 + sigma**2).diagonal() / variance_scale(sigma, STD)
    close(variances, torch.full_like(variances, math.log1p(math.exp(-3))), rtol=0.1, atol=0)
    frozen = [not weight.requires_grad for weight in network.denoiser.parameters()]
    assert not any(frozen) if "trunk" in options else all(frozen)


def test_learned_ranges_have_the_gradient_of_the_dense_matrix():
    ranges = torch.tensor([2.0, 2.0, 4.0, math.inf], dtype=torch.float64)
    head = CovarianceHead(SHAPE, STD, ranges, learned=True).double()
    outputs = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = head(outputs, 0.3)
    assert covariance.ranges.tolist() == pytest.approx(ranges.tolist())
    v = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(2, -1)
    value = covariance.squared_norm().sum() + covariance.quadratic(v).sum()
    (gradient,) = torch.autograd.grad(value, head.log_ranges)
    log_ranges = ranges[:3].log().requires_grad_()
    rows, columns = torch.arange(64) // 8, torch.arange(64) % 8
    squared = (rows[:, None] - rows).square() + (columns[:, None] - columns).square()
    tapers = [(-squared / (2 * (2 * one).exp())).exp() for one in log_ranges] + [torch.ones(64, 64)]
    beta = covariance.beta.detach()
    dense = torch.diag_embed(covariance.alpha.detach())
    for i, taper in enumerate(tapers):
        dense = dense + taper * (beta[:, :, i, None] @ beta[:, None, :, i])
    dense_value = dense.square().sum() + torch.einsum("bi,bij,bj->", v, dense, v)
    close(gradient, torch.autograd.grad(dense_value, log_ranges)[0])


def test_another_network_is_refused():
    other = Config(runner="UnetDSMRunner", noise=0.5, model={"network": "mlp", "ngf": 8})
    model = models.score_model(models.build(other, SHAPE), other, SHAPE)
    with pytest.raises(UserError, match="model.denoiser: not a run of the same model.network: unet"):
        models.take_denoiser(networks(denoiser="a folder"), model)


def test_vectors_are_refused():
    with pytest.raises(UserError, match=r"unet takes images, not points of shape \(5,\)"):
        models.build(config(), (5,))


class TestADenoiserFromElsewhere:
    """s2 alone is trained, on s1 as it is."""

    @pytest.fixture
    def c(self, tmp_path, monkeypatch):
        (tmp_path / "elsewhere.py").write_text("def denoise(x, sigma):\n    return x * 0.25 / (0.25 + sigma**2)\n")
        monkeypatch.syspath_prepend(tmp_path)
        unet = {"widths": [4, 8], "norm": "none", "attention": 0, "positions": False, "level_bypass": False}
        model = {"network": "unet", "unet": unet, "denoiser": "elsewhere:denoise", "second_order": "fresh"}
        data = {"image_size": 8, "mean": 0.0, "std": 0.5}
        taper = {1.0: 1, 3.0: 1}
        return Config(runner="LowRankHybridRunner", noise=(0.1, 2.0), rank=2, model=model | {"taper": taper}, data=data)

    def test_s1_is_its_own_and_not_in_the_state_dict(self, c):
        network = models.build(c, (1, 8, 8))
        assert all(name.startswith("covariance.") for name in network.state_dict())
        x = torch.randn(3, 64)
        sigma = torch.tensor([[0.1], [0.5], [2.0]])
        s1, s2 = network(x, sigma)
        close(s1, -x / (0.25 + sigma**2), rtol=1e-5, atol=1e-4)
        assert (sigma.squeeze() ** 4 * s2.trace() + 64 * sigma.squeeze() ** 2 > 0).all()

    def test_images_of_another_size(self, c):
        """A local network gives in the middle of a larger image what it gives of a part of it."""
        network = models.build(c, (1, 8, 8)).eval()
        for parameter in network.parameters():
            parameter.data.normal_(std=0.2)
        model = models.score_model(network, c, (1, 8, 8))
        reach = network.covariance.network.reach
        side = 4 * reach
        x = torch.randn(1, 1, side, side)
        whole = model.at(0.5, (1, side, side)).s2(x.flatten(1)).diagonal().view(side, side)
        part = model.at(0.5, (1, side - 4, side)).s2(x[:, :, :-4].flatten(1)).diagonal().view(side - 4, side)
        close(part[: -reach - 4], whole[: -reach - 8])
        assert not torch.allclose(part[-1], whole[-5])

    def test_another_size_shares_the_weights_and_takes_no_random_numbers(self, c):
        network = models.build(c, (1, 8, 8)).eval()
        model = models.score_model(network, c, (1, 8, 8))
        x, before = torch.randn(1, 120), torch.get_rng_state()
        scores = model.at(0.5, (1, 12, 10))
        assert torch.equal(torch.get_rng_state(), before)
        first = scores.s2(x).diagonal()
        with torch.no_grad():
            network.covariance.network.conv_out.bias += 1
        assert (scores.s2(x).diagonal() > first).all()

    def test_a_network_for_one_size_says_so(self):
        c = config("LowRankHybridRunner")
        model = models.score_model(models.build(c, SHAPE), c, SHAPE)
        with pytest.raises(UserError, match="was trained on points of shape .* and cannot take"):
            model.at(0.5, (SHAPE[0], SHAPE[1] + 2, SHAPE[2]))


def test_forward_derivatives_of_s2_go_through_the_denoiser():
    """Where no gradients are kept: of a covariance that sees D(x̃) alone."""
    network, x = networks().double(), points().double()
    for part in (network.denoiser, network.covariance):
        torch.nn.init.normal_(part.network.conv_out.weight, std=0.3)
    torch.nn.init.zeros_(network.covariance.network.conv_in.weight[:, :1])
    v = torch.randn(3, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        _, derivative = torch.func.jvp(lambda y: network.second_order(y, 0.5).diagonal(), (x,), (v,))
        ahead, behind = (network.second_order(x + h * v, 0.5).diagonal() for h in (1e-6, -1e-6))
    assert (derivative != 0).any()
    close(derivative, (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-5 * derivative.abs().max().item())
