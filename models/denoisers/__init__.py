"""Denoisers of somebody else's: what they answer, as scores in the units of the data."""

from models.denoisers.ddpm import ddpm
from models.denoisers.diffusers import diffusers_model
from models.denoisers.external import ExternalDenoiser, from_denoiser
from models.denoisers.ffdnet import FFDNet, ffdnet
from models.denoisers.names import check_external, external_denoiser, is_external

__all__ = [
    "ExternalDenoiser",
    "FFDNet",
    "check_external",
    "ddpm",
    "diffusers_model",
    "external_denoiser",
    "ffdnet",
    "from_denoiser",
    "is_external",
]
