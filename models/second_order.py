"""Second-order heads: networks whose output is s2 = diag(α) + ββᵀ at every point."""

from torch import Tensor, nn

from models.refinenet import RefineNet
from models.structured import DiagonalPlusLowRank

__all__ = ["DiagonalHead", "LowRankHead"]


class DiagonalHead(nn.Module):
    """s2 = diag(α), α from a RefineNet of its own (the published diagonal model)."""

    def __init__(self, channels: int, image_size: int, ngf: int):
        super().__init__()
        self.diagonal = RefineNet(channels, image_size, ngf)

    def forward(self, x: Tensor) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank(self.diagonal(x))


class LowRankHead(nn.Module):
    """s2 = diag(α) + ββᵀ, α and β from a RefineNet each (the published low-rank model)."""

    def __init__(self, channels: int, image_size: int, ngf: int, rank: int):
        super().__init__()
        self.rank = rank
        self.diagonal = RefineNet(channels, image_size, ngf)
        self.factor = RefineNet(channels, image_size, ngf, out_channels=channels * rank)

    def forward(self, x: Tensor) -> DiagonalPlusLowRank:
        diagonal = self.diagonal(x)
        factor = self.factor(x).unflatten(1, (self.rank, -1)).mT
        return DiagonalPlusLowRank(diagonal, factor)
