"""Images to train on, and synthetic densities with exact scores."""

from datasets.images import ImageData, at_hand, batches, epoch_order, load, to_float, value_range
from datasets.synthetic import (
    DENSITIES,
    CurveMixture,
    DensityData,
    GaussianMixture,
    LogisticMixture,
    Mixture,
    UniformMixture,
    checkerboard,
    correlated_normal,
    gaussians,
    logistics,
    multivariate_normal,
    rings,
    two_moons,
)

__all__ = [
    "DENSITIES",
    "CurveMixture",
    "DensityData",
    "GaussianMixture",
    "ImageData",
    "LogisticMixture",
    "Mixture",
    "UniformMixture",
    "at_hand",
    "batches",
    "checkerboard",
    "correlated_normal",
    "epoch_order",
    "gaussians",
    "load",
    "logistics",
    "multivariate_normal",
    "rings",
    "to_float",
    "two_moons",
    "value_range",
]
