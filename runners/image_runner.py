"""What the runners of images share: which of them are shown, and how."""

import torch
from torch import Tensor

import datasets
from datasets import ImageData
from models import ScoreModel
from runners.runner import Runner

__all__ = ["ImageRunner"]

PREVIEWED = 36


class ImageRunner(Runner[ImageData]):
    """A runner of images."""

    def preview_images(self, sigma: float) -> tuple[Tensor, Tensor]:
        """Up to 36 clean test images and noisy ones `(n, D)`, the noise always the same."""
        indices = torch.arange(min(PREVIEWED, len(self.test_data)))
        clean = next(datasets.batches(self.test_data, indices[None]))
        noise = torch.randn(clean.shape, generator=datasets.generator_of(self.config.seed))
        return clean, clean + sigma * noise.to(clean.device)

    def evaluate_density(self, model: ScoreModel) -> dict:
        """The likelihood of test images; nothing where the spread of the data is not known, or it is that of images of
        any size, whose prior says little."""
        import evaluation

        if self.config.data.std is None or self.config.model.external:
            return {}
        return evaluation.density_metrics(model, self.test_data, self.config.seed)

    def pictures(self, values: Tensor) -> Tensor:
        """Values of the model `(n, D)` as pictures `(n, C, H, W)` in [0, 1], on the CPU."""
        return datasets.displayable(values, self.test_data.shape, self.test_data.limits)

    def title(self, metrics: dict, sigma: float) -> str:
        """Above the pictures of `--test`."""
        psnr = f"{metrics['noisy_psnr']:.2f} dB → {metrics['psnr']:.2f} dB"
        return f"{self.config.data.dataset}, σ = {sigma:g}: {psnr}"
