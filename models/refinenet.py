"""The RefineNet score network of the paper: an image in, `k` values per pixel and channel out.

Four residual stages (the last two dilated instead of pooled) feed four refinement blocks that fuse
coarse features into fine ones. Arithmetic equal to the published network; the parameter names are our
own, `models.published` translates the published ones.

References: Lin et al., *RefineNet*, CVPR 2017; Song and Ermon, *Generative Modeling by Estimating
Gradients of the Data Distribution*, NeurIPS 2019, appendix A; Meng et al., 2021, appendix C.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RefineNet"]


def conv3(inputs: int, outputs: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


class InstanceNormPlus(nn.Module):
    """`γ·(h + α·m) + β`: `h` the instance-normalised input, `m` its channel means, standardised.

    The rows of `weight` (3, channels) are γ, α, β. The means carry the intensity that instance
    normalisation alone would throw away.
    """

    eps = 1e-5

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, channels))
        nn.init.normal_(self.weight[:2], mean=1.0, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        gamma, alpha, beta = self.weight
        batch, channels, height, width = x.shape
        means = x.mean((2, 3), dtype=self.weight.dtype)
        centred = means - means.mean(1, keepdim=True)
        m = centred * torch.rsqrt(means.var(1, keepdim=True) + self.eps)
        shift = beta + gamma * alpha * m
        # Instance norm is batch norm over a batch of one with B·C channels. Written so, the shift of
        # every image rides on the norm's own bias: one pass over x where there would be three.
        instances = x.reshape(1, batch * channels, height, width)
        scale = gamma.repeat(batch)
        out = F.batch_norm(instances, None, None, scale, shift.flatten(), training=True, eps=self.eps)
        return out.view(batch, channels, height, width)


class ResidualBlock(nn.Module):
    """Norm, ELU, convolution, twice, plus a shortcut.

    `dilation` > 1 dilates every convolution, the shortcut's too. `down` lets the second convolution
    change the width, and halves the resolution by mean pooling unless the block is dilated.
    """

    def __init__(self, inputs: int, outputs: int, down: bool = False, dilation: int = 1):
        super().__init__()
        self.pooled = down and dilation == 1
        hidden = inputs if down else outputs
        self.norm1 = InstanceNormPlus(inputs)
        self.conv1 = conv3(inputs, hidden, dilation)
        self.norm2 = InstanceNormPlus(hidden)
        self.conv2 = conv3(hidden, outputs, dilation)
        self.shortcut: nn.Module
        if self.pooled:
            self.shortcut = nn.Conv2d(inputs, outputs, 1)
        elif down or inputs != outputs:
            self.shortcut = conv3(inputs, outputs, dilation)
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.norm1(x)))
        h = self.conv2(F.elu(self.norm2(h)))
        if self.pooled:
            return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))
        return h + self.shortcut(x)


class ConvUnit(nn.Module):
    """One unit of RefineNet's residual convolution chain: (norm, ELU, convolution) twice, plus input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = InstanceNormPlus(channels)
        self.conv1 = conv3(channels, channels, bias=False)
        self.norm2 = InstanceNormPlus(channels)
        self.conv2 = conv3(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.norm1(x)))
        return x + self.conv2(F.elu(self.norm2(h)))


