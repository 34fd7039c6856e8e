"""How far the posterior mean is from the clean images of a test set."""

import math
from collections.abc import Iterator

import torch
from torch import nn

import datasets
import losses
from datasets import ImageData
from losses import Perturbation

__all__ = ["denoise_error", "noisy_batches"]


def noisy_batches(data: ImageData, sigma: float, seed: int, batch_size: int = 250) -> Iterator[Perturbation]:
    """The whole of `data` in order, perturbed with the noise of `seed`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    for clean in datasets.batches(data, list(torch.arange(len(data)).split(batch_size))):
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        yield losses.perturb(clean, sigma, noise=noise)


@torch.no_grad()
def denoise_error(s1: nn.Module, data: ImageData, sigma: float, seed: int) -> dict[str, float]:
    """How well a score denoises a test set.

    Args:
        s1: the score, `(B, D)` to `(B, D)`.
        data: the test set.
        sigma: σ, in the units of the data.
        seed: of the noise.

    Returns:
        `dsm_loss`: mean ‖s1(x̃) + z/σ‖² an image; `mse` and `noisy_mse`: mean squared error an entry of
        the posterior mean and of x̃; `psnr` and `noisy_psnr`: the same in dB below the square of the data's
        range, over the whole set, nothing clipped; `psnr_gain`: their difference.
    """
    low, high = datasets.value_range(data.shape[0])
    totals = torch.zeros(3, dtype=torch.float64)
    for p in noisy_batches(data, sigma, seed):
        score = s1(p.inputs)
        error = losses.posterior_mean(score, p.inputs, sigma) - p.clean
        sums = losses.dsm(score, p) * len(p.clean), error.square().sum(), (p.inputs - p.clean).square().sum()
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
