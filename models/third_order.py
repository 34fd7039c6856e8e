"""A third-order score beside networks of the first two: a network of its own, whose outputs make a symmetric tensor.

    κ3 = σ⁶ s3 = diag(t³∘a) + Σ_i m_i (√v ω_i∘b_i)^{⊗3},    m_i the mean of ω_i∘c_i

from maps a, b_i and c_i over the image; t are the predicted standard deviations and v is `models.variance_scale`; in
`ThirdOrderHead` both t and √v are σ. ω_i are windows (`models.second_order.windows`), ones for points that are no
images.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from linalg import SymmetricCP, SymmetricMatrix
from models.conditional import ConditionalNetworks, SharedConditionalNetwork, fixed
from models.covariance import CovarianceNetwork, begin_weights
from models.denoiser import Denoiser, Level, condition, variance_scale
from models.second_order import window_count, windows
from models.unet import UNet

__all__ = ["ConditionalThirdOrderHead", "ThirdOrderHead", "ThirdOrderNetworks"]

COLUMNS_BEGIN = 0.3


class ThirdOrderHead(nn.Module):
    """s3 at one noise level.

    Args:
        network: from points `(B, D)` to a, the r columns b_i and the r maps c_i, one after the other,
            `(B, (1 + 2r)·D)`.
        shape: of a point, `(C, H, W)` or `(D,)`.
        rank: r; 0 for a diagonal s3.
    """

    windows: Tensor | None

    def __init__(self, network: nn.Module, shape: tuple[int, ...], rank: int):
        super().__init__()
        self.network, self.rank = network, rank
        images = len(shape) == 3 and rank > 0
        maps = windows(rank, cast(tuple[int, int, int], shape)) if images else None
        self.register_buffer("windows", maps, persistent=False)

    def forward(self, x: Tensor, s1: Tensor, s2: SymmetricMatrix, sigma: Level) -> SymmetricCP:
        """s3 in units of 1/σ³ at x `(B, D)`, beside the lower orders that are given."""
        return self.tensor(self.network(x), sigma, sigma, sigma)

    def tensor(self, outputs: Tensor, deviation: Tensor | Level, unit: Level, sigma: Level) -> SymmetricCP:
        """s3 from the outputs `(B, (1 + 2r)·D)`, t `(B, D)` and √v."""
        values = outputs.unflatten(1, (1 + 2 * self.rank, -1))
        a, b, c = values[:, 0], values[:, 1 : 1 + self.rank], values[:, 1 + self.rank :]
        if self.windows is not None:
            b, c = b * self.windows, c * self.windows
        tensor = SymmetricCP(unit**3 * c.mean(2), b.mT, deviation**3 * a)
        return tensor * sigma**-6


class ConditionalThirdOrderHead(ThirdOrderHead):
    """s3 at every noise level of a range, from x̃, D(x̃) and the predicted standard deviations.

    Args:
        network: from images `(B, 3C, H, W)` and c `(B,)` to `(B, (1 + 2r)·C, H, W)`.
        shape, rank: see `ThirdOrderHead`.
        mean, std: of all values of the data.
    """

    network: UNet

    def __init__(self, network: UNet, shape: tuple[int, int, int], rank: int, mean: float, std: float):
        super().__init__(network, shape, rank)
        self.shape, self.mean, self.std = shape, mean, std
        self._begin(network.conv_out)

    def forward(self, x: Tensor, s1: Tensor, s2: SymmetricMatrix, sigma: Level) -> SymmetricCP:
        denoised, deviation = x + sigma**2 * s1, (sigma**4 * s2.diagonal() + sigma**2).clamp(min=0).sqrt()
        total, unit = (sigma**2 + self.std**2) ** 0.5, variance_scale(sigma, self.std) ** 0.5
        inputs = torch.stack([(x - self.mean) / total, (denoised - self.mean) / self.std, deviation / unit], dim=1)
        images = inputs.unflatten(2, self.shape).flatten(1, 2)
        return self.tensor(self.network(images, condition(sigma, x)).flatten(1), deviation, unit, sigma)

    @torch.no_grad()
    def _begin(self, last: nn.Conv2d) -> None:
        """a and m zero, and columns of about 0.3."""
        channels = self.shape[0]
        nn.init.normal_(last.weight, std=COLUMNS_BEGIN / last.weight[0].numel() ** 0.5)
        nn.init.zeros_(last.weight[:channels])
        nn.init.zeros_(last.weight[(1 + self.rank) * channels :])
        nn.init.zeros_(cast(Tensor, last.bias))

    @torch.no_grad()
    def begin_from(self, lower: ConditionalNetworks) -> None:
        """Takes over the weights of the covariance's network, or of the denoiser's, but for the last layer; inputs that
        it does not have are not seen at first. The columns begin as those of the covariance, the last of which reach
        farthest, one of them in all windows and then the next."""
        trained = lower.covariance if isinstance(lower.covariance, CovarianceNetwork) else lower.denoiser
        if not isinstance(trained, CovarianceNetwork | Denoiser):
            return
        begin_weights(self.network, trained.network)
        channels, own, theirs = self.shape[0], self.network.conv_out, trained.network.conv_out
        shared = isinstance(lower, SharedConditionalNetwork)  # whose denoiser gives D and a before the columns
        before = 2 if shared else 1
        columns = len(theirs.weight) // channels - before
        if self.windows is None or columns < 1:
            return
        for i in range(self.rank):
            j = before + columns - 1 - i // window_count(self.rank) % columns
            to, start = slice((1 + i) * channels, (2 + i) * channels), slice(j * channels, (j + 1) * channels)
            for mine, others in ((own.weight, theirs.weight), (own.bias, theirs.bias)):
                cast(Tensor, mine)[to] = cast(Tensor, others)[start] / columns**0.5


class ThirdOrderNetworks(nn.Module):
    """Networks of both lower orders, and a third order that learns beside them: no gradient of it reaches them.

    Args:
        lower: maps x and σ to `(s1, s2)`; see `models.networks`.
        third: maps x, s1, s2 and σ to s3.
        frozen: nothing of `lower` is trained.
    """

    def __init__(self, lower: nn.Module, third: ThirdOrderHead, frozen: bool = False):
        super().__init__()
        self.lower, self.third, self.frozen = lower, third, frozen
        if frozen:
            lower.requires_grad_(False)

    @property
    def denoiser(self) -> nn.Module | None:
        """Of `lower`, where it has one."""
        return getattr(self.lower, "denoiser", None)

    def forward(
        self, x: Tensor, sigma: Level, rows: int | None = None, third_rows: int | None = None
    ) -> tuple[Tensor, SymmetricMatrix, SymmetricCP]:
        """All three at x `(B, D)`; s2 at the first `rows` points only, s3 at the first `third_rows`, which are no more,
        where they are given."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            s1, s2 = self.lower(x, sigma, rows)
        count = len(s2) if third_rows is None else third_rows
        level = sigma[:count] if isinstance(sigma, Tensor) and sigma.ndim else sigma
        return s1, s2, self.third(x[:count], fixed(s1[:count]), fixed(s2[:count]), level)

    def compile(self, *args: object, **options: object) -> None:
        """Compiles the networks, and not what is made of their outputs."""
        self.lower.compile(*args, **options)
        self.third.network.compile(*args, **options)

    def first_order(self, x: Tensor, sigma: Level) -> Tensor:
        """The score alone, `(B, D)`."""
        score: Tensor = cast(Any, self.lower).first_order(x, sigma)
        return score

    def second_order(self, x: Tensor, sigma: Level) -> SymmetricMatrix:
        """The second-order score alone."""
        score: SymmetricMatrix = cast(Any, self.lower).second_order(x, sigma)
        return score

    def third_order(self, x: Tensor, sigma: Level) -> SymmetricCP:
        """The third-order score."""
        return self(x, sigma)[2]
