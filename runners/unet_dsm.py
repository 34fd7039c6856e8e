"""First-order score matching: a RefineNet that denoises."""

from pathlib import Path

import torch
from torch import Tensor

import losses
from inference import denoise_error, image_rows, noisy_batches
from models import ScoreModel
from runners.base import Runner

__all__ = ["UnetDSMRunner", "first_order_losses"]


class UnetDSMRunner(Runner):
    """Trains s1 with `loss: dsm` or `dsm_vr`."""

    objectives = ("dsm", "dsm_vr")

    def losses(self, clean: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return first_order_losses(self, clean, noise)

    def preview(self, model: ScoreModel, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
        return {"denoised": self.pictures(losses.posterior_mean(model.s1(noisy), noisy, self.config.noise))}

    def evaluate(self, model: ScoreModel, picture: Path) -> dict:
        sigma, seed = self.config.noise, self.config.seed
        metrics = denoise_error(model.s1, self.test_data, sigma, seed)
        p = next(noisy_batches(self.test_data, sigma, seed, batch_size=min(12, len(self.test_data))))
        with torch.no_grad():
            denoised = losses.posterior_mean(model.s1(p.inputs), p.inputs, sigma)
        rows = {"clean": p.clean, "noisy": p.inputs, "denoised": denoised}
        title = f"{self.config.data.dataset}, σ = {sigma:g}: {metrics['noisy_psnr']:.2f} dB → {metrics['psnr']:.2f} dB"
        image_rows({name: self.pictures(values) for name, values in rows.items()}, title).savefig(picture, dpi=120)
        return metrics


def first_order_losses(runner: Runner, clean: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """DSM or DSM-VR of a runner's network on a batch."""
    reduced = runner.config.loss == "dsm_vr"
    p = losses.perturb(clean, runner.config.noise, noise=noise, with_clean=reduced)
    s1, _ = runner.scores(p.inputs)
    return {"loss": losses.dsm_vr(s1, p) if reduced else losses.dsm(s1, p)}
