"""Score networks, second-order heads, and the checkpoints they are kept in."""

from models.build import ScoreModel, SharedScoreModel, build, build_model, evaluate, load, load_model
from models.mlp import MLP
from models.refinenet import RefineNet
from models.second_order import DiagonalHead, LowRankHead
from models.structured import DiagonalPlusLowRank

__all__ = [
    "DiagonalHead",
    "DiagonalPlusLowRank",
    "MLP",
    "LowRankHead",
    "RefineNet",
    "ScoreModel",
    "SharedScoreModel",
    "build",
    "build_model",
    "evaluate",
    "load",
    "load_model",
]
