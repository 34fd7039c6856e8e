"""Objectives whose minimisers are the scores of the noisy data density."""

from losses.first_order import dsm, dsm_vr
from losses.perturbation import Perturbation, perturb
from losses.second_order import d2sm, d2sm_centered, d2sm_centered_vr, d2sm_vr

__all__ = [
    "Perturbation",
    "d2sm",
    "d2sm_centered",
    "d2sm_centered_vr",
    "d2sm_vr",
    "dsm",
    "dsm_vr",
    "perturb",
]