class Fusion(nn.Module):
    """Multi-resolution fusion: each input normalised, convolved, resized to the first one's size; summed."""

    def __init__(self, inputs: list[int], outputs: int):
        super().__init__()
        self.norms = nn.ModuleList(InstanceNormPlus(channels) for channels in inputs)
        self.convs = nn.ModuleList(conv3(channels, outputs) for channels in inputs)

    def forward(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[2:]
        parts = []
        for x, norm, conv in zip(features, self.norms, self.convs, strict=True):
            h = conv(norm(x))
            if h.shape[2:] != size:
                h = F.interpolate(h, size=size, mode="bilinear", align_corners=True)
            parts.append(h)
        return sum(parts[1:], start=parts[0])


class ChainedPooling(nn.Module):
    """Chained residual pooling: two stages of norm, 5×5 mean pooling and convolution, all summed."""

    def __init__(self, channels: int):
        super().__init__()
        self.norms = nn.ModuleList(InstanceNormPlus(channels) for _ in range(2))
        self.convs = nn.ModuleList(conv3(channels, channels, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = path = F.elu(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            path = conv(F.avg_pool2d(norm(path), 5, stride=1, padding=2))
            x = x + path
        return x


class RefineBlock(nn.Module):
    def __init__(self, inputs: list[int], outputs: int, output_units: int = 1):
        super().__init__()
        self.adapt = nn.ModuleList(nn.Sequential(ConvUnit(c), ConvUnit(c)) for c in inputs)
        self.fuse = Fusion(inputs, outputs) if len(inputs) > 1 else None
        self.pool = ChainedPooling(outputs)
        self.output = nn.Sequential(*(ConvUnit(outputs) for _ in range(output_units)))

    def forward(self, *features: Tensor) -> Tensor:
        adapted = [adapt(x) for adapt, x in zip(self.adapt, features, strict=True)]
        fused = adapted[0] if self.fuse is None else self.fuse(adapted)
        return self.output(self.pool(fused))


class RefineNet(nn.Module):
    """Maps images to `out_channels` values a pixel, flattened.

    Args:
        channels: channels of the image, C.
        image_size: height and width of the image, or one number for both; even, at least 4.
        ngf: width of the network; the coarse features have `2·ngf` channels.
        out_channels: channels of the output, C by default (a score). C·k gives k values for every
            entry of the image.

    Shape:
        input `(B, D)` or `(B, C, H, W)` with `D = C·H·W`; output `(B, out_channels·H·W)`, of the input's
        type under autocast too.

    Raises:
        ValueError: where a side is odd or below 4, or the input has another size.
    """

    def __init__(self, channels: int, image_size: int | tuple[int, int], ngf: int, out_channels: int | None = None):
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 4 or height % 2 or width % 2:
            raise ValueError(f"image_size is {image_size}; RefineNet takes even sizes from 4 on")
        self.shape = (channels, height, width)
        self.begin = conv3(channels, ngf)
        self.stage1 = nn.Sequential(ResidualBlock(ngf, ngf), ResidualBlock(ngf, ngf))
        self.stage2 = nn.Sequential(ResidualBlock(ngf, 2 * ngf, down=True), ResidualBlock(2 * ngf, 2 * ngf))
        self.stage3 = self._dilated_stage(2 * ngf, dilation=2)
        self.stage4 = self._dilated_stage(2 * ngf, dilation=4)
        self.refine1 = RefineBlock([2 * ngf], 2 * ngf)
        self.refine2 = RefineBlock([2 * ngf, 2 * ngf], 2 * ngf)
        self.refine3 = RefineBlock([2 * ngf, 2 * ngf], ngf)
        self.refine4 = RefineBlock([ngf, ngf], ngf, output_units=3)
        self.norm = InstanceNormPlus(ngf)
        self.end = conv3(ngf, channels if out_channels is None else out_channels)

    @staticmethod
    def _dilated_stage(channels: int, dilation: int) -> nn.Sequential:
        return nn.Sequential(
            ResidualBlock(channels, channels, down=True, dilation=dilation),
            ResidualBlock(channels, channels, dilation=dilation),
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:].numel() != torch.Size(self.shape).numel():
            raise ValueError(f"an input of shape {tuple(x.shape)} does not hold images of {self.shape}")
        layer1 = self.stage1(self.begin(x.reshape(-1, *self.shape)))
        layer2 = self.stage2(layer1)
        layer3 = self.stage3(layer2)
        layer4 = self.stage4(layer3)
        h = self.refine1(layer4)
        h = self.refine2(layer3, h)
        h = self.refine3(layer2, h)
        h = self.refine4(layer1, h)
        return self.end(F.elu(self.norm(h))).flatten(1).to(x.dtype)
