"""Objectives whose minimisers are the scores of the noisy data density, and Tweedie's moments from those."""

from losses.first_order import dsm, dsm_vr
from losses.perturbation import Perturbation, perturb
from losses.second_order import d2sm, d2sm_centered, d2sm_centered_vr, d2sm_vr, jacobian_matching
from losses.tweedie import posterior_covariance, posterior_mean

__all__ = [
    "Perturbation",
    "d2sm",
    "d2sm_centered",
    "d2sm_centered_vr",
    "d2sm_vr",
    "dsm",
    "dsm_vr",
    "jacobian_matching",
    "perturb",
    "posterior_covariance",
    "posterior_mean",
]
