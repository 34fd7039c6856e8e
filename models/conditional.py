"""Networks for every noise level of a range: a preconditioned denoiser, and a posterior covariance beside it.

With `v = σ²σ_d²/(σ² + σ_d²)`, σ_d the standard deviation of the data and μ their mean, both are right in scale at
either end of the axis (D → x̃ and C → σ² as σ → 0; D → μ and C → the variance of the data as σ → ∞):

    D(x̃, σ) = μ + c_skip (x̃ − μ) + c_out F(c_in (x̃ − μ), ¼ ln σ)
    C(x̃, σ) = v (diag(softplus a) + Σ_i K_i ∘ b_ib_iᵀ / r)

Source: Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*, NeurIPS 2022, table 1, for
the first line; the second is ours.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linalg import DiagonalPlusLowRank, SymmetricMatrix, TaperedLowRank
from models.unet import UNet

__all__ = ["ConditionalNetworks", "CovarianceNetwork", "Denoiser", "Level", "variance_scale"]

Level = float | Tensor
"""σ of all points, or of each, `(B, 1)`."""

FLOOR = 1e-6
COLUMNS_BEGIN = 0.02
VARIANCES_BEGIN = -3.0


def variance_scale(sigma: Level, std: float) -> Level:
    """`v = σ²σ_d²/(σ² + σ_d²)`: the posterior variance under a normal density of the data."""
    return sigma**2 * std**2 / (sigma**2 + std**2)


class Denoiser(nn.Module):
    """`D(x̃, σ) = E[x|x̃]` from a conditional network F with EDM's preconditioning.

    Args:
        network: F, from images `(B, C, H, W)` and c `(B,)` to images.
        shape: of an image, `(C, H, W)`.
        mean, std: μ and σ_d, of all values of the data.
    """

    def __init__(self, network: UNet, shape: tuple[int, int, int], mean: float, std: float):
        super().__init__()
        self.network, self.shape, self.mean, self.std = network, shape, mean, std

    def forward(self, x: Tensor, sigma: Level) -> Tensor:
        """From points `(B, D)` to their posterior means `(B, D)`."""
        centred, total = x - self.mean, (sigma**2 + self.std**2) ** 0.5
        raw = self.network((centred / total).unflatten(1, self.shape), _condition(sigma, x)).flatten(1)
        return self.mean + (self.std / total) ** 2 * centred + sigma * self.std / total * raw


class CovarianceNetwork(nn.Module):
    """`C(x̃, σ) = Cov[x|x̃]` from a conditional network that reads x̃ and D(x̃).

    Args:
        network: from images `(B, 2C, H, W)` and c `(B,)` to `(B, (1 + r)·C, H, W)`: a, and the columns of b.
        shape: of an image, `(C, H, W)`.
        mean, std: μ and σ_d, of all values of the data.
        ranges: of the tapers K_i in pixels, one for each column, inf for none; without them no column is tapered.
    """

    ranges: Tensor | None

    def __init__(
        self, network: UNet, shape: tuple[int, int, int], mean: float, std: float, ranges: Tensor | None = None
    ):
        super().__init__()
        self.network, self.shape, self.mean, self.std = network, shape, mean, std
        self.register_buffer("ranges", ranges, persistent=False)

    def forward(self, x: Tensor, denoised: Tensor, sigma: Level) -> SymmetricMatrix:
        """The covariance at points `(B, D)`, in the squared units of the data."""
        total = (sigma**2 + self.std**2) ** 0.5
        inputs = torch.stack([(x - self.mean) / total, (denoised - self.mean) / self.std], dim=1)
        images = inputs.unflatten(2, self.shape).flatten(1, 2)
        values = self.network(images, _condition(sigma, x)).unflatten(1, (-1, self.shape[0])).flatten(2)
        alpha, beta = F.softplus(values[:, 0]) + FLOOR, values[:, 1:].mT
        beta = beta / max(1, beta.shape[2]) ** 0.5
        scale = variance_scale(sigma, self.std)
        if self.ranges is None:
            return scale * DiagonalPlusLowRank(alpha, beta)
        return scale * TaperedLowRank(alpha, beta, self.ranges, self.shape)

    def begin_from(self, denoiser: Denoiser) -> None:
        """Takes over the weights of a denoiser's network, but for the last layer; D(x̃) is not seen at first. Without a
        denoiser's weights the last layer alone begins: small columns, small variances."""
        own = self.network.state_dict()
        for name, value in denoiser.network.state_dict().items():
            if name == "conv_in.weight":
                own[name].zero_()[:, : value.shape[1]] = value
            elif not name.startswith("conv_out."):
                own[name].copy_(value)
        self.network.load_state_dict(own)


class ConditionalNetworks(nn.Module):
    """A denoiser for every noise level of a range, and a covariance where there is a second order.

    Args:
        denoiser: gives s1 = (D − x̃)/σ².
        covariance: gives s2 = (C − σ² I)/σ⁴, or None.
        frozen: the denoiser is not trained.
    """

    def __init__(self, denoiser: Denoiser, covariance: CovarianceNetwork | None = None, frozen: bool = False):
        super().__init__()
        self.denoiser, self.covariance = denoiser, covariance
        self.denoiser.requires_grad_(not frozen)

    def forward(self, x: Tensor, sigma: Level, rows: int | None = None) -> tuple[Tensor, SymmetricMatrix | None]:
        """Both scores at x `(B, D)`; s2 at the first `rows` points only, where that is given."""
        denoised = self.denoiser(x, sigma)
        s1 = (denoised - x) / sigma**2
        if self.covariance is None:
            return s1, None
        level = sigma[:rows] if isinstance(sigma, Tensor) and sigma.ndim else sigma
        covariance = self.covariance(x[:rows], denoised[:rows].detach(), level)
        return s1, (covariance - level**2) * (1 / level**4)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles the two networks, and not what is made of their outputs."""
        self.denoiser.network.compile(*args, **options)
        if self.covariance is not None:
            self.covariance.network.compile(*args, **options)

    def first_order(self, x: Tensor, sigma: Level) -> Tensor:
        """The score alone, `(B, D)`."""
        return (self.denoiser(x, sigma) - x) / sigma**2

    def second_order(self, x: Tensor, sigma: Level) -> SymmetricMatrix:
        """The second-order score alone."""
        return self(x, sigma)[1]


def begin_last_layer(network: UNet, channels: int) -> None:
    """The last layer of a covariance's network at the start of a training: variances of softplus(−3), and columns of
    about 0.02, in units of `variance_scale`."""
    weight, bias = network.conv_out.weight, cast(Tensor, network.conv_out.bias)
    nn.init.normal_(weight, std=COLUMNS_BEGIN / math.sqrt(weight[0].numel()))
    nn.init.zeros_(weight[:channels])
    nn.init.zeros_(bias)
    nn.init.constant_(bias[:channels], VARIANCES_BEGIN)


def _condition(sigma: Level, x: Tensor) -> Tensor:
    """`¼ ln σ`, `(B,)` or `(1,)`."""
    level = sigma.flatten() if isinstance(sigma, Tensor) else x.new_full((1,), sigma)
    return level.log() / 4
