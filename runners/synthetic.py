"""Both orders of a synthetic density, whose exact scores say how well they were learned."""

from pathlib import Path

import torch
from torch import Tensor

import losses
from configs import Config, UserError
from datasets import DensityData
from models import Scores
from runners.distributed import World
from runners.metrics import write_figure
from runners.runner import Runner

__all__ = ["SyntheticRunner"]

PREVIEWED = 1000


class SyntheticRunner(Runner[DensityData]):
    """Trains multilayer perceptrons on `data.density`: s1, s2 with the head that `model.head` names, and s3 where
    `model.order` is 3."""

    synthetic = True

    def __init__(self, config: Config, folder: Path, world: World, images: Path):
        self.order = 1 if config.model.head == "none" else 2
        if self.order == 1 and config.loss not in (known := losses.OBJECTIVES[1]):
            raise UserError(
                f"loss: {config.loss} is of the second order, and model.head is none; one of {', '.join(known)}"
            )
        super().__init__(config, folder, world, images)

    @torch.no_grad()
    def preview(self, scores: Scores) -> dict[str, Tensor | float]:
        """The errors of `evaluation.score_errors` on 1000 test points."""
        import evaluation

        return {**evaluation.score_errors(scores, self.test_data, self.config.seed, PREVIEWED)}

    @torch.no_grad()
    def evaluate(self, scores: Scores, picture: Path) -> dict:
        import evaluation

        data, density = self.test_data, self.test_data.density
        metrics = evaluation.score_errors(scores, data, self.config.seed, len(data))
        if density.dimension == 2:
            columns = {"exact": density.at(scores.sigma), "learned": scores}
            figure = evaluation.score_fields(
                columns, lambda x: density.log_prob(x, scores.sigma), device=self.world.device
            )
            write_figure(picture, figure)
        return metrics
