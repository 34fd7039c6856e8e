"""A posterior covariance for every noise level of a range, from the outputs of a conditional network.

With `v = σ²σ_d²/(σ² + σ_d²)`, σ_d the standard deviation of the data, it is right in scale at either end of the axis
(C → σ² as σ → 0, C → the variance of the data as σ → ∞):

    C(x̃, σ) = v (diag(softplus a) + Σ_i K_i ∘ b_ib_iᵀ / r)

Source: ours.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linalg import DiagonalPlusLowRank, SymmetricMatrix, TaperedLowRank, orthogonal_columns
from models.denoiser import Denoiser, Level, condition, variance_scale
from models.unet import UNet

__all__ = ["CovarianceHead", "CovarianceNetwork", "FeatureCovariance", "begin_last_layer", "begin_weights"]

FLOOR = 1e-6
COLUMNS_BEGIN = 0.02
VARIANCES_BEGIN = -3.0


class CovarianceHead(nn.Module):
    """C from a and the columns of b.

    Args:
        shape: of an image, `(C, H, W)`.
        std: σ_d, of all values of the data.
        ranges: of the tapers K_i in pixels, one for each column, inf for none; without them no column is tapered.
        learned: the ranges are where learned ones begin; an infinite one stays.
        orthogonal: the columns are made so, each to those before it, which get no gradient from that.
    """

    ranges: Tensor | None

    def __init__(
        self,
        shape: tuple[int, int, int],
        std: float,
        ranges: Tensor | None = None,
        learned: bool = False,
        orthogonal: bool = False,
    ):
        super().__init__()
        self.shape, self.std, self.orthogonal = shape, std, orthogonal
        self.register_buffer("ranges", ranges, persistent=False)
        self.log_ranges = None
        if learned and ranges is not None:
            self.log_ranges = nn.Parameter(ranges[ranges.isfinite()].log())

    def forward(self, outputs: Tensor, sigma: Level) -> SymmetricMatrix:
        """The covariance of B points, in the squared units of the data, from `(B, (1 + r)·C, H, W)`."""
        values = outputs.unflatten(1, (-1, self.shape[0])).flatten(2)
        alpha, beta = F.softplus(values[:, 0]) + FLOOR, values[:, 1:].mT
        beta = beta / max(1, beta.shape[2]) ** 0.5
        scale = variance_scale(sigma, self.std)
        if self.ranges is not None:
            return scale * TaperedLowRank(alpha, beta, self._reach(self.ranges), self.shape)
        return scale * DiagonalPlusLowRank(alpha, orthogonal_columns(beta) if self.orthogonal else beta)

    def _reach(self, ranges: Tensor) -> Tensor:
        if self.log_ranges is None:
            return ranges
        return ranges.masked_scatter(ranges.isfinite(), self.log_ranges.exp())


class CovarianceNetwork(nn.Module):
    """`C(x̃, σ) = Cov[x|x̃]` from a conditional network of its own, which reads x̃ and D(x̃).

    Args:
        network: from images `(B, 2C, H, W)` and c `(B,)` to `(B, (1 + r)·C, H, W)`: a, and the columns of b.
        head: makes C of them.
        mean: μ, of all values of the data.
    """

    def __init__(self, network: UNet, head: CovarianceHead, mean: float):
        super().__init__()
        self.network, self.head, self.mean = network, head, mean

    def forward(self, x: Tensor, denoised: Tensor, sigma: Level) -> SymmetricMatrix:
        """The covariance at points `(B, D)`, in the squared units of the data."""
        std = self.head.std
        total = (sigma**2 + std**2) ** 0.5
        inputs = torch.stack([(x - self.mean) / total, (denoised - self.mean) / std], dim=1)
        images = inputs.unflatten(2, self.head.shape).flatten(1, 2)
        return self.head(self.network(images, condition(sigma, x)), sigma)

    def begin_from(self, denoiser: Denoiser) -> None:
        """Takes over the weights of a denoiser's network, but for the last layer; D(x̃) is not seen at first."""
        begin_weights(self.network, denoiser.network)


class FeatureCovariance(nn.Module):
    """`C(x̃, σ) = Cov[x|x̃]` from the features of a denoiser, by a small conditional network.

    Args:
        network: from features `(B, n, H, W)` and c `(B,)` to `(B, (1 + r)·C, H, W)`: a, and the columns of b.
        head: makes C of them.

    Source: Bao et al., ICML 2022, arXiv 2206.07309 (NPR- and SN-DPM), and Ou et al., ICLR 2025, arXiv 2406.10808
        (OCM-DPM), for a diagonal.
    """

    def __init__(self, network: UNet, head: CovarianceHead):
        super().__init__()
        self.network, self.head = network, head

    def forward(self, features: Tensor, sigma: Level) -> SymmetricMatrix:
        """The covariance at B points, in the squared units of the data."""
        return self.head(self.network(features, condition(sigma, features)), sigma)


@torch.no_grad()
def begin_weights(network: UNet, trained: UNet) -> None:
    """Takes over the weights of a trained network, but for the last layer. Inputs that it does not have are not seen at
    first; a position map is left out where this network has none."""
    own = network.state_dict()
    for name, value in trained.state_dict().items():
        if name == "conv_in.weight":
            own[name].zero_()[:, : value.shape[1]] = value
        elif not name.startswith("conv_out.") and (name != "positions" or name in own):
            own[name].copy_(value)
    network.load_state_dict(own)


@torch.no_grad()
def begin_last_layer(network: UNet, channels: int, before: int = 0) -> None:
    """The last layer of a covariance's network at the start of a training: variances of softplus(−3), and columns of
    about 0.02, in units of `variance_scale`.

    Args:
        network: whose last layer gives a and the columns of b.
        channels: of an image.
        before: outputs that stand before those and stay as they are.
    """
    weight, bias = network.conv_out.weight[before:], cast(Tensor, network.conv_out.bias)[before:]
    nn.init.normal_(weight, std=COLUMNS_BEGIN / math.sqrt(weight[0].numel()))
    nn.init.zeros_(weight[:channels])
    nn.init.zeros_(bias)
    nn.init.constant_(bias[:channels], VARIANCES_BEGIN)
