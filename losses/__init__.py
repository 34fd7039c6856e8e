"""Objectives whose minimisers are the scores of the noisy data density."""

from losses.first_order import dsm, dsm_vr
from losses.objectives import (
    OBJECTIVE_NAMES,
    OBJECTIVES,
    PROBES,
    Objective,
    centered_and_jacobian,
    draw_probes,
    entry_weight,
    probe_weight,
    trace_weight,
)
from losses.perturbation import Perturbation, perturb
from losses.principal_components import nppc
from losses.second_order import d2sm, d2sm_centered, d2sm_centered_vr, d2sm_vr, jacobian_matching
from losses.third_order import d3sm, d3sm_centered, d3sm_diagonal, d3sm_vr, second_derivative_matching

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
    "d3sm",
    "d3sm_centered",
    "d3sm_diagonal",
    "d3sm_vr",
    "dsm",
    "dsm_vr",
    "entry_weight",
    "jacobian_matching",
    "nppc",
    "perturb",
    "draw_probes",
    "probe_weight",
    "second_derivative_matching",
    "trace_weight",
]
