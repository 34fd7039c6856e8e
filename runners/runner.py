"""What every runner is: a configuration, its data and its run folder, to be trained and tested."""

import logging
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

import datasets
import linalg
import losses
import models
from configs import Config, UserError
from datasets import DensityData, ImageData
from linalg import SymmetricMatrix
from losses import Perturbation
from models import Networks, ScoreModel, Scores
from runners import locks, precision, run_folder, training
from runners.distributed import World
from runners.external import completed
from runners.metrics import in_lines, write_metrics
from runners.state import TrainingState

__all__ = ["Runner"]

log = logging.getLogger(__name__)

TOO_FEW = "give more images (a tenth of them is kept for the test), or sets of their own to train and to test on"
LEVELS = 5
MEASURED = 10_000

Data = TypeVar("Data", ImageData, DensityData)


class Runner(Generic[Data]):
    """Trains the networks of a configuration with the objective that `loss` names, and tests them.

    A runner of the registry adds the order of its scores, what is shown of them while they are trained (`preview`), and
    what `--test` measures and draws (`evaluate`).

    Attributes:
        order: 1, 2 where s1 and s2 are trained together, or 3 where s3 is too: which objectives there are
            (`losses.OBJECTIVES`).
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
        if config.model.order == 3:
            self.order = 3
        if config.loss not in (known := losses.OBJECTIVES[self.order]):
            raise UserError(f"loss: {name} has no {config.loss}; one of {', '.join(known)}")
        if config.batch_size % world.size:
            raise UserError(f"batch_size: {config.batch_size} cannot be divided among {world.size} processes")
        size = math.prod(config.data.shape)
        if config.model.head == "low_rank" and config.rank > size:
            raise UserError(f"rank: {config.rank} columns for points of {size} values; at most {size} is allowed")
        self.objective = known[config.loss]
        if config.model.lower_orders_frozen:
            self.objective = self.objective.on_frozen_orders()
        elif self.order >= 2 and config.model.frozen:
            self.objective = self.objective.on_frozen_denoiser()

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

    def evaluate_density(self, model: ScoreModel) -> dict:
        """The metrics of `--test` of a range of noise levels that are of no single one."""
        return {}

    # --- the data ---

    @cached_property
    def train_data(self) -> Data:
        """The training data, loaded when they are first used.

        Raises:
            UserError: where they can't be had, or are fewer than a batch.
        """
        data = cast(Data, datasets.load(self.config, "train", self.world.device))
        if not len(data):
            raise UserError(f"data.dataset: {self.config.data.dataset} has no training image; {TOO_FEW}")
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
            UserError: where they can't be had, or there are none.
        """
        data = cast(Data, datasets.load(self.config, "test", self.world.device))
        if not len(data):
            raise UserError(f"data.dataset: {self.config.data.dataset} has no test image; {TOO_FEW}")
        return data

    def _measure_data(self) -> None:
        """Completes the configuration by the mean and standard deviation of the training data, where its network needs
        them and they are not there yet."""
        section = self.config.data
        if self.config.model.network != "unet" or section.std is not None:
            return
        if self.config.model.denoiser is not None and not self.config.model.external:
            trained = models.load(self.config.model.denoiser).config
            assert trained is not None  # what is loaded from a folder has one
            values = {"mean": trained.data.mean, "std": trained.data.std}
        else:
            measured = datasets.training_order(self.train_data, 0, 0)[:MEASURED]
            sample = next(datasets.batches(self.train_data, measured[None]))
            values = {"mean": float(sample.mean()), "std": float(sample.std())}
        self.config = self.config.model_copy(update={"data": section.model_copy(update=values)})

    def _choose_precision(self) -> None:
        """Completes the configuration by the faster precision, where it leaves that to the machine; the first process
        chooses for all."""
        if self.config.precision != "auto":
            return
        own = precision.faster(self.config, self.config.batch_size // self.world.size, self.world.device)
        bf16 = self.world.agree(self.world.first and own == "bf16")
        self.config = self.config.model_copy(update={"precision": "bf16" if bf16 else "fp32"})

    def load_data(self) -> None:
        """Loads what a training needs, so that mistakes are found before anything is written: the first process
        downloads, where that is needed, before the others look. The configuration is completed by what a network needs
        to know of the data, and by the faster precision where it says `auto`.

        Raises:
            UserError: see `train_data` and `test_data`; and where the network does not take such points.
        """
        self.config = completed(self.config, self.world.device)
        models.check_network(self.config, self.config.data.shape)
        self.world.at_first(lambda: (self.train_data, self.test_data))
        _ = self.train_data
        self._measure_data()
        self._choose_precision()

    def fingerprints(self) -> dict[str, str]:
        """What the data set can be known by again, by split."""
        return {"train": datasets.fingerprint(self.train_data), "test": datasets.fingerprint(self.test_data)}

    def compare_data(self, *splits: str) -> None:
        """Says in the log where the data set is not the one of the run's beginning."""
        recorded = run_folder.recorded_data(self.folder)
        for split in splits:
            was, now = recorded.get(split), datasets.fingerprint(getattr(self, f"{split}_data"))
            if was is not None and was != now:
                log.warning(
                    "the images to %s on are not those that the run began with (%s now, %s then)", split, now, was
                )

    # --- training ---

    def train(self, resume: bool = False) -> None:
        """Trains to the end, or until a signal; no other process trains in the run folder meanwhile.

        Raises:
            UserError: where another process does, and see `training.train`.
        """
        self.world.at_first(lambda: locks.claim(self.folder))
        try:
            training.train(self, resume)
        finally:
            locks.release(self.folder)

    def batch_losses(self, state: TrainingState, clean: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """What a step minimises.

        Args:
            state: of the training.
            clean: this process's share of the batch, `(B, D)`.
            noise: for it, `(B, D)`.

        Returns:
            scalars by name; `loss` is minimised.
        """
        objective, sigma = self.objective, state.draw_levels()
        p = objective.perturb(clean, sigma, noise)
        inputs = p.inputs.requires_grad_() if objective.probes else p.inputs
        s1, s2, s3 = state.scores(inputs, p.levels, objective.rows(p), objective.third_rows(p))
        needs: dict[str, Any] = {}
        if objective.orthogonal:
            needs["progress"] = state.progress
        if isinstance(sigma, Tensor):
            assert self.config.data.std is not None  # measured when the run was made
            needs["unit"] = sigma**4 / models.variance_scale(sigma, self.config.data.std)
        if objective.weighted and s2 is not None and not objective.third_alone:
            needs["weight"] = losses.trace_weight(s2, sigma, needs.get("unit"), self._pool)
        if objective.probes and s2 is not None:
            needs |= self._probes(state, p, inputs, s1, s2)
        if s3 is not None and s2 is not None:
            needs |= {"s3": s3, "third": self._third_needs(state, p, s1, s2, needs.get("unit"))}
        if self.config.model.frozen:
            s1 = s1.detach()
        return objective(p, s1, s2, self.first_order_weight, **needs)

    def _third_needs(
        self, state: TrainingState, p: Perturbation, s1: Tensor, s2: SymmetricMatrix, unit: Tensor | None
    ) -> dict[str, Tensor]:
        """What the third order takes besides the scores. Its probes have a generator of their own, so that the lower
        orders see the noise that they see without it."""
        objective, needs = self.objective, {}
        at_s3 = s2[: objective.third_rows(p)]
        if objective.weighted:
            needs["weight"] = losses.trace_weight(at_s3, p.sigma, unit, self._pool, power=1)
            needs["entries"] = losses.entry_weight(at_s3, p.sigma, unit)
        if objective.third_probes is not None:
            few = slice(objective.third_probed(p))
            level = p.sigma[few] if isinstance(p.sigma, Tensor) else p.sigma
            normal = state.draw_apart(torch.randn, p.clean.shape[1])[few]
            probe = losses.draw_probes(objective.third_probes, normal, level, p.noise[few], s1[few], s2[few])
            at_noisy, network = p.inputs[few].detach(), state.network
            tensor: linalg.SymmetricTensor
            if objective.third_of == "s1":
                tensor = linalg.SecondDerivative(lambda x: network.first_order(x, level), at_noisy)
            else:
                tensor = linalg.MatrixDerivative(lambda x: network.second_order(x, level), at_noisy)
            needs |= {"probe": probe, "product": tensor.contract(probe)}
            if objective.weighted:
                own = unit[few] if unit is not None else None
                needs["along"] = losses.probe_weight(s2[few], probe, level, own)
        return needs

    def _probes(
        self, state: TrainingState, p: Perturbation, inputs: Tensor, s1: Tensor, s2: SymmetricMatrix
    ) -> dict[str, Tensor]:
        """Probes of the objective, and the products of ∇s1, transposed, with them at the noisy points.

        They come backwards through the evaluation that is there already, whatever the probe: one pass, where a product
        forwards evaluates s1 again beside its derivative; and it can look at s1 and s2 before it chooses the probe. The
        Jacobian of a true score is symmetric.
        """
        normal, at_noisy = state.draw(torch.randn, p.clean.shape[1]), p.at("plus", s1)
        probe = losses.draw_probes(
            cast(str, self.objective.probes), normal, p.sigma, p.noise, at_noisy, p.at("plus", s2)
        )
        trained = not self.config.model.frozen
        (product,) = torch.autograd.grad(at_noisy, inputs, probe, retain_graph=trained)
        return {"probe": probe, "product": p.at("plus", product)}

    @property
    def _pool(self) -> Callable[[Tensor], Tensor] | None:
        """Of `losses.trace_weight`."""
        return self._batch_mean if self.config.model.covariance == "free" else None

    def _batch_mean(self, values: Tensor) -> Tensor:
        return self.world.mean(values.mean())

    # --- test ---

    def scores_of(self, network: Networks, sigma: float | None = None) -> Scores:
        """The scores of networks of this configuration, at σ; by default in the middle of its range."""
        low, high = self.config.sigmas
        middle = low if low == high else math.sqrt(low * high)
        model = models.score_model(network, self.config, self.test_data.shape)
        return model.at(middle if sigma is None else sigma)

    def test_levels(self) -> list[float]:
        """The noise levels of `--test`: that of the run, or five of its range, in equal ratios."""
        low, high = self.config.sigmas
        return [low] if low == high else [low * (high / low) ** (step / (LEVELS - 1)) for step in range(LEVELS)]

    def test(self) -> dict:
        """Evaluates the newest checkpoint (its EMA weights where there are any) into `metrics.json`.

        Returns:
            the metrics; of a range of noise levels a list of them, `levels`.

        Raises:
            UserError: where the checkpoint or the test data can't be read.
        """
        locks.share(self.folder)
        try:
            return self._test()
        finally:
            locks.release(self.folder)

    def _test(self) -> dict:
        network = cast(Networks, models.load(self.folder, self.world.device).network)
        self.compare_data("test")
        self.images.mkdir(parents=True, exist_ok=True)
        metrics: dict[str, Any] = {"noise": self.config.noise, "seed": self.config.seed, "images": len(self.test_data)}
        levels = self.test_levels()
        for sigma in levels:
            name = "test.png" if len(levels) == 1 else f"test_{sigma:.3g}.png"
            measured = self.evaluate(self.scores_of(network, sigma), self.images / name)
            log.info("σ = %.3g:\n%s", sigma, in_lines(measured))
            if len(levels) == 1:
                metrics |= measured
            else:
                metrics.setdefault("levels", []).append({"noise": sigma, **measured})
        model = models.score_model(network, self.config, self.test_data.shape)
        if len(levels) > 1 and (measured := self.evaluate_density(model)):
            metrics |= measured
            log.info("the density at σ = %.3g:\n%s", levels[0], in_lines(measured))
        path = write_metrics(self.folder, metrics)
        log.info("written: %s and %s", path, self.images)
        return metrics
