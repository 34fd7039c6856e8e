"""Multilayer perceptrons: for vectors, and for images small enough; `MLP` for one noise level, `ConditionalMLP` for all
of a range."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from models.unet import NoiseEmbedding

__all__ = ["MLP", "ConditionalMLP"]

EMBEDDING = 64


class MLP(nn.Module):
    """Three hidden SiLU layers; `outputs` values for every entry of the input.

    Args:
        dimension: D, entries of the input.
        width: of the hidden layers.
        outputs: values for every entry, k.

    Shape:
        input `(B, D)`; output `(B, k·D)`, k blocks of D one after the other.
    """

    def __init__(self, dimension: int, width: int, outputs: int = 1):
        super().__init__()
        sizes = [dimension, width, width, width]
        hidden = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, outputs * dimension))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).to(x.dtype)


class ConditionalMLP(nn.Module):
    """Three SiLU layers, whose scale and shift depend on the noise level, the second and third added to what they read.
    From images to images, as a `UNet`.

    Args:
        in_channels: channels of the input; 2·C for a network that reads x̃ and D(x̃).
        image_size: height and width of the images.
        out_channels: channels of the output; k·C for k values an entry of the image. They begin at zero.
        width: of the hidden layers.
        dropout: of the SiLUs' outputs.

    Shape:
        x `(B, in_channels, H, W)`, c = ¼ ln σ `(B,)` or one for all; output `(B, out_channels, H, W)`, of the input's
        type under autocast too.
    """

    FIRST, LAST = "first", "last"

    def __init__(self, in_channels: int, image_size: tuple[int, int], out_channels: int, width: int, dropout: float):
        super().__init__()
        pixels = math.prod(image_size)
        self.image_size, self.out_channels = image_size, out_channels
        self.embed = NoiseEmbedding(EMBEDDING)
        self.first = nn.Linear(in_channels * pixels, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.affine = nn.ModuleList(nn.Linear(EMBEDDING, 2 * width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, out_channels * pixels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        embedded = self.embed(c.expand(len(x)))
        h = self.first(x.flatten(1))
        for layer, affine in zip(self.hidden, self.affine[:-1], strict=True):
            h = h + layer(self._activated(h, affine(embedded)))
        out = self.last(self._activated(h, self.affine[-1](embedded)))
        return out.unflatten(1, (self.out_channels, *self.image_size)).to(x.dtype)

    def _activated(self, h: Tensor, scale_and_shift: Tensor) -> Tensor:
        scale, shift = scale_and_shift.chunk(2, dim=1)
        return self.dropout(F.silu(h * (1 + scale) + shift))
