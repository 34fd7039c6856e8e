"""What trained scores are for: the posterior of a clean image, sampling, and how good both are."""

from inference.calibration import Predictions, calibration_figure, jacobian_predictions, predictions
from inference.denoising import denoise_error, noisy_batches
from inference.diagnostics import (
    autocorrelation_time,
    effective_sample_size,
    mmd,
    mode_weights,
    r_hat,
    sliced_wasserstein,
)
from inference.explain import explain
from inference.figures import displayable, image_rows, posterior_figure, score_fields, walk_figure
from inference.jacobian import jacobian, jacobian_diagonal, jacobian_product
from inference.pictures import denoise, from_pixels, read_images, to_pixels
from inference.posterior import Posterior, posterior
from inference.samplers import DivergedError, annealed_langevin, langevin, ozaki, ozaki_displacement
from inference.subspace import denoiser_components, subspace_iteration

__all__ = [
    "DivergedError",
    "Posterior",
    "Predictions",
    "annealed_langevin",
    "autocorrelation_time",
    "calibration_figure",
    "denoise",
    "denoise_error",
    "denoiser_components",
    "displayable",
    "effective_sample_size",
    "explain",
    "from_pixels",
    "image_rows",
    "jacobian",
    "jacobian_diagonal",
    "jacobian_predictions",
    "jacobian_product",
    "langevin",
    "mmd",
    "mode_weights",
    "noisy_batches",
    "ozaki",
    "ozaki_displacement",
    "posterior",
    "posterior_figure",
    "predictions",
    "r_hat",
    "read_images",
    "score_fields",
    "sliced_wasserstein",
    "subspace_iteration",
    "to_pixels",
    "walk_figure",
]
