"""Two U-Nets: `DDPMUNet`, equal to the published one, and `UNet`, made for a CPU. An image in, an image out.

Both go down through levels of half the height and width each, and up again, every level on the way up
reading what was kept of it on the way down. Height and width need not be multiples of 2^(levels − 1):
images are padded inside by reflection, and cut at the end.

References: Ho, Jain and Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, appendix B
(architecture and time embedding); Karras et al., *Elucidating the Design Space of Diffusion-Based
Generative Models*, NeurIPS 2022, table 1 (conditioning on ¼ ln σ); Perez et al., *FiLM*, AAAI 2018
(scale and shift after a norm); Zhang et al., *Plug-and-Play Image Restoration with Deep Denoiser Prior*,
TPAMI 2022 (DRUNet); Shi et al., CVPR 2016 (pixel shuffle).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tiles import in_tiles

__all__ = ["DDPMUNet", "UNet"]


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """x `(B, C, H, W)`, reflected at its borders until `multiple` divides height and width."""
    height, width = x.shape[2:]
    rows, columns = -height % multiple, -width % multiple
    if not rows and not columns:
        return x
    if height <= (rows + 1) // 2 or width <= (columns + 1) // 2:
        raise ValueError(f"images of {height}×{width} pixels are too small for levels that divide by {multiple}")
    sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(x, sides, mode="reflect")


def cut(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of x: undoes `pad_to_multiple`."""
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


class Attention(nn.Module):
    """`x + W v softmax(qᵀk/√C)`: one head over all the positions of an image.

    Written out, as the fused kernel of torch has no forward-mode derivative.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (project(h).flatten(2) for project in (self.q, self.k, self.v))
        weights = torch.softmax(q.mT @ k * x.shape[1] ** -0.5, dim=-1)
        return x + self.proj_out((v @ weights.mT).view_as(x))


# -- The published form ------------------------------------------------------------------------------------


class TimeEmbedding(nn.Module):
    """t `(B,)` → `(B, 4·width)`: sines and cosines of t at `width/2` frequencies from 1 to 1/10000, two layers."""

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        frequencies = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, dtype=torch.float64))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.dense = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)])

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        h = torch.cat([angles.sin(), angles.cos()], dim=1).to(next(self.parameters()).dtype)
        return self.dense[1](F.silu(self.dense[0](h)))


class DDPMBlock(nn.Module):
    """Norm, SiLU, convolution, twice, the embedded time added between; plus a shortcut."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, inputs, eps=1e-6)
        self.conv1 = conv3(inputs, outputs)
        self.temb_proj = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(32, outputs, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3(outputs, outputs)
        self.nin_shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(embedded))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class DDPMLevel(nn.Module):
    """The blocks of one resolution, each followed by attention where there is any."""

    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, inputs: Sequence[int], outputs: int, embedding: int, attention: bool, dropout: float):
        super().__init__()
        self.block = nn.ModuleList(DDPMBlock(channels, outputs, embedding, dropout) for channels in inputs)
        self.attn = nn.ModuleList(Attention(outputs, 32) for _ in inputs if attention)

    def step(self, number: int, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.block[number](x, embedded)
        return self.attn[number](h) if self.attn else h


class Middle(nn.Module):
    def __init__(self, channels: int, embedding: int, dropout: float):
        super().__init__()
        self.block_1 = DDPMBlock(channels, channels, embedding, dropout)
        self.attn_1 = Attention(channels, 32)
        self.block_2 = DDPMBlock(channels, channels, embedding, dropout)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, embedded)), embedded)


