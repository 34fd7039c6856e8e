"""The networks that are trained together, as one module: s1, and s2 where there is a second order."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from configs import Config, UserError
from linalg import DiagonalPlusLowRank
from models.mlp import MLP
from models.refinenet import RefineNet
from models.second_order import DiagonalHead, LowRankHead, second_order_score, windows

__all__ = ["NETWORKS", "Networks", "SeparateNetworks", "SharedNetwork", "build"]


class SeparateNetworks(nn.Module):
    """A network for s1, and one or two of its own for s2."""

    def __init__(self, s1: nn.Module, s2: nn.Module | None = None):
        super().__init__()
        self.s1 = s1
        self.s2 = s2

    def forward(self, x: Tensor, rows: int | None = None) -> tuple[Tensor, DiagonalPlusLowRank | None]:
        """Both scores at x `(B, D)` in one call; s2 at the first `rows` points only, where that is given."""
        return self.s1(x), None if self.s2 is None else self.s2(x[:rows])


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

    def forward(self, x: Tensor, rows: int | None = None) -> tuple[Tensor, DiagonalPlusLowRank]:
        """Both scores at x `(B, D)` in one call; s2 at the first `rows` points only, where that is given."""
        images = self.trunk(x).unflatten(1, (self.outputs, -1))
        alpha, beta = images[:rows, 1], images[:rows, 2:]
        if self.windows is not None:
            beta = beta * self.windows
        return images[:, 0] / self.sigma, second_order_score(alpha, beta.mT, self.covariance, self.sigma)

    def s1(self, x: Tensor) -> Tensor:
        """The score alone, `(B, D)`."""
        return self(x)[0]

    def s2(self, x: Tensor) -> DiagonalPlusLowRank:
        """The second-order score alone."""
        return self(x)[1]


Networks = SeparateNetworks | SharedNetwork


def _refinenet(shape: tuple[int, ...], width: int, outputs: int) -> RefineNet:
    if len(shape) != 3 or shape[1] != shape[2]:
        raise UserError(f"model.network: refinenet takes square images, not points of shape {shape}; mlp takes any")
    channels, size, _ = shape
    return RefineNet(channels, size, width, channels * outputs)


def _mlp(shape: tuple[int, ...], width: int, outputs: int) -> MLP:
    return MLP(math.prod(shape), width, outputs)


NETWORKS: dict[str, Callable[[tuple[int, ...], int, int], nn.Module]] = {"refinenet": _refinenet, "mlp": _mlp}
"""From the shape of a point, a width and the number k of values for each entry to a network `(B, D)` → `(B, k·D)`."""


def build(config: Config, shape: tuple[int, ...]) -> Networks:
    """Fresh networks for a configuration.

    Args:
        config: its section `model`, `noise` and `rank` count.
        shape: of a point, `(C, H, W)` or `(D,)`; a vector gets a multilayer perceptron whatever `model.network` says.

    Returns:
        a module that maps x `(B, D)` to `(s1, s2)`, s2 None where the head is `none`; `.s1` and `.s2` give one.

    Raises:
        UserError: where `model.head` is not known, or the network does not take such points.
    """
    model = config.model
    make = NETWORKS[model.network if len(shape) == 3 else "mlp"]

    def network(outputs: int = 1) -> nn.Module:
        return make(shape, model.ngf, outputs)

    if model.head == "none":
        return SeparateNetworks(network())
    if model.head not in ("diagonal", "low_rank"):
        raise UserError(f"model.head: {model.head}; none, diagonal or low_rank is expected")
    rank = config.rank if model.head == "low_rank" else 0
    covariance, sigma = model.covariance, config.noise
    if model.trunk == "shared":
        trunk = network(2 + rank)
        maps = windows(rank, trunk.shape) if rank and isinstance(trunk, RefineNet) else None
        return SharedNetwork(trunk, rank, covariance, sigma, maps)
    if rank == 0:
        return SeparateNetworks(network(), DiagonalHead(network(), covariance, sigma))
    return SeparateNetworks(network(), LowRankHead(network(), network(rank), rank, covariance, sigma))
