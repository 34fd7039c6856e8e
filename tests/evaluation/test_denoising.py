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


class TestWhatIsNoTest:
    """Refused when it is asked for, not at the first batch."""

    DATA = datasets.ImageData(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), (1, 4, 4), torch.device("cpu"))

    @pytest.mark.parametrize("sigma", [0, -1, float("nan"), torch.ones(10), torch.ones(10, 1), "1", None])
    def test_of_a_level(self, sigma):
        with pytest.raises(ValueError, match=r"sigma .* number is expected"):
            evaluation.noisy_batches(self.DATA, sigma, seed=0)

    def test_of_a_seed_or_a_batch(self):
        with pytest.raises(ValueError, match="seed is -1; a whole number from 0 to 2⁶³ − 1 is expected"):
            evaluation.noisy_batches(self.DATA, 0.5, seed=-1)
        for size in (0, -5, 2.5):
            with pytest.raises(ValueError, match=f"batch_size is {size}; a whole number, 1 or more, is expected"):
                evaluation.noisy_batches(self.DATA, 0.5, seed=0, batch_size=size)

    @pytest.mark.parametrize("metric", ["denoising_metrics", "predictions", "jacobian_predictions"])
    def test_of_scores(self, metric):
        measure = getattr(evaluation, metric)
        with pytest.raises(ValueError, match="the scores are at σ = 0, of points without noise"):
            measure(Scores(0.0, torch.neg), self.DATA, 0)
        with pytest.raises(ValueError, match="scores is of type builtin.*; a models.Scores is expected"):
            measure(torch.neg, self.DATA, 0)
        with pytest.raises(ValueError, match=r"points of shape \(.*, 16\); a tensor \(B, 9\) is expected"):
            measure(Scores(0.5, torch.neg, shape=(9,)), self.DATA, 0)
