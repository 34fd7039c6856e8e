"""Denoisers of somebody else's: what they answer, as scores in the units of the data."""

from models.denoisers.external import ExternalDenoiser, from_denoiser
from models.denoisers.ffdnet import FFDNet, ffdnet
from models.denoisers.names import external_denoiser, is_external

__all__ = ["ExternalDenoiser", "FFDNet", "external_denoiser", "ffdnet", "from_denoiser", "is_external"]
