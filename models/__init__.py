"""Score networks and second-order heads, the scores they give, and the checkpoints they are kept in."""

from models.loading import load
from models.mlp import MLP
from models.networks import NETWORKS, Networks, SeparateNetworks, SharedNetwork, build
from models.refinenet import RefineNet
from models.scores import ScoreModel, Scores, from_denoiser, score_model
from models.second_order import DiagonalHead, LowRankHead

__all__ = [
    "MLP",
    "NETWORKS",
    "DiagonalHead",
    "LowRankHead",
    "Networks",
    "RefineNet",
    "ScoreModel",
    "Scores",
    "SeparateNetworks",
    "SharedNetwork",
    "build",
    "from_denoiser",
    "load",
    "score_model",
]