class DDPMUNet(nn.Module):
    """The U-Net of Ho et al. (2020), which predicts ε from `x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε`.

    Arithmetic and parameter names are the published ones: `load_state_dict` takes a published state dict.
    The defaults are those of the CIFAR-10 network.

    Args:
        channels: channels of the image, C.
        image_size: height of the images that `attention` is meant for; others are taken as well.
        ch: width of the first level; a multiple of 32.
        multipliers: the width of each level, in units of `ch`.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: at which resolutions, of an image of `image_size`, every block is followed by attention.
        dropout: rate, within the residual blocks.

    Shape:
        x `(B, C, H, W)`, t `(B,)`, from 0 to 999; output `(B, C, H, W)`, of the input's type under autocast too.
    """

    def __init__(
        self,
        channels: int = 3,
        image_size: int = 32,
        ch: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        dropout: float = 0.1,
    ):
        super().__init__()
        if ch % 32:
            raise ValueError(f"ch is {ch}; the network normalises in 32 groups and takes multiples of 32")
        widths = [ch * multiplier for multiplier in multipliers]
        attends = [image_size // 2**level in attention for level in range(len(widths))]
        self.multiple = 2 ** (len(widths) - 1)
        self.temb = TimeEmbedding(ch)
        self.conv_in = conv3(channels, ch)

        kept, width = [ch], ch  # the widths of what the way up will read
        self.down = nn.ModuleList()
        for number, outputs in enumerate(widths):
            inputs = [width] + [outputs] * (blocks - 1)
            level = DDPMLevel(inputs, outputs, 4 * ch, attends[number], dropout)
            kept, width = kept + [outputs] * blocks, outputs
            if number < len(widths) - 1:
                level.downsample = Downsample(width)
                kept.append(width)
            self.down.append(level)

        self.mid = Middle(width, 4 * ch, dropout)

        self.up = nn.ModuleList()
        for number, outputs in reversed(list(enumerate(widths))):
            inputs = [previous + kept.pop() for previous in [width] + [outputs] * blocks]
            level = DDPMLevel(inputs, outputs, 4 * ch, attends[number], dropout)
            width = outputs
            if number > 0:
                level.upsample = Upsample(width)
            self.up.insert(0, level)

        self.norm_out = nn.GroupNorm(32, width, eps=1e-6)
        self.conv_out = conv3(width, channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embedded = self.temb(t)
        kept = [self.conv_in(pad_to_multiple(x, self.multiple))]
        for number, level in enumerate(cast(list[DDPMLevel], self.down)):
            for block in range(len(level.block)):
                kept.append(level.step(block, kept[-1], embedded))
            if number < len(self.down) - 1:
                kept.append(level.downsample(kept[-1]))

        h = self.mid(kept[-1], embedded)

        for number, level in reversed(list(enumerate(cast(list[DDPMLevel], self.up)))):
            for block in range(len(level.block)):
                h = level.step(block, torch.cat([h, kept.pop()], dim=1), embedded)
            if number > 0:
                h = level.upsample(h)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return cut(h, *x.shape[2:]).to(x.dtype)


# -- The fast form -----------------------------------------------------------------------------------------


class NoiseEmbedding(nn.Module):
    """c `(B,)` → `(B, width)`: sines and cosines of c at 16 frequencies from 1 to 32, a two-layer perceptron.

    `c = ¼ ln σ` runs from −1.2 to 1.2 for σ from 0.01 to 100: the lowest frequency tells the two ends apart,
    the highest tells σ from 1.1 σ.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 5, 16, base=2), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, c: Tensor) -> Tensor:
        angles = c[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))


class Norm(nn.Module):
    """`(1 + γ)·h + β`: `h` the input, normalised over each of (up to) eight groups of channels, or as it is where the
    kind is `none`.

    γ and β are learned numbers, one for each channel; with `embedding` > 0 they are linear in a vector
    `(B, embedding)` that comes with the image.
    """

    def __init__(self, channels: int, embedding: int = 0, kind: str = "group"):
        super().__init__()
        self.kind = kind
        self.groups = math.gcd(8, channels)
        self.affine = nn.Linear(embedding, 2 * channels) if embedding else None
        if self.affine is None:
            self.weight = nn.Parameter(torch.zeros(2, channels))
        else:
            self.affine.bias.data.zero_()

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        if self.affine is None:
            gamma, beta = self.weight
            if self.kind == "none":
                return x * (1 + gamma)[:, None, None] + beta[:, None, None]
            return F.group_norm(x, self.groups, 1 + gamma, beta, eps=1e-6)
        gamma, beta = self.affine(embedded).to(self.affine.weight.dtype).unflatten(1, (2, -1)).unbind(1)
        if self.kind == "none":
            return x * (1 + gamma)[:, :, None, None] + beta[:, :, None, None]
        # Written as the norm of one image with B·C channels, every image's own scale and shift ride on the
        # norm's: one pass over x where there would be three.
        batch, channels, height, width = x.shape
        images = x.reshape(1, batch * channels, height, width)
        out = F.group_norm(images, batch * self.groups, 1 + gamma.flatten(), beta.flatten(), eps=1e-6)
        return out.view_as(x)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input; scale and shift of the second norm from the noise level.

    Without norms the second convolution begins at zero, and the block as the identity.
    """

    def __init__(self, channels: int, embedding: int, dropout: float, norm: str):
        super().__init__()
        self.norm1 = Norm(channels, kind=norm)
        self.conv1 = conv3(channels, channels)
        self.norm2 = Norm(channels, embedding, norm)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3(channels, channels)
        if norm == "none":
            nn.init.zeros_(self.conv2.weight)
            nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor, embedded: Tensor | None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(h, embedded))))


