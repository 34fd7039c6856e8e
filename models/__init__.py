"""Score networks and second-order heads, the scores they give, and the checkpoints they are kept in."""

from models.conditional import ConditionalNetworks, FeatureNetworks, SharedConditionalNetwork
from models.covariance import CovarianceNetwork
from models.denoiser import Denoiser, variance_scale
from models.denoisers import ExternalDenoiser, check_external, external_denoiser, from_denoiser, is_external
from models.loading import load, score_model, take_denoiser
from models.mlp import MLP
from models.networks import NETWORK_NAMES, NETWORKS, Networks, SeparateNetworks, SharedNetwork, build, check_network
from models.refinenet import RefineNet
from models.scores import Locality, ScoreModel, Scores
from models.second_order import DiagonalHead, LowRankHead
from models.third_order import ConditionalThirdOrderHead, ThirdOrderHead, ThirdOrderNetworks
from models.unet import DDPMUNet, UNet

__all__ = [
    "MLP",
    "NETWORKS",
    "NETWORK_NAMES",
    "ConditionalNetworks",
    "ConditionalThirdOrderHead",
    "CovarianceNetwork",
    "DDPMUNet",
    "Denoiser",
    "DiagonalHead",
    "ExternalDenoiser",
    "FeatureNetworks",
    "Locality",
    "LowRankHead",
    "Networks",
    "RefineNet",
    "ScoreModel",
    "Scores",
    "SeparateNetworks",
    "SharedConditionalNetwork",
    "SharedNetwork",
    "ThirdOrderHead",
    "ThirdOrderNetworks",
    "UNet",
    "build",
    "check_external",
    "check_network",
    "external_denoiser",
    "from_denoiser",
    "is_external",
    "load",
    "score_model",
    "take_denoiser",
    "variance_scale",
]
