import pytest
import torch

import datasets
import evaluation
from models import Scores


def test_metrics_of_an_exact_score():
    """For x ~ N(μ, v) the denoiser's mean squared error is vσ²/(v + σ²); 400 000 entries, so within 1 %."""
    torch.manual_seed(0)
    images = (128 + 30 * torch.randn(1000, 1, 20, 20)).clamp(0, 255).round().to(torch.uint8)
    data = datasets.ImageData(images, (1, 20, 20), torch.device("cpu"))
    v, sigma = (30 / 255) ** 2, 0.1
    scores = Scores(sigma, lambda x: (128 / 255 - x) / (v + sigma**2))
    metrics = evaluation.denoising_metrics(scores, data, seed=3)
    assert metrics["noisy_mse"] == pytest.approx(sigma**2, rel=0.01)
    assert metrics["mse"] == pytest.approx(v * sigma**2 / (v + sigma**2), rel=0.01)
    assert metrics["dsm_loss"] == pytest.approx(400 * metrics["mse"] / sigma**4, rel=1e-4)
    assert metrics["psnr"] == pytest.approx(-10 * torch.tensor(metrics["mse"]).log10().item(), rel=1e-5)
    assert metrics["noisy_psnr"] == pytest.approx(-10 * torch.tensor(metrics["noisy_mse"]).log10().item(), rel=1e-5)
    assert metrics["psnr_gain"] == pytest.approx(metrics["psnr"] - metrics["noisy_psnr"])


def test_coloured_images_have_a_range_of_two():
    """Where s1 = 0, mse is σ², and the range [−1, 1] of coloured images gives 10 log10(4/σ²)."""
    images = torch.zeros(100, 3, 10, 10, dtype=torch.uint8)
    data = datasets.ImageData(images, (3, 10, 10), torch.device("cpu"))
    metrics = evaluation.denoising_metrics(Scores(0.5, torch.zeros_like), data, seed=3)
    assert metrics["mse"] == metrics["noisy_mse"] == pytest.approx(0.25, rel=0.03)
    assert metrics["psnr"] == pytest.approx(10 * torch.tensor(4 / metrics["mse"]).log10().item(), rel=1e-5)
    assert metrics["psnr_gain"] == 0


def test_noise_is_that_of_the_seed():
    data = datasets.ImageData(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), (1, 4, 4), torch.device("cpu"))
    noisy = [torch.cat([p.inputs for p in evaluation.noisy_batches(data, 0.5, seed)]) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
