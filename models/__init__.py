"""Score networks, second-order heads, and the checkpoints they are kept in."""

from models.build import ScoreModel, build, load
from models.refinenet import RefineNet
from models.second_order import DiagonalHead, LowRankHead
from models.structured import DiagonalPlusLowRank

__all__ = ["DiagonalHead", "DiagonalPlusLowRank", "LowRankHead", "RefineNet", "ScoreModel", "build", "load"]
