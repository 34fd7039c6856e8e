"""What scores are for: the posterior of a clean point given the noisy one, and sampling."""

from inference.driver import DivergedError
from inference.pictures import denoise
from inference.posteriors import Posterior, posterior
from inference.priors import GaussianPrior
from inference.samplers import annealed_langevin, annealed_ozaki, langevin, langevin_step, ozaki, ozaki_step
from inference.subspace import denoiser_components
from inference.tweedie import posterior_covariance, posterior_mean

__all__ = [
    "DivergedError",
    "GaussianPrior",
    "Posterior",
    "annealed_langevin",
    "annealed_ozaki",
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