class Stage(nn.Module):
    """The residual blocks of one resolution; attention after the last, where there is any."""

    def __init__(self, channels: int, blocks: int, attention: bool, embedding: int, dropout: float, norm: str):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding, dropout, norm) for _ in range(blocks))
        self.attention = Attention(channels, math.gcd(8, channels)) if attention else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, embedded)
        return self.attention(x)


def _reach(levels: int, blocks: int) -> int:
    """Of a `UNet` without what looks at the whole image: a convolution at level l reaches 2^l pixels further, and a
    pixel of the coarsest level is one block of 2^(levels − 1) with others."""
    ways = [2] * (levels - 1) + [1]  # down and up, but at the coarsest
    convolutions = sum(2 * blocks * way * 2**level for level, way in enumerate(ways))
    return 2 + convolutions + 2 * 2 ** (levels - 1) + 2 ** (levels - 1) - 1


class UNet(nn.Module):
    """A small U-Net, fast on a CPU.

    A 2×2 convolution of stride 2 leads down a level, a transposed one leads up (the pixel shuffle of a 1×1
    convolution, in one call); what was kept on the way down is added, as in DRUNet, which takes a sixth of
    the arithmetic off a network that joins it.

    Args:
        in_channels: channels of the input; 2·C for a network that reads x̃ and D(x̃).
        image_size: height and width of the images. Without `positions`, other sizes are taken as well.
        out_channels: channels of the output, `in_channels` by default; k·C for k values an entry of the image.
        widths: channels at each level, the finest first; each level has half the height and width.
        blocks: residual blocks a level, on each way.
        attention: how many of the coarsest levels have attention.
        dropout: rate, within the residual blocks.
        positions: add a learned map `(widths[0], H, W)` to the first features.
        conditional: scale and shift of the norms depend on a number for each image, `c = ¼ ln σ`.
        level_bypass: scale and shift of the last norm depend on the logarithm of the mean squares that it
            divides by, and on c: the level of an image's features, which a norm removes, has a way around it.
        norm: `group`, over all positions of an image, or `none`, scale and shift alone. With that, and without
            `positions`, `attention` and `level_bypass`, the network is local: see `reach`.
        last_scale: the last convolution begins with outputs about as large as this; with zeros at 0.

    Shape:
        x `(B, in_channels, H, W)`, c `(B,)` or one tensor for all, `()`; output `(B, out_channels, H, W)`, of the
        input's type under autocast too. `with_features` gives beside it the features `(B, widths[0], H, W)` that the
        last norm and convolution make it of.

    Attributes:
        multiple: height and width are padded inside to a multiple of this.
        reach: how far an output looks: it depends on no input that is more pixels away, in either direction, and on
            those by one rule everywhere but at the borders of the image. None where it depends on the whole image.

    Where no gradient is asked for, a local network takes a large image a tile at a time, see `in_tiles`.

    Under autocast take derivatives backwards (`vjp`): torch's forward mode does not carry a norm's bfloat16.

    Raises:
        ValueError: in `forward`, where c is missing, or the images do not fit the position map or are too small.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        out_channels: int | None = None,
        *,
        widths: Sequence[int] = (32, 64, 96),
        blocks: int = 1,
        attention: int = 1,
        dropout: float = 0.0,
        positions: bool = True,
        conditional: bool = True,
        level_bypass: bool = True,
        norm: str = "group",
        last_scale: float = 0.0,
    ):
        super().__init__()
        outputs = in_channels if out_channels is None else out_channels
        width, embedding = widths[0], 4 * widths[0] if conditional else 0
        steps = list(pairwise(widths))  # from each level to the next

        def stage(level: int) -> Stage:
            attends = len(widths) - level <= attention
            return Stage(widths[level], blocks, attends, embedding, dropout, norm)

        self.multiple = 2 ** len(steps)
        local = norm == "none" and not (positions or attention or level_bypass)
        self.reach = _reach(len(widths), blocks) if local else None
        self.embed = NoiseEmbedding(embedding) if conditional else None
        self.conv_in = conv3(in_channels, width)
        self.positions = nn.Parameter(torch.zeros(width, *image_size)) if positions else None
        self.down = nn.ModuleList(stage(level) for level in range(len(widths)))
        self.downsample = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.middle = ResidualBlock(widths[-1], embedding, dropout, norm)
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.up = nn.ModuleList(stage(level) for level in range(len(steps)))
        self.level_bypass = level_bypass
        self.norm_out = Norm(width, math.gcd(8, width) + embedding if level_bypass else 0, norm)
        self.conv_out = conv3(width, outputs)
        nn.init.normal_(self.conv_out.weight, std=last_scale / math.sqrt(9 * width))
        nn.init.constant_(cast(Tensor, self.conv_out.bias), 0)

    def forward(
        self, x: Tensor, c: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        embedded = None
        if self.embed is not None:
            if c is None:
                raise ValueError("a conditional network takes c = ¼ ln σ with its images")
            embedded = self.embed(c.expand(len(x)))
        if self.reach is not None and not (with_features or torch.is_grad_enabled()):
            return in_tiles(lambda tile: self._evaluate(tile, embedded)[0], x, self.reach, self.multiple)
        out, h = self._evaluate(x, embedded)
        return (out, h.to(x.dtype)) if with_features else out

    def _evaluate(self, x: Tensor, embedded: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output, and the features that the last norm and convolution make it of."""
        h = self.conv_in(x)
        if self.positions is not None:
            if x.shape[2:] != self.positions.shape[1:]:
                raise ValueError(
                    f"images are {tuple(x.shape[2:])}; the position map is {tuple(self.positions.shape[1:])}"
                )
            h = h + self.positions.to(h.dtype)
        h = cut(self._trunk(pad_to_multiple(h, self.multiple), embedded), *x.shape[2:])
        return self._head(h, embedded).to(x.dtype), h

    def _trunk(self, h: Tensor, embedded: Tensor | None) -> Tensor:
        kept = []
        for stage, downsample in zip(self.down[:-1], self.downsample, strict=True):
            kept.append(stage(h, embedded))
            h = downsample(kept[-1])
        h = self.middle(self.down[-1](h, embedded), embedded)
        for stage, upsample in zip(reversed(self.up), reversed(self.upsample), strict=True):
            h = stage(upsample(h) + kept.pop(), embedded)
        return h

    def _head(self, h: Tensor, embedded: Tensor | None) -> Tensor:
        if self.level_bypass:
            embedded = self._levels(h, embedded)
        return self.conv_out(F.silu(self.norm_out(h, embedded)))

    def _levels(self, h: Tensor, embedded: Tensor | None) -> Tensor:
        """`(B, groups)`: logarithms of the mean squares in each group of the last norm; then the embedded c."""
        squares = h.to(torch.promote_types(h.dtype, torch.float32)).square()
        levels = squares.mean((2, 3)).unflatten(1, (self.norm_out.groups, -1)).mean(2).add(1e-6).log()
        return levels if embedded is None else torch.cat([levels, embedded], dim=1)
