"""First-order score matching: a network that denoises."""

from pathlib import Path

import torch
from torch import Tensor

import inference
from models import Scores
from runners.image_runner import ImageRunner
from runners.metrics import write_figure

__all__ = ["UnetDSMRunner"]


class UnetDSMRunner(ImageRunner):
    """Trains s1 alone."""

    order = 1

    @torch.no_grad()
    def preview(self, scores: Scores) -> dict[str, Tensor | float]:
        _, noisy = self.preview_images(scores.sigma)
        denoised = inference.posterior_mean(scores.s1(noisy), noisy, scores.sigma)
        return {"source": self.pictures(noisy), "denoised": self.pictures(denoised)}

    @torch.no_grad()
    def evaluate(self, scores: Scores, picture: Path) -> dict:
        import evaluation

        data, seed = self.test_data, self.config.seed
        metrics = evaluation.denoising_metrics(scores, data, seed)
        p = next(evaluation.noisy_batches(data, scores.sigma, seed, batch_size=min(12, len(data))))
        denoised = inference.posterior_mean(scores.s1(p.inputs), p.inputs, scores.sigma)
        rows = {"clean": p.clean, "noisy": p.inputs, "denoised": denoised}
        pictures = {name: self.pictures(values) for name, values in rows.items()}
        write_figure(picture, evaluation.image_rows(pictures, self.title(metrics, scores.sigma)))
        return metrics
