"""Images in and pixels out, and densities with exact scores."""

from datasets.images import DATASETS, READERS, ImageData, ImageFiles, at_hand, batches, epoch_order, load
from datasets.mixtures import (
    CurveMixture,
    GaussianMixture,
    LogisticMixture,
    Mixture,
    ProductMixture,
    UniformMixture,
    multivariate_normal,
)
from datasets.pixels import displayable, from_pixels, read_images, to_float, to_pixels, value_range
from datasets.synthetic import (
    DENSITIES,
    DensityData,
    checkerboard,
    correlated_normal,
    gaussians,
    logistics,
    rings,
    two_moons,
)

__all__ = [
    "DATASETS",
    "DENSITIES",
    "READERS",
    "CurveMixture",
    "DensityData",
    "GaussianMixture",
    "ImageData",
    "ImageFiles",
    "LogisticMixture",
    "Mixture",
    "ProductMixture",
    "UniformMixture",
    "at_hand",
    "batches",
    "checkerboard",
    "correlated_normal",
    "displayable",
    "epoch_order",
    "from_pixels",
    "gaussians",
    "load",
    "logistics",
    "multivariate_normal",
    "read_images",
    "rings",
    "to_float",
    "to_pixels",
    "two_moons",
    "value_range",
]
