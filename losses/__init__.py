"""Objectives whose minimisers are the scores of the noisy data density."""

from losses.first_order import dsm, dsm_vr
from losses.objectives import OBJECTIVE_NAMES, OBJECTIVES, PROBES, Objective, centered_and_jacobian, trace_weight
from losses.perturbation import Perturbation, perturb
from losses.principal_components import nppc
from losses.second_order import d2sm, d2sm_centered, d2sm_centered_vr, d2sm_vr, jacobian_matching

__all__ = [
    "OBJECTIVES",
    "OBJECTIVE_NAMES",
    "PROBES",
    "Objective",
    "Perturbation",
    "centered_and_jacobian",
    "d2sm",
    "d2sm_centered",
    "d2sm_centered_vr",
    "d2sm_vr",
    "dsm",
    "dsm_vr",
    "jacobian_matching",
    "nppc",
    "perturb",
    "trace_weight",
]
