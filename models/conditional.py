"""Networks for every noise level of a range: a denoiser, and a posterior covariance beside it, in three arrangements.

The covariance has a network of its own (`ConditionalNetworks`), a small one on the denoiser's features
(`FeatureNetworks`), or further outputs of the denoiser's (`SharedConditionalNetwork`).
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from linalg import SymmetricMatrix
from models.covariance import CovarianceHead, CovarianceNetwork, FeatureCovariance
from models.denoiser import Denoiser, Level
from models.denoisers.external import ExternalDenoiser
from models.unet import UNet

__all__ = ["ConditionalNetworks", "FeatureNetworks", "SharedConditionalNetwork", "fixed"]

Values = TypeVar("Values", Tensor, SymmetricMatrix)


class ConditionalNetworks(nn.Module):
    """A denoiser for every noise level of a range, and a covariance with a network of its own where there is a second
    order.

    Args:
        denoiser: gives s1 = (D − x̃)/σ².
        covariance: gives s2 = (C − σ² I)/σ⁴, or None.
        frozen: the denoiser is not trained.
        begun: the covariance's network begins from the weights of a trained denoiser, see `begin_from`.
    """

    covariance: nn.Module | None
    denoiser: Denoiser | ExternalDenoiser

    def __init__(
        self,
        denoiser: Denoiser | ExternalDenoiser,
        covariance: CovarianceNetwork | None = None,
        frozen: bool = False,
        begun: bool = True,
    ):
        super().__init__()
        self.denoiser, self.covariance, self.begun = denoiser, covariance, begun
        self.denoiser.requires_grad_(not frozen)

    def forward(self, x: Tensor, sigma: Level, rows: int | None = None) -> tuple[Tensor, SymmetricMatrix | None]:
        """Both scores at x `(B, D)`; s2 at the first `rows` points only, where that is given."""
        level = sigma[:rows] if isinstance(sigma, Tensor) and sigma.ndim else sigma
        denoised, covariance = self.moments(x, sigma, rows, level)
        s1 = (denoised - x) / sigma**2
        return s1, None if covariance is None else (covariance - level**2) * (1 / level**4)

    def moments(self, x: Tensor, sigma: Level, rows: int | None, level: Level) -> tuple[Tensor, SymmetricMatrix | None]:
        """D at x `(B, D)`, and C at the first `rows` of them, whose σ is `level`."""
        denoised = self.denoiser(x, sigma)
        if self.covariance is None:
            return denoised, None
        return denoised, self.covariance(x[:rows], fixed(denoised[:rows]), level)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles the networks, and not what is made of their outputs."""
        for module in self.modules():
            if isinstance(module, UNet):
                module.compile(*args, **options)

    def first_order(self, x: Tensor, sigma: Level) -> Tensor:
        """The score alone, `(B, D)`."""
        return (self.denoiser(x, sigma) - x) / sigma**2

    def second_order(self, x: Tensor, sigma: Level) -> SymmetricMatrix:
        """The second-order score alone."""
        return self(x, sigma)[1]

    def begin_from(self, trained: Denoiser) -> None:
        """Takes a trained denoiser, from whose weights the covariance's network begins, where that is asked for.

        Raises:
            RuntimeError: where its network is of another kind.
        """
        self.denoiser.load_state_dict(trained.state_dict())
        if self.begun and isinstance(self.covariance, CovarianceNetwork):
            self.covariance.begin_from(trained)


def fixed(values: Values) -> Values:
    """Values that no gradient goes back through. Where none are kept they stay as they are, so that forward derivatives
    go on."""
    return values.detach() if torch.is_grad_enabled() else values


class FeatureNetworks(ConditionalNetworks):
    """A denoiser, and a covariance by a small network on its features, through which no gradient reaches it."""

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser, covariance: FeatureCovariance, frozen: bool = False):
        super().__init__(denoiser, None, frozen)
        self.covariance: FeatureCovariance = covariance

    def moments(self, x: Tensor, sigma: Level, rows: int | None, level: Level) -> tuple[Tensor, SymmetricMatrix]:
        denoised, features = self.denoiser.with_features(x, sigma)
        return denoised, self.covariance(fixed(features[:rows]), level)


class SharedConditionalNetwork(ConditionalNetworks):
    """A denoiser whose network has further outputs, of which the covariance is made. Both are trained.

    Args:
        denoiser: its network gives `(2 + r)·C` channels: F, a, and the columns of b.
        covariance: makes C of those but F.
    """

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser, covariance: CovarianceHead):
        super().__init__(denoiser)
        self.covariance: CovarianceHead = covariance

    def moments(self, x: Tensor, sigma: Level, rows: int | None, level: Level) -> tuple[Tensor, SymmetricMatrix]:
        denoised, outputs = self.denoiser.with_outputs(x, sigma)
        return denoised, self.covariance(outputs[:rows], level)

    @torch.no_grad()
    def begin_from(self, trained: Denoiser) -> None:
        """Takes the weights of a trained denoiser; the outputs of the covariance begin as they are.

        Raises:
            RuntimeError: where its network is of another kind.
        """
        own, theirs = self.denoiser.network.state_dict(), trained.network.state_dict()
        for name in ("conv_out.weight", "conv_out.bias"):
            theirs[name] = torch.cat([theirs[name], own[name][len(theirs[name]) :]])
        self.denoiser.network.load_state_dict(theirs)
