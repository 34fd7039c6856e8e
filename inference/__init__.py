"""What scores are for: the posterior of a clean point given the noisy one, sampling, likelihoods, and
answers to measurements."""

from inference import guidance, operators
from inference.bounds import Bound, variational_bounds
from inference.driver import DivergedError
from inference.likelihood import bits_per_entry, dequantised, log_likelihood
from inference.marginals import SplitNormal
from inference.measurements import conditional, conditional_scores, kalman_step, ozaki_corrector
from inference.pictures import denoise
from inference.posteriors import Posterior, posterior
from inference.priors import GaussianPrior
from inference.reverse import (
    IsotropicCovariance,
    diagonal_covariance,
    full_covariance,
    heun_step,
    lanczos_step,
    no_covariance,
    reverse,
    reverse_step,
)
from inference.samplers import annealed_langevin, annealed_ozaki, langevin, langevin_step, ozaki, ozaki_step
from inference.subspace import denoiser_components
from inference.tweedie import posterior_covariance, posterior_mean

__all__ = [
    "Bound",
    "DivergedError",
    "GaussianPrior",
    "IsotropicCovariance",
    "Posterior",
    "SplitNormal",
    "annealed_langevin",
    "annealed_ozaki",
    "bits_per_entry",
    "conditional",
    "conditional_scores",
    "denoise",
    "denoiser_components",
    "dequantised",
    "diagonal_covariance",
    "full_covariance",
    "guidance",
    "heun_step",
    "kalman_step",
    "lanczos_step",
    "langevin",
    "langevin_step",
    "log_likelihood",
    "no_covariance",
    "operators",
    "ozaki",
    "ozaki_corrector",
    "ozaki_step",
    "posterior",
    "posterior_covariance",
    "posterior_mean",
    "reverse",
    "reverse_step",
    "variational_bounds",
]
