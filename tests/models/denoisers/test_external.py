"""Denoisers from elsewhere, against the exact one of a normal density."""

import copy
import math

import pytest
import torch

import inference
import linalg
import models
from configs import Config, UserError

close = torch.testing.assert_close
MEAN, VARIANCE = 0.3, torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
SIGMA = 0.7
SCHEDULE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def exact(x, sigma):
    """E[x|x̃] of N(MEAN, VARIANCE)."""
    return MEAN + VARIANCE / (VARIANCE + sigma**2) * (x - MEAN)


def points() -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


FORMS = {
    "denoised": exact,
    "noise": lambda x, sigma: (x - exact(x, sigma)) / sigma,
    "score": lambda x, sigma: (MEAN - x) / (VARIANCE + sigma**2),
    "velocity": lambda x, sigma: ((x - exact(x, sigma)) / sigma - sigma * exact(x, sigma)) / (1 + sigma**2) ** 0.5,
}


@pytest.mark.parametrize("output", FORMS)
def test_each_form_of_output_gives_the_scores(output):
    scores = models.from_denoiser(FORMS[output], (0.1, 2.0), (3,), output=output).at(SIGMA)
    close(scores.s1(points()), (MEAN - points()) / (VARIANCE + SIGMA**2))


@pytest.mark.parametrize("output", FORMS)
@pytest.mark.parametrize("step", [100, 100.4])
def test_each_form_with_the_steps_of_a_schedule(output, step):
    """The function is given `√ᾱ x̃` and t; the score is that of the point it is given, see Ho et al. 2020."""
    levels = (1 / SCHEDULE - 1).sqrt()
    low, high = levels[math.floor(step)].log(), levels[math.floor(step) + 1].log()
    sigma = float(torch.exp(low + (step - math.floor(step)) * (high - low)))
    seen = []

    def of_step(u, t):
        seen.append(t)
        a = 1 / (1 + sigma**2) ** 0.5
        given = {"score": (a * MEAN - u) / (a**2 * (VARIANCE + sigma**2))}
        return given[output] if output in given else FORMS[output](u / a, sigma)

    scores = models.from_denoiser(of_step, (0.01, 2.0), (3,), output=output, level=SCHEDULE).at(sigma)
    close(scores.s1(points()), (MEAN - points()) / (VARIANCE + sigma**2))
    close(seen[0], torch.full((4,), float(step), dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_denoiser_of_one_fixed_level():
    model = models.from_denoiser(lambda x: exact(x, SIGMA), (SIGMA, SIGMA), (3,), level="fixed")
    close(model.at(SIGMA).s1(points()), (MEAN - points()) / (VARIANCE + SIGMA**2))
    with pytest.raises(ValueError, match="level is fixed; one level"):
        models.from_denoiser(lambda x: x, (0.1, 0.5), (3,), level="fixed")


def test_points_answers_and_levels_are_converted_between_units():
    """Of points in [−1, 1], by a denoiser that takes 0 to 255."""
    seen = []

    def of_bytes(pixels, sigma):
        seen.append(sigma)
        return exact(pixels / 127.5 - 1, sigma / 127.5) * 127.5 + 127.5

    model = models.from_denoiser(of_bytes, (0.1, 2.0), (3,), values=(0, 255), units=(-1, 1))
    assert model.values == (-1, 1)
    close(model.at(SIGMA).s1(points()), (MEAN - points()) / (VARIANCE + SIGMA**2))
    assert seen == [pytest.approx(127.5 * SIGMA)]


def test_products_with_the_jacobian_of_a_function_that_torch_cannot_differentiate():
    def foreign(x, sigma):
        return torch.tensor(exact(x.detach(), sigma).tolist(), dtype=x.dtype)

    model = models.from_denoiser(foreign, (0.1, 2.0), (3,), derivatives=False)
    posterior = inference.posterior(model.at(SIGMA), points())
    covariance = torch.diag(SIGMA**2 * VARIANCE / (VARIANCE + SIGMA**2))
    close(posterior.covariance.dense(), covariance.expand(4, -1, -1), rtol=1e-8, atol=1e-8)
    v = torch.ones(4, 3, dtype=torch.float64)
    close(posterior.covariance @ v, covariance.sum(0).expand(4, -1), rtol=1e-8, atol=1e-8)
    close(posterior.principal_components(2)[0], covariance.diag().flip(0)[:2].expand(4, -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float64, 1e-8)])
def test_central_differences_are_the_derivative_up_to_their_step(dtype, tolerance):
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(1)).to(dtype)
    v = torch.randn(5, 20, generator=torch.Generator().manual_seed(2)).to(dtype)
    product = linalg.central_product(torch.sin, x, v)
    close(product, x.cos() * v, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_differences_of_a_function_of_coarse_numbers_take_longer_steps(precision):
    """Rounded to half as many bits within; against the derivative of the same in full."""

    def rounded(x, sigma):
        return exact(x.float().to(precision), sigma).to(precision).to(x.dtype)

    covariance = SIGMA**2 * VARIANCE / (VARIANCE + SIGMA**2)
    v = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = models.from_denoiser(rounded, (0.1, 2.0), (3,), derivatives=False, precision=precision)
    product = inference.posterior(model.at(SIGMA), points()).covariance @ v
    bound = torch.finfo(precision).eps ** (2 / 3)
    close(product, covariance * v, rtol=0, atol=2 * bound * float(v.abs().max()))


def test_where_forward_mode_is_not_there_products_are_differences():
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin()

        @staticmethod
        def backward(ctx, gradient):
            raise AssertionError("not asked for")

    x, v = points(), torch.ones(4, 3, 1, dtype=torch.float64)
    close(linalg.jacobian_product(Backward.apply, x, v), x.cos()[:, :, None], rtol=1e-8, atol=1e-8)


def test_the_weights_behind_it_are_frozen_shared_and_in_no_state_dict():
    network = torch.nn.Conv2d(1, 1, 3, padding=1)

    class Sized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, sigma):
            return self.network(x)

    model = models.from_denoiser(Sized(), (0.1, 1.0), (1, None, None), values=(0, 1))
    denoiser = model.network
    assert not denoiser.state_dict()
    assert not network.weight.requires_grad
    assert copy.deepcopy(denoiser).function is denoiser.function
    denoiser.double()
    assert network.weight.dtype == torch.float64
    assert model.at(0.5, shape=(1, 5, 7)).s1(torch.zeros(2, 35, dtype=torch.float64)).shape == (2, 35)
    with pytest.raises(ValueError, match=r"any size: say theirs, model\.at\(sigma, shape="):
        model.at(0.5)
    with pytest.raises(UserError, match="is for points of shape"):
        model.at(0.5, shape=(3, 5, 7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "epsilon"}, "one of denoised, noise, score, velocity"),
        ({"values": (1, 0)}, "black and white are expected"),
        ({"units": (0, 1)}, "units are given and values are not"),
        ({"precision": torch.float16}, "derivatives=False is expected with it"),
        ({"level": [0.5, 0.9]}, "a schedule of falling numbers between 1 and 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        models.from_denoiser(exact, (0.1, 1.0), (3,), **changes)


class TestByName:
    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        text = "import models\n\ndef denoise(x, sigma):\n    return x / (1 + sigma**2)\n\nnumber = 3\n"
        text += "model = models.from_denoiser(denoise, (0.1, 0.2), (3, None, None), values=(0, 1))\n"
        (tmp_path / "a_users_own.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    def test_a_function_of_a_users_own_module(self, module):
        config = Config(noise=(0.1, 2.0), data={"image_size": 4}, model={"network": "unet"})
        model = models.denoisers.external_denoiser("a_users_own:denoise", config)
        assert (model.sigmas, model.shape) == ((0.1, 2.0), (1, 4, 4))
        close(model.at(1.0).s1(torch.ones(1, 16)), torch.full((1, 16), -0.5))
        assert models.denoisers.external_denoiser("a_users_own:model", config).sigmas == (0.1, 0.2)

    def test_what_cannot_be_had_is_said_in_a_line(self, module):
        for name, message in {
            "a_users_own:other": "cannot be had",
            "no_such_module:denoise": "cannot be had",
            "a_users_own:number": "of type int; a function",
        }.items():
            assert models.is_external(name)
            with pytest.raises(UserError, match=message):
                models.denoisers.external_denoiser(name, Config())

    def test_paths_are_no_functions(self, tmp_path):
        assert not models.is_external("runs/logs/denoiser")
        assert not models.is_external(None)
        assert models.is_external("ffdnet")
        assert models.is_external("ffdnet:weights.pth")


class TestTheHash:
    def hash_of(self, network) -> str | None:
        return models.from_denoiser(network, (0.1, 1.0), (3,)).network.sha256

    def test_is_of_the_names_and_values_of_the_weights(self):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 3)
        known = self.hash_of(network)
        assert self.hash_of(copy.deepcopy(network)) == known
        with torch.no_grad():
            network.bias[0] = torch.nextafter(network.bias[0], torch.tensor(1.0))
        assert self.hash_of(network) != known

    def test_of_nothing_is_none(self):
        assert self.hash_of(exact) is None

    def test_does_not_depend_on_where_they_lie(self):
        """In the memory: the same values, in another order of the strides."""
        torch.manual_seed(0)
        network = torch.nn.Conv2d(4, 4, 3)
        other = copy.deepcopy(network).to(memory_format=torch.channels_last)
        assert self.hash_of(network) == self.hash_of(other)


def test_under_autocast_it_computes_in_its_own_precision():
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 3)
    denoiser = models.from_denoiser(lambda x, sigma: linear(x), (0.1, 1.0), (3,)).network
    x = points().float()
    expected = denoiser(x, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(denoiser(x, 0.5), expected)
