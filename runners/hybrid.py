"""Both orders together: s1 and a second-order head, trained on the same noise."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import inference
from configs import Config
from models import Scores
from runners.image_runner import ImageRunner
from runners.metrics import write_figure

__all__ = ["DoubleDiagonalHybridRunner", "HybridRunner", "LowRankHybridRunner"]

SHOWN = 12
COMPONENTS = 3
JACOBIAN_SECONDS = 10


class HybridRunner(ImageRunner):
    """Trains s1 and s2 of images."""

    @torch.no_grad()
    def preview(self, scores: Scores) -> dict[str, Tensor | float]:
        clean, noisy = self.preview_images(scores.sigma)
        posterior = inference.posterior(scores, noisy)
        source, denoised, std = self.pictures(noisy), self.pictures(posterior.mean), posterior.std()
        std = (std / std.max()).unflatten(1, self.test_data.shape).cpu()  # on one scale: white is the largest of all
        columns = torch.stack([self.pictures(clean), source, denoised, std], dim=1).flatten(0, 1)
        return {"source": source, "denoised": denoised, "clean_noisy_denoised_std": columns}

    @torch.no_grad()
    def evaluate(self, scores: Scores, picture: Path) -> dict:
        import evaluation

        data, seed = self.test_data, self.config.seed
        learned = evaluation.predictions(scores, data, seed)
        low_rank = self.config.model.head == "low_rank"
        seconds = JACOBIAN_SECONDS / len(self.test_levels())
        jacobian = evaluation.jacobian_predictions(scores, data, seed, seconds, components=low_rank)
        metrics: dict[str, Any] = {**evaluation.denoising_metrics(scores, data, seed), **learned.metrics()}
        metrics |= evaluation.log_scores(scores, data, seed)
        if scores.s3 is not None:
            metrics["skewness"] = evaluation.skewness_metrics(scores, data, seed)
        by_name = {"s2": learned}
        if jacobian.variances:
            metrics["jacobian_of_s1"] = {"images": len(jacobian.variances), **jacobian.metrics()}
            by_name["Jacobian of s1"] = jacobian
        beside = {what: picture.with_stem(picture.stem.replace("test", what)) for what in ("calibration", "walks")}
        write_figure(beside["calibration"], evaluation.calibration_figure(by_name))

        p = next(evaluation.noisy_batches(data, scores.sigma, seed, batch_size=min(SHOWN, len(data))))
        posterior = inference.posterior(scores, p.inputs)
        components = min(COMPONENTS, self.config.rank) if low_rank else 0
        figure = evaluation.posterior_figure(
            posterior, data.shape, p.clean, components, self.title(metrics, scores.sigma)
        )
        write_figure(picture, figure)
        if low_rank:
            walks = evaluation.walk_figure(posterior, data.shape, components=components, clean=p.clean)
            write_figure(beside["walks"], walks)
        return metrics


class LowRankHybridRunner(HybridRunner):
    """s2 = diag(α) + ββᵀ, β with `rank` columns; its run folder is `DOC_rankR`."""

    first_order_weight = 10

    @staticmethod
    def folder_name(doc: str, config: Config) -> str:
        return f"{doc}_rank{config.rank}"


class DoubleDiagonalHybridRunner(HybridRunner):
    """s2 = diag(α)."""
