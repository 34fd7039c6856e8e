"""A picture in tiles against the whole of it, in float64, for every way in which a network pads and divides it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp

from models import tiles
from models.tiles import Box, in_tiles, with_margin
from models.unet import ResidualBlock, UNet, cut, pad_to_multiple

close = torch.testing.assert_close


class Unshuffled(nn.Module):
    """Convolutions on blocks of 2×2, of pictures whose last row and column are repeated where they are odd."""

    multiple, reach = 2, 9

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        even = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        return F.pixel_shuffle(self.layers(F.pixel_unshuffle(even, 2)), 2)[:, :, :height, :width]


class Reflected(nn.Module):
    """Convolutions on blocks of 4×4, of pictures reflected at all four borders."""

    multiple, reach = 4, 11

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(pad_to_multiple(x, 4), 4)
        return cut(F.pixel_shuffle(self.layers(blocks), 4), *x.shape[2:])


def unet() -> UNet:
    network = UNet(
        2, (16, 16), widths=(8, 16), attention=0, positions=False, level_bypass=False, norm="none", conditional=False,
        last_scale=1.0,
    )  # fmt: skip
    assert network.reach is not None
    for block in (module for module in network.modules() if isinstance(module, ResidualBlock)):
        block.conv2.reset_parameters()  # which begins at zero
    return network


NETWORKS = {"unshuffled": Unshuffled, "reflected": Reflected, "U-Net": unet}
SIZES = [(96, 96), (95, 61), (61, 97), (64, 118), (43, 99)]


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().double()


def pictures(height: int, width: int) -> Tensor:
    return torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Watched:
    """A network, and the sizes of what it was given."""

    def __init__(self, network: nn.Module):
        self.network, self.sizes = network, []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[2:]))
        return self.network(x)


@pytest.mark.parametrize("size", SIZES)
def test_equal_to_the_whole_and_no_larger_than_a_tile(network, size):
    x, watched = pictures(*size), Watched(network)
    with torch.no_grad():
        tiled = in_tiles(watched, x, network.reach, network.multiple, tile=16)
        close(tiled, network(x), rtol=0, atol=1e-10)
    assert len(watched.sizes) == -(-size[0] // 16) * -(-size[1] // 16)
    largest = 16 + 2 * (network.reach + network.multiple)
    assert all(height <= largest and width <= largest for height, width in watched.sizes)


def test_a_margin_less_is_not_equal(network):
    """So that the test above sees what it should."""
    x = pictures(95, 61)
    with torch.no_grad():
        tiled = in_tiles(network, x, network.reach - network.multiple - 2, network.multiple, tile=16)
        assert (tiled - network(x)).abs().max() > 1e-8


def test_a_small_picture_goes_through_in_one_piece(network):
    watched, x = Watched(network), pictures(30, 40)
    with torch.no_grad():
        assert torch.equal(in_tiles(watched, x, network.reach, network.multiple, tile=40), network(x))
    assert watched.sizes == [(30, 40)]


def test_products_with_the_jacobian_go_through_tiles(network):
    x = pictures(61, 50)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def tiled(x: Tensor) -> Tensor:
        return in_tiles(network, x, network.reach, network.multiple, tile=16)

    with torch.no_grad():
        close(jvp(tiled, (x,), (v,))[1], jvp(network, (x,), (v,))[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(64, 64), (61, 50)])
@pytest.mark.parametrize("box", [Box(20, 13, 6, 9), Box(0, 0, 5, 5), Box(50, 40, 11, 10)])
def test_a_crop_with_its_margin_knows_the_output_in_the_box(network, size, box):
    x, crop = pictures(*size), with_margin(box, size, network.reach, network.multiple)
    inner = box.within(crop)
    with torch.no_grad():
        part = network(x[:, :, crop.rows, crop.columns])[:, :, inner.rows, inner.columns]
        close(part, network(x)[:, :, box.rows, box.columns], rtol=0, atol=1e-10)
    assert crop.height <= min(size[0], box.height + 2 * (network.reach + network.multiple))
    assert crop.width <= min(size[1], box.width + 2 * (network.reach + network.multiple))


def test_a_local_unet_takes_a_large_picture_in_tiles(monkeypatch):
    torch.manual_seed(0)
    network, x = unet().double(), pictures(95, 130)
    sizes = []
    network.conv_in.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    whole = network(x).detach()
    assert sizes == [(95, 130)]
    monkeypatch.setattr(tiles.in_tiles, "__defaults__", (1, 32))
    with torch.no_grad():
        close(network(x), whole, rtol=0, atol=1e-10)
    assert len(sizes) == 1 + 3 * 5
    assert torch.equal(network(x), whole)  # with gradients in one piece
