"""The networks that are trained together, as one module: s1, s2 where there is a second order, and s3 where there is a
third.

Every such module maps points and σ to its scores, `(x, sigma) -> (s1, s2)` or `(s1, s2, s3)`; those made for one noise
level take σ for the level that they were made for.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from configs import Config, UserError
from linalg import DiagonalPlusLowRank
from models.conditional import ConditionalNetworks, FeatureNetworks, SharedConditionalNetwork
from models.covariance import CovarianceHead, CovarianceNetwork, FeatureCovariance, begin_last_layer
from models.denoiser import Denoiser, Level
from models.denoisers.external import ExternalDenoiser
from models.denoisers.names import external_denoiser
from models.mlp import MLP
from models.refinenet import RefineNet
from models.second_order import DiagonalHead, LowRankHead, second_order_score, windows
from models.third_order import ConditionalThirdOrderHead, ThirdOrderHead, ThirdOrderNetworks
from models.unet import UNet, pad_to_multiple

__all__ = ["NETWORKS", "NETWORK_NAMES", "Networks", "SeparateNetworks", "SharedNetwork", "build", "check_network"]


class SeparateNetworks(nn.Module):
    """A network for s1, and one or two of its own for s2."""

    def __init__(self, s1: nn.Module, s2: nn.Module | None = None):
        super().__init__()
        self.s1 = s1
        self.s2 = s2

    def forward(self, x: Tensor, sigma: Level, rows: int | None = None) -> tuple[Tensor, DiagonalPlusLowRank | None]:
        """Both scores at x `(B, D)` in one call; s2 at the first `rows` points only, where that is given."""
        return self.s1(x), None if self.s2 is None else self.s2(x[:rows])

    def first_order(self, x: Tensor, sigma: Level) -> Tensor:
        """The score alone, `(B, D)`."""
        return self.s1(x)

    def second_order(self, x: Tensor, sigma: Level) -> DiagonalPlusLowRank:
        """The second-order score alone, where there is one."""
        assert self.s2 is not None
        return self.s2(x)


class SharedNetwork(nn.Module):
    """One network whose last layer gives s1, α and β together: one evaluation where there are up to three.

    Its first D outputs are σ s1, free of units; s2 is scaled by `second_order_score`.

    Args:
        trunk: maps `(B, D)` to `(B, (2 + rank)·D)`.
        rank: columns of β; 0 for a diagonal s2.
        covariance, sigma: see `second_order_score`.
        windows: where the columns of β are multiplied by learned maps, `(rank, D)`: these to begin with.
    """

    def __init__(self, trunk: nn.Module, rank: int, covariance: str, sigma: float, windows: Tensor | None = None):
        super().__init__()
        self.covariance, self.sigma = covariance, sigma
        self.outputs = 2 + rank
        self.trunk = trunk
        self.windows = None if windows is None else nn.Parameter(windows)

    def forward(self, x: Tensor, sigma: Level, rows: int | None = None) -> tuple[Tensor, DiagonalPlusLowRank]:
        """Both scores at x `(B, D)` in one call; s2 at the first `rows` points only, where that is given."""
        images = self.trunk(x).unflatten(1, (self.outputs, -1))
        alpha, beta = images[:rows, 1], images[:rows, 2:]
        if self.windows is not None:
            beta = beta * self.windows
        return images[:, 0] / self.sigma, second_order_score(alpha, beta.mT, self.covariance, self.sigma)

    def first_order(self, x: Tensor, sigma: Level) -> Tensor:
        """The score alone, `(B, D)`."""
        return self(x, sigma)[0]

    def second_order(self, x: Tensor, sigma: Level) -> DiagonalPlusLowRank:
        """The second-order score alone."""
        return self(x, sigma)[1]


Networks = SeparateNetworks | SharedNetwork | ConditionalNetworks | ThirdOrderNetworks


def _refinenet(shape: tuple[int, ...], width: int, outputs: int) -> RefineNet:
    channels, height, columns = shape
    return RefineNet(channels, (height, columns), width, channels * outputs)


def _mlp(shape: tuple[int, ...], width: int, outputs: int, activation: Callable[[], nn.Module] = nn.SiLU) -> MLP:
    return MLP(math.prod(shape), width, outputs, activation)


NETWORKS: dict[str, Callable[[tuple[int, ...], int, int], nn.Module]] = {
    "refinenet": _refinenet,
    "mlp": _mlp,
    "mlp_softplus": partial(_mlp, activation=nn.Softplus),
}
"""From the shape of a point, a width and the number k of values for each entry to a network `(B, D)` → `(B, k·D)`, for
one noise level; `unet`, which is for a range, is built by itself."""

NETWORK_NAMES = (*NETWORKS, "unet")
OF_IMAGES = ("refinenet", "unet")
"""Those that take no points of a density, for which an `mlp` stands."""


def check_network(config: Config, shape: tuple[int, ...]) -> None:
    """Compares the points with what the networks of a configuration take.

    Raises:
        UserError: where `model.head` is not known, or the network does not take such points.
    """
    model = config.model
    if model.head not in ("none", "diagonal", "low_rank"):
        raise UserError(f"model.head: {model.head}; none, diagonal or low_rank is expected")
    if model.head == "none" and model.external:
        return
    if model.network == "unet":
        if len(shape) != 3:
            raise UserError(f"model.network: unet takes images, not points of shape {shape}; mlp takes any")
        try:
            pad_to_multiple(torch.empty(1, 1, *shape[1:]), 2 ** (len(model.unet.widths) - 1))
        except ValueError as error:
            raise UserError(f"model.unet.widths: {error}; fewer levels are expected") from error
    if model.network == "refinenet" and len(shape) == 3 and any(side < 4 or side % 2 for side in shape[1:]):
        size = f"{shape[1]}×{shape[2]} pixels"
        raise UserError(
            f"model.network: refinenet takes images of even height and width from 4 on, not {size}; unet, mlp take any"
        )


def build(config: Config, shape: tuple[int, ...], denoiser: nn.Module | None = None) -> Networks:
    """Fresh networks for a configuration.

    Args:
        config: its section `model`, `noise` and `rank` count; for `unet` also `data.mean` and `data.std`.
        shape: of a point, `(C, H, W)` or `(D,)`; a vector gets a multilayer perceptron whatever `model.network` says.
        denoiser: that of `model.denoiser` where it comes from elsewhere and is at hand already.

    Returns:
        a module that maps x `(B, D)` and σ to `(s1, s2)`, s2 None where the head is `none`, or to `(s1, s2, s3)` where
        `model.order` is 3.

    Raises:
        UserError: where `model.head` is not known, or the network does not take such points.
    """
    check_network(config, shape)
    lower = _lower_orders(config, shape, denoiser)
    if config.model.order != 3:
        return lower
    return ThirdOrderNetworks(lower, _third_order(config, shape), frozen=config.model.lower_orders_frozen)


def _lower_orders(config: Config, shape: tuple[int, ...], denoiser: nn.Module | None) -> Networks:
    model = config.model
    rank = config.rank if model.head == "low_rank" else 0
    if model.network == "unet" or model.external:
        return _conditional(config, cast(tuple[int, int, int], shape), rank, denoiser)

    def network(outputs: int = 1) -> nn.Module:
        return _network(config, shape, outputs)

    if model.head == "none":
        return SeparateNetworks(network())
    covariance, sigma = model.covariance, config.sigmas[0]
    if model.trunk == "shared":
        trunk = network(2 + rank)
        maps = windows(rank, trunk.shape) if rank and isinstance(trunk, RefineNet) else None
        return SharedNetwork(trunk, rank, covariance, sigma, maps)
    if rank == 0:
        return SeparateNetworks(network(), DiagonalHead(network(), covariance, sigma))
    return SeparateNetworks(network(), LowRankHead(network(), network(rank), rank, covariance, sigma))


def _network(config: Config, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network for one noise level."""
    name = config.model.network
    make = NETWORKS["mlp" if len(shape) == 1 and name in OF_IMAGES else name]
    return make(shape, config.model.ngf, outputs)


