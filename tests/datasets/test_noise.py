"""The estimated noise level against the one that was added."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

import datasets
from configs import Config


def photographs(size: int) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Crops of scikit-learn's two photographs, as values in [−1, 1]."""
    crops = [
        image[top : top + size, left : left + size]
        for image in load_sample_images().images
        for top in range(0, 300, 100)
        for left in range(0, 500, 100)
    ]
    return datasets.from_pixels(np.stack(crops), (3, size, size)), (3, size, size)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [32, 64])
def test_of_photographs(size, sigma):
    """Few of the crops are as finely textured as noise of 0.1 or 0.3: the median of them is right."""
    clean, shape = photographs(size)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    estimates = datasets.estimate_noise(clean + sigma * noise, shape)
    assert estimates.shape == (30,)
    assert abs(float(estimates.median()) / sigma - 1) < 0.03
    assert (estimates > 0.9 * sigma).all()


@pytest.mark.parametrize(("sigma", "error"), [(0.3, 0.12), (0.5, 0.06), (1.0, 0.06)])
def test_of_digits_of_eight_pixels(sigma, error):
    """All of which is fine texture: a wavelet, db2, says 0.35 for 0.3."""
    data = datasets.load(Config(), "test")
    clean = next(datasets.batches(data, [torch.arange(len(data))]))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    estimates = datasets.estimate_noise(clean + sigma * noise, data.shape)
    assert abs(float(estimates.median()) / sigma - 1) < error


@pytest.mark.parametrize(("size", "count"), [(28, 500), (64, 100)])
def test_of_noise_alone_it_is_the_noise(size, count):
    noise = 0.7 * torch.randn(count, size * size, generator=torch.Generator().manual_seed(0))
    estimates = datasets.estimate_noise(noise, (1, size, size))
    standard_error = float(estimates.std()) / count**0.5
    assert abs(float(estimates.mean()) - 0.7) < 5 * standard_error
    assert standard_error < 0.003


def test_of_smooth_images_it_is_nothing():
    row = torch.linspace(0, 1, 16)
    images = torch.stack([row[:, None] * row, row[:, None] + row, torch.ones(16, 16)])
    assert datasets.estimate_noise(images.flatten(1), (1, 16, 16)).max() < 1e-6
