"""How far the posterior mean is from the clean images of a test set."""

import math
from collections.abc import Iterator

import torch

import datasets
import inference
import losses
from datasets import DensityData, ImageData
from datasets.seeds import generator_of
from inference.arguments import noise_of, whole_number
from losses import Perturbation
from losses.perturbation import noise_level
from models import Scores

__all__ = ["denoising_metrics", "noisy_batches"]


def noisy_batches(
    data: ImageData | DensityData, sigma: float, seed: int, batch_size: int = 250
) -> Iterator[Perturbation]:
    """The whole of `data` in order, perturbed with the noise of `seed`, the same on every device.

    Args:
        data: the test set.
        sigma: σ > 0, one number in the units of the data.
        seed: of the noise.
        batch_size: how many points a batch has; the last one may have fewer.

    Returns:
        an iterator over the perturbed batches, their points `(B, D)`.

    Raises:
        ValueError: at once, where an argument is not what is said above.
        UserError: from the iterator, where an image file cannot be read.
    """
    whole_number("batch_size", batch_size, least=1)
    return _batches(data, noise_level(sigma), generator_of(seed), batch_size)


def _batches(
    data: ImageData | DensityData, sigma: float, generator: torch.Generator | None, batch_size: int
) -> Iterator[Perturbation]:
    for clean in datasets.batches(data, list(torch.arange(len(data)).split(batch_size))):
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        yield losses.perturb(clean, sigma, noise=noise)


@torch.no_grad()
def denoising_metrics(scores: Scores, data: ImageData, seed: int) -> dict[str, float]:
    """How well a score denoises a test set of images.

    Args:
        scores: of which s1 alone is used, at the noise level `scores.sigma` > 0.
        data: the test set.
        seed: of the noise.

    Returns:
        `dsm_loss`: mean ‖s1(x̃) + z/σ‖² an image, in 1/units² of the data; `mse` and `noisy_mse`: mean squared error
        an entry of the posterior mean and of x̃, in units² of the data; `psnr` and `noisy_psnr`: the same in dB below
        the square of the data's range, over the whole set, nothing clipped; `psnr_gain`: their difference, in dB.

    Raises:
        ValueError: where the scores are at σ = 0, or the images are not of their shape.
        UserError: where an image file cannot be read.
    """
    low, high = datasets.value_range(data.shape[0], data.limits)
    totals = torch.zeros(3, dtype=torch.float64)
    for p in noisy_batches(data, noise_of(scores), seed):
        s1 = scores.s1(p.inputs)
        error = inference.posterior_mean(s1, p.inputs, scores.sigma) - p.clean
        sums = losses.dsm(s1, p) * len(p.clean), error.square().sum(), (p.inputs - p.clean).square().sum()
        totals += torch.stack(sums).double().cpu()
    entries = len(data) * math.prod(data.shape)
    mse, noisy_mse = (totals[1:] / entries).tolist()
    psnr, noisy_psnr = (10 * math.log10((high - low) ** 2 / value) for value in (mse, noisy_mse))
    return {
        "dsm_loss": float(totals[0]) / len(data),
        "mse": mse,
        "noisy_mse": noisy_mse,
        "psnr": psnr,
        "noisy_psnr": noisy_psnr,
        "psnr_gain": psnr - noisy_psnr,
    }
