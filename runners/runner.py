"""What every runner is: a configuration, its data and its run folder, to be trained and tested."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

import datasets
import linalg
import losses
import models
from configs import Config, UserError
from datasets import DensityData, ImageData
from models import Networks, Scores
from runners import training
from runners.distributed import World
from runners.metrics import write_metrics
from runners.state import TrainingState

__all__ = ["Runner"]

log = logging.getLogger(__name__)

Data = TypeVar("Data", ImageData, DensityData)


class Runner(Generic[Data]):
    """Trains the networks of a configuration with the objective that `loss` names, and tests them.

    A runner of the registry adds the order of its scores, what is shown of them while they are trained (`preview`), and
    what `--test` measures and draws (`evaluate`).

    Attributes:
        order: 1, or 2 where s1 and s2 are trained together: which objectives there are (`losses.OBJECTIVES`).
        first_order_weight: the factor of the first order in the published objectives of both.
        synthetic: whether it takes densities in place of images.

    Args:
        config: the whole configuration.
        folder: the run folder.
        world: device and processes.
        images: the folder for pictures, in the run folder.

    Raises:
        UserError: where the data set is not for this runner, the batch does not fit the processes, or the runner does
            not have the objective.
    """

    order = 2
    first_order_weight = 1
    synthetic = False

    def __init__(self, config: Config, folder: Path, world: World, images: Path):
        self.config, self.folder, self.world, self.images = config, folder, world, images
        name = type(self).__name__
        if (config.data.dataset == "Synthetic") != self.synthetic:
            kind = "Synthetic" if self.synthetic else "images"
            raise UserError(f"data.dataset: {name} trains on {kind}, not on {config.data.dataset}")
        if config.loss not in (known := losses.OBJECTIVES[self.order]):
            raise UserError(f"loss: {name} has no {config.loss}; one of {', '.join(known)}")
        if config.batch_size % world.size:
            raise UserError(f"batch_size: {config.batch_size} cannot be divided among {world.size} processes")
        self.objective = known[config.loss]

    # --- what a runner adds ---

    @staticmethod
    def folder_name(doc: str, config: Config) -> str:
        """The name of the run folder for `--doc`."""
        return doc

    def preview(self, scores: Scores) -> dict[str, Tensor | float]:
        """What is shown while training: numbers, and pictures `(n, C, H, W)` in [0, 1], by name."""
        raise NotImplementedError

    def evaluate(self, scores: Scores, picture: Path) -> dict:
        """The metrics of `--test` over the whole test set; draws the picture into the file `picture`."""
        raise NotImplementedError

    # --- the data ---

    @cached_property
    def train_data(self) -> Data:
        """The training data, loaded when they are first used.

        Raises:
            UserError: where they can't be had, or are fewer than a batch.
        """
        data = cast(Data, datasets.load(self.config, "train", self.world.device))
        if self.config.batch_size > len(data):
            raise UserError(
                f"batch_size: {self.config.batch_size} is more than the {len(data)} training images of "
                f"{self.config.data.dataset}; at most {len(data)} is allowed"
            )
        return data

    @cached_property
    def test_data(self) -> Data:
        """The test data, loaded when they are first used.

        Raises:
            UserError: where they can't be had.
        """
        return cast(Data, datasets.load(self.config, "test", self.world.device))

    def load_data(self) -> None:
        """Loads what a training needs, so that mistakes are found before anything is written: the first process
        downloads, where that is needed, before the others look.

        Raises:
            UserError: see `train_data` and `test_data`.
        """
        if self.world.first:
            _ = self.train_data, self.test_data
        self.world.wait()
        _ = self.train_data

    # --- training ---

    def train(self, resume: bool = False) -> None:
        """Trains to the end, or until a signal; see `training.train`."""
        training.train(self, resume)

    def batch_losses(self, state: TrainingState, clean: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """What a step minimises.

        Args:
            state: of the training.
            clean: this process's share of the batch, `(B, D)`.
            noise: for it, `(B, D)`.

        Returns:
            scalars by name; `loss` is minimised.
        """
        objective, sigma = self.objective, self.config.noise
        p = objective.perturb(clean, sigma, noise)
        s1, s2 = state.scores(p.inputs, objective.rows(p))
        needs = {}
        if objective.weighted and s2 is not None:
            free = self.config.model.covariance == "free"
            needs["weight"] = losses.trace_weight(s2, sigma, self._batch_mean if free else None)
        if objective.probes:
            needs["probe"] = probe = state.draw(torch.randn, clean.shape[1]).sign()
            x = p.at("plus", p.inputs)
            needs["product"] = linalg.jacobian_product(state.network.s1, x, probe[:, :, None])[:, :, 0]
        return objective(p, s1, s2, self.first_order_weight, **needs)

    def _batch_mean(self, values: Tensor) -> Tensor:
        return self.world.mean(values.mean())

    # --- test ---

    def scores_of(self, network: Networks) -> Scores:
        """The scores of networks of this configuration, at its noise level."""
        return models.score_model(network, self.config, self.test_data.shape).at(self.config.noise)

    def test(self) -> dict:
        """Evaluates the newest checkpoint (its EMA weights where there are any) into `metrics.json`.

        Returns:
            the metrics.

        Raises:
            UserError: where the checkpoint or the test data can't be read.
        """
        network = models.load(self.folder, self.world.device).network
        assert network is not None  # a checkpoint has one
        picture = self.images / "test.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        metrics = {"noise": self.config.noise, "seed": self.config.seed, "images": len(self.test_data)}
        metrics |= self.evaluate(self.scores_of(network), picture)
        path = write_metrics(self.folder, metrics)
        for name, value in metrics.items():
            log.info("%s: %s", name, f"{value:.5g}" if isinstance(value, float) else value)
        log.info("written: %s and %s", path, picture)
        return metrics
