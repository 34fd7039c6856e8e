"""The networks of Ho et al. from their state dicts, against the reference numbers."""

import numpy as np
import pytest
import torch

from configs import UserError
from models import denoisers
from models.denoisers.ddpm import linear_schedule
from tests.conftest import REFERENCE

close = torch.testing.assert_close


def filled(names: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The weights of the reference, `tests/reference`: by sorted name, `sin(0.7 t + i)`, scaled by their kind."""
    weights = {}
    for i, name in enumerate(sorted(names)):
        shape = names[name]
        w = np.sin(0.7 * np.arange(np.prod(shape)) + i).reshape(shape)
        if len(shape) == 4:
            w = w * np.sqrt(2 / np.prod(shape[1:]))
        elif len(shape) == 2:
            w = w * np.sqrt(1 / shape[1])
        else:
            w = 1 + 0.1 * w if "norm" in name and name.endswith("weight") else 0.1 * w
        weights[name] = torch.from_numpy(w).float()
    return weights


@pytest.fixture(scope="module")
def small() -> dict[str, torch.Tensor]:
    from models.unet import DDPMUNet

    network = DDPMUNet(3, 16, 32, (1, 2), 1, (8,))
    return filled({name: tuple(value.shape) for name, value in network.state_dict().items()})


def test_the_denoiser_is_that_of_the_reference_numbers(small, tmp_path):
    torch.save(small, tmp_path / "small.pth")
    model = denoisers.ddpm(tmp_path / "small.pth")
    reference = np.load(REFERENCE / "ddpm_unet_ch32_mult12_blocks1_attn8_3x16x16.npz")
    assert (model.shape, model.values) == ((3, None, None), (-1, 1))
    assert model.sigmas == (pytest.approx(0.01, rel=1e-3), pytest.approx(157.4, rel=1e-3))
    for x, t, epsilon in zip(reference["input"], reference["t"], reference["output"], strict=True):
        kept = float(linear_schedule()[int(t)])
        sigma = ((1 - kept) / kept) ** 0.5
        noisy = torch.from_numpy(x)[None] / kept**0.5  # the network is given √ᾱ x̃
        scores = model.at(sigma, (3, 16, 16))
        denoised = noisy.flatten(1) + sigma**2 * scores.s1(noisy.flatten(1))
        expected = noisy - sigma * torch.from_numpy(epsilon)[None]
        close(denoised, expected.flatten(1), rtol=1e-4, atol=1e-4 * max(1.0, sigma))


def test_the_published_network_is_known_by_its_names(tmp_path):
    lines = (REFERENCE / "ddpm_cifar10_parameters.txt").read_text().split("\n")
    shapes = {name: tuple(map(int, shape)) for name, *shape in map(str.split, filter(None, lines))}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "cifar10.pth")
    model = denoisers.ddpm(tmp_path / "cifar10.pth")
    network = model.network._unregistered[0]
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == shapes


@pytest.mark.parametrize(
    "name", ["conv_in.weight", "down.1.block.0.norm2.weight", "temb.dense.1.bias", "up.0.block.1.nin_shortcut.weight"]
)
def test_a_name_that_is_missing_is_said(small, tmp_path, name):
    torch.save({key: value for key, value in small.items() if key != name}, tmp_path / "less.pth")
    with pytest.raises(UserError, match=f"less.pth: {name} is missing$"):
        denoisers.ddpm(tmp_path / "less.pth")


def test_other_weights_are_refused_in_a_line(small, tmp_path):
    for changes, message in [
        ({"down.0.block.0.conv3.weight": torch.zeros(1)}, r"down.0.block.0.conv3.weight is unknown"),
        (
            {"mid.block_1.conv1.bias": torch.zeros(3)},
            r"mid.block_1.conv1.bias has shape \(3,\), and \(64,\) is expected",
        ),
        ({"conv_in.weight": torch.zeros(24, 3, 3, 3)}, "multiples of 32 are expected"),
    ]:
        torch.save(small | changes, tmp_path / "other.pth")
        with pytest.raises(UserError, match=message):
            denoisers.ddpm(tmp_path / "other.pth")
    torch.save([small], tmp_path / "list.pth")
    with pytest.raises(UserError, match="not a state dict"):
        denoisers.ddpm(tmp_path / "list.pth")
