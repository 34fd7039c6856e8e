"""Images in and pixels out, and densities with exact scores."""

from datasets.crops import CroppedFiles
from datasets.image_files import ImageFiles
from datasets.images import (
    DATASETS,
    READERS,
    ImageData,
    at_hand,
    batches,
    epoch_order,
    fingerprint,
    load,
    training_order,
)
from datasets.inputs import ImageInputs, inputs_by_size, read_images
from datasets.mixtures import (
    CurveMixture,
    GaussianMixture,
    LogisticMixture,
    Mixture,
    ProductMixture,
    UniformMixture,
    multivariate_normal,
)
from datasets.noise import estimate_noise
from datasets.pixels import displayable, from_pixels, like, picture_shape, to_float, to_pixels
from datasets.ranges import Limits, value_range
from datasets.seeds import derived_seed, generator_of
from datasets.synthetic import (
    DENSITIES,
    DensityData,
    checkerboard,
    correlated_normal,
    gaussians,
    independent_normal,
    logistics,
    rings,
    two_moons,
    varied_logistics,
)

__all__ = [
    "DATASETS",
    "DENSITIES",
    "READERS",
    "CroppedFiles",
    "CurveMixture",
    "DensityData",
    "GaussianMixture",
    "ImageData",
    "ImageFiles",
    "ImageInputs",
    "Limits",
    "LogisticMixture",
    "Mixture",
    "ProductMixture",
    "UniformMixture",
    "at_hand",
    "batches",
    "checkerboard",
    "correlated_normal",
    "derived_seed",
    "displayable",
    "epoch_order",
    "estimate_noise",
    "fingerprint",
    "from_pixels",
    "gaussians",
    "generator_of",
    "independent_normal",
    "inputs_by_size",
    "like",
    "load",
    "logistics",
    "multivariate_normal",
    "picture_shape",
    "read_images",
    "rings",
    "to_float",
    "to_pixels",
    "training_order",
    "two_moons",
    "value_range",
    "varied_logistics",
]
