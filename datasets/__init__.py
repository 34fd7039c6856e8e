"""Images to train on, and synthetic densities with exact scores."""

from datasets.images import ImageData, batches, epoch_order, load, to_float, value_range
from datasets.synthetic import (
    CurveMixture,
    GaussianMixture,
    LogisticMixture,
    Mixture,
    UniformMixture,
    checkerboard,
    multivariate_normal,
    rings,
    two_moons,
)

__all__ = [
    "CurveMixture",
    "GaussianMixture",
    "ImageData",
    "LogisticMixture",
    "Mixture",
    "UniformMixture",
    "batches",
    "checkerboard",
    "epoch_order",
    "load",
    "multivariate_normal",
    "rings",
    "to_float",
    "two_moons",
    "value_range",
]
