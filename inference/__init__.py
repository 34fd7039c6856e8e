"""What scores are for: the posterior of a clean point given the noisy one, and sampling."""

from inference.pictures import denoise
from inference.posteriors import Posterior, posterior
from inference.samplers import DivergedError, annealed_langevin, langevin, langevin_step, ozaki, ozaki_step
from inference.subspace import denoiser_components
from inference.tweedie import posterior_covariance, posterior_mean

__all__ = [
    "DivergedError",
    "Posterior",
    "annealed_langevin",
    "denoise",
    "denoiser_components",
    "langevin",
    "langevin_step",
    "ozaki",
    "ozaki_step",
    "posterior",
    "posterior_covariance",
    "posterior_mean",
]
