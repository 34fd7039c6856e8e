"""What trained scores are for: pictures and figures of denoised images."""

from inference.denoising import denoise, denoise_error, noisy_batches
from inference.figures import image_rows

__all__ = ["denoise", "denoise_error", "image_rows", "noisy_batches"]
