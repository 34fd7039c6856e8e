"""Objectives whose minimisers are the scores of the noisy data density."""

from losses.first_order import dsm, dsm_vr
from losses.perturbation import Perturbation, perturb

__all__ = ["Perturbation", "dsm", "dsm_vr", "perturb"]
