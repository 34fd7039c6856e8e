"""What trained scores are for: pictures and figures of denoised images."""

from inference.calibration import Predictions, calibration_figure, jacobian_predictions, predictions
from inference.denoising import denoise, denoise_error, noisy_batches
from inference.figures import image_rows

__all__ = [
    "Predictions",
    "calibration_figure",
    "denoise",
    "denoise_error",
    "image_rows",
    "jacobian_predictions",
    "noisy_batches",
    "predictions",
]
