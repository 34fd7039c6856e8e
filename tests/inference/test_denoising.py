import pytest
import torch
from torch import nn

import datasets
import inference


class GaussianScore(nn.Module):
    """Exact score of x̃ = x + σz for x ~ N(μ, v I)."""

    def __init__(self, mean: float, variance: float):
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, x):
        return (self.mean - x) / self.variance


def test_figures_of_an_exact_score():
    """For x ~ N(μ, v) the denoiser's mean squared error is vσ²/(v + σ²); 400 000 entries, so within 1 %."""
    torch.manual_seed(0)
    images = (128 + 30 * torch.randn(1000, 1, 20, 20)).clamp(0, 255).round().to(torch.uint8)
    data = datasets.ImageData(images, (1, 20, 20), torch.device("cpu"))
    v, sigma = (30 / 255) ** 2, 0.1
    figures = inference.denoise_error(GaussianScore(128 / 255, v + sigma**2), data, sigma, seed=3)
    assert figures["noisy_mse"] == pytest.approx(sigma**2, rel=0.01)
    assert figures["mse"] == pytest.approx(v * sigma**2 / (v + sigma**2), rel=0.01)
    assert figures["dsm_loss"] == pytest.approx(400 * figures["mse"] / sigma**4, rel=1e-4)
    assert figures["psnr"] == pytest.approx(-10 * torch.tensor(figures["mse"]).log10().item(), rel=1e-5)


def test_noise_is_that_of_the_seed():
    data = datasets.ImageData(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), (1, 4, 4), torch.device("cpu"))
    noisy = [torch.cat([p.inputs for p in inference.noisy_batches(data, 0.5, seed)]) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])


def test_a_row_of_pictures_for_each_label(tmp_path):
    rows = {"clean": torch.rand(3, 3, 4, 4), "noisy": torch.rand(3, 3, 4, 4)}
    figure = inference.image_rows(rows, "title")
    assert [axis.get_ylabel() for axis in figure.axes] == ["clean", "", "", "noisy", "", ""]