def _third_order(config: Config, shape: tuple[int, ...]) -> ThirdOrderHead:
    """The network of s3, and what is made of its outputs."""
    model = config.model
    rank = 0 if model.head == "diagonal" else config.rank if model.third_rank is None else model.third_rank
    if model.network != "unet":
        return ThirdOrderHead(_network(config, shape, 1 + 2 * rank), shape, rank)
    channels, height, width = cast(tuple[int, int, int], shape)
    options = model.unet.model_dump() | {"positions": model.unet.positions and model.covariance_positions}
    network = UNet(3 * channels, (height, width), (1 + 2 * rank) * channels, **options)
    mean, std = cast(float, config.data.mean), cast(float, config.data.std)
    return ConditionalThirdOrderHead(network, (channels, height, width), rank, mean, std)


def _conditional(
    config: Config, shape: tuple[int, int, int], rank: int, elsewhere: nn.Module | None
) -> ConditionalNetworks:
    """A denoiser, and the covariance in the arrangement that the configuration names."""
    model, channels = config.model, shape[0]
    external = None
    if model.external:
        found = elsewhere or external_denoiser(cast(str, model.denoiser), config).network
        external = cast(ExternalDenoiser, found).resized(shape)
        if model.head == "none":
            return ConditionalNetworks(external, frozen=True)
    mean, std = config.data.mean, config.data.std
    if mean is None or std is None:
        raise UserError("data.mean and data.std: those of the training data are expected, for model.network: unet")

    def network(inputs: int, outputs: int, **changes: Any) -> UNet:
        return UNet(inputs, shape[1:], outputs * channels, **(model.unet.model_dump() | changes))

    if model.head == "none":
        return ConditionalNetworks(Denoiser(network(channels, 1), shape, mean, std))
    head = _covariance_head(config, shape, rank, std)
    if model.trunk == "shared":
        both = Denoiser(network(channels, 2 + rank), shape, mean, std)
        begin_last_layer(both.network, channels, before=channels)
        return SharedConditionalNetwork(both, head)
    denoiser = external or Denoiser(network(channels, 1), shape, mean, std)
    positions = model.unet.positions and model.covariance_positions
    if isinstance(denoiser, Denoiser) and model.second_order == "features":
        width = model.unet.widths[0]
        small = network(width, 1 + rank, widths=[width], blocks=1, attention=0, positions=positions)
        begin_last_layer(small, channels)
        return FeatureNetworks(denoiser, FeatureCovariance(small, head), model.frozen)
    own = network(2 * channels, 1 + rank, positions=positions)
    begin_last_layer(own, channels)
    covariance = CovarianceNetwork(own, head, mean)
    return ConditionalNetworks(denoiser, covariance, model.frozen, begun=model.second_order == "begun")


def _covariance_head(config: Config, shape: tuple[int, int, int], rank: int, std: float) -> CovarianceHead:
    model, ranges = config.model, None
    if rank and model.taper is not None:
        ranges = torch.tensor([reach for reach, columns in model.taper.items() for _ in range(columns)])
    return CovarianceHead(shape, std, ranges, model.taper_learned, model.orthogonal)
