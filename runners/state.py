"""Everything that changes while a run trains, and that a resumed run needs to take the very same steps."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import configs
import datasets
import models
from configs import Config, ModelConfig, UserError
from linalg import SymmetricCP, SymmetricMatrix
from models import Networks, ThirdOrderNetworks, checkpoint
from runners import random_state
from runners.distributed import World

__all__ = ["TrainingState"]

log = logging.getLogger(__name__)


class TrainingState:
    """The networks of a run, their optimizer and average, the counters and the generators; fresh, until `restore`.

    Attributes:
        network: the networks, as `models.build` makes them.
        optimizer: Adam over all their weights.
        average: their exponential moving average, or None.
        generator: of noise, flips and probes; every process draws the same from it.
        step: steps taken.
        epoch: epochs completed.
        seen: images of the epoch that is not complete that were trained on, by all processes together.
        order: what the order of the images in an epoch follows from: the seed, and what the training data are known by.
        last_good: the checkpoint that was written or read last, if any.
        share: the rows of a batch that are this process's.

    Args:
        config: the whole configuration.
        shape: of a data point, `(C, H, W)` or `(D,)`.
        world: device and processes.
        data: what the training data are known by.
    """

    def __init__(self, config: Config, shape: tuple[int, ...], world: World, data: str = ""):
        self.config, self.shape, self.world, self.device = config, shape, world, world.device
        torch.manual_seed(config.seed)
        torch.set_rng_state(datasets.generator_of(config.seed).get_state())  # of which the line before drops bits
        self.network = models.build(config, shape).to(self.device)
        self._clipped: list[nn.Module] = [self.network]
        if isinstance(self.network, ThirdOrderNetworks):  # whose third order leaves the lower ones alone
            self._clipped = [self.network.lower, self.network.third]
        if config.channels_last:
            self.network.to(memory_format=torch.channels_last)
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer: torch.optim.Optimizer
        if config.weight_decay:
            self.optimizer = torch.optim.AdamW(
                trained, config.lr, config.betas, weight_decay=config.weight_decay, fused=fused
            )
        else:
            self.optimizer = torch.optim.Adam(trained, config.lr, config.betas, fused=fused)
        self.average: AveragedModel | None = None
        if config.model.ema:
            self.average = AveragedModel(self.network, multi_avg_fn=_averaging(config.model))
        if config.compile:
            self.network.compile()
        self._forward: nn.Module = self.network
        if world.size > 1:
            self._forward = DistributedDataParallel(self.network, broadcast_buffers=False)
        self.generator = datasets.generator_of(config.seed, self.device)
        self.step = self.epoch = self.seen = 0
        self.order = (config.seed, data)
        self.last_good: Path | None = None
        rows = config.batch_size // world.size
        self.share = slice(world.rank * rows, (world.rank + 1) * rows)
        self._saved_at = time.monotonic()

    # --- what a step needs ---

    def draw(self, distribution: Callable[..., Tensor], columns: int) -> Tensor:
        """Random numbers, `columns` for each point of this process's share of the batch.

        Args:
            distribution: `torch.randn`, `torch.rand` or one like them.
            columns: how many for each point.

        Returns:
            `(B, columns)`. Each process draws them for the whole batch alike, so that N processes take the very step
            of one.
        """
        return distribution(self.config.batch_size, columns, generator=self.generator, device=self.device)[self.share]

    def draw_apart(self, distribution: Callable[..., Tensor], columns: int) -> Tensor:
        """Like `draw`, of numbers that follow from the seed and the step alone: the other generator does not move."""
        generator = datasets.generator_of(datasets.derived_seed(self.config.seed, self.step), self.device)
        return distribution(self.config.batch_size, columns, generator=generator, device=self.device)[self.share]

    def draw_levels(self) -> float | Tensor:
        """The noise level of the run, or of each point of this process's share of the batch, `(B, 1)`, drawn
        log-uniformly from its range."""
        low, high = self.config.sigmas
        if low == high:
            return low
        return low * (high / low) ** self.draw(torch.rand, 1)

    def scores(
        self, inputs: Tensor, sigma: float | Tensor, rows: int | None = None, third_rows: int | None = None
    ) -> tuple[Tensor, SymmetricMatrix | None, SymmetricCP | None]:
        """The scores at `inputs` and their σ, s2 at the first `rows` of them and s3 at the first `third_rows`, in one
        call of the network and in the configured precision; the values are float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            if self.config.model.order == 3:
                return self._forward(inputs, sigma, rows, third_rows)
            return *self._forward(inputs, sigma, rows), None

    def update(self) -> None:
        """Moves the weights along the gradients that they have, and the average after them."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        if self.config.clip_grad is not None:
            for part in self._clipped:
                torch.nn.utils.clip_grad_norm_(part.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step += 1
        self.seen += self.config.batch_size

    @property
    def learning_rate(self) -> float:
        """Of the next step: it rises over `warmup_steps`, then stays or falls to 1 % along a half cosine."""
        config = self.config
        rising = min(1.0, (self.step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if config.lr_schedule == "constant":
            return config.lr * rising
        assert config.max_steps is not None  # the schema asks for it
        done = min(1.0, max(0, self.step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
        return config.lr * rising * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)

    @property
    def progress(self) -> float:
        """The share of `max_steps` that is done; 1 where no end is given."""
        return 1.0 if self.config.max_steps is None else min(1.0, self.step / self.config.max_steps)

    @property
    def averaged(self) -> Networks:
        """The networks with their averaged weights, where there are any."""
        return self.network if self.average is None else cast(Networks, self.average.module)

    # --- checkpoints ---

    def state_dict(self) -> dict:
        """What a checkpoint holds: tensors and plain containers."""
        return {
            "model": self.network.state_dict(),
            "ema": None if self.average is None else self.average.module.state_dict(),
            "ema_updates": None if self.average is None else self.average.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "seen": self.seen,
            "order": self.order,
            "generator": (self.device.type, self.generator.get_state()),
            "random": random_state.get(),
        }

    def load_state_dict(self, saved: dict) -> None:
        """Takes up what `state_dict` gave, but for the optimizer's settings, which are the configuration's.

        Where the images of an epoch come in another order now, the epoch that is not complete begins anew, with a
        warning. On another kind of device than that of the checkpoint the generator cannot continue: it begins anew,
        with a warning.
        """
        self.network.load_state_dict(saved["model"])
        settings = [{key: group[key] for key in group if key != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        if self.average is not None:
            self.average.module.load_state_dict(saved["ema"])
            self.average.n_averaged.copy_(saved["ema_updates"])
        self.step, self.epoch, self.seen = saved["step"], saved["epoch"], saved["seen"]
        if self.seen and tuple(saved.get("order", self.order)) != self.order:
            log.warning("the seed or the training data are others than before: epoch %d begins anew", self.epoch)
            self.seen = 0
        random_state.restore(saved["random"])
        device, generator = saved["generator"]
        if device == self.device.type:
            self.generator.set_state(generator.cpu())
        else:
            self.generator = datasets.generator_of(datasets.derived_seed(self.config.seed, self.step), self.device)
            log.warning("the checkpoint is from %s: on %s other noise is drawn from here on", device, self.device)

    def begin(self) -> None:
        """Takes the denoiser that the configuration names, if any, and begins the second order as it says.

        Raises:
            UserError: where it can't be read or is not of the same network.
        """
        if self.config.model.denoiser is not None and not self.config.model.external:
            models.take_denoiser(self.network, models.load(self.config.model.denoiser, self.device))
            if self.average is not None:
                self.average.module.load_state_dict(self.network.state_dict())

    def save(self, folder: Path, numbered: bool = False) -> None:
        """Writes `checkpoint.pth`, after the one before it was renamed; the first process alone does.

        Args:
            folder: `ckpt/` of the run folder.
            numbered: write `checkpoint_EPOCH.pth` too.

        Raises:
            UserError: where weights or Adam's averages are not finite, or it cannot be written; the one before stays.
        """
        state, path = self.state_dict(), folder / "checkpoint.pth"
        if not checkpoint.all_finite([state["model"], state["ema"], state["optimizer"]]):
            raise UserError(f"the weights are not finite after step {self.step}; {self.way_back()}")

        def write() -> None:
            good = self.last_good == path  # a broken one does not take the place of the good one before it
            checkpoint.write(state, path, keep=folder / checkpoint.PREVIOUS if good else None)
            if numbered:
                checkpoint.write(state, folder / f"checkpoint_{self.epoch}.pth")

        self.world.at_first(write)
        self.last_good, self._saved_at = path, time.monotonic()

    def way_back(self) -> str:
        """What to do about a training that has failed."""
        kept = f"the last good checkpoint is {self.last_good}" if self.last_good else "no checkpoint was written before"
        return f"{kept}; try a smaller lr, or clip_grad"

    @property
    def unsaved_minutes(self) -> float:
        """Minutes since the last checkpoint, or since the start."""
        return (time.monotonic() - self._saved_at) / 60

    def restore(self, folder: Path) -> None:
        """Takes up the newest good checkpoint of a folder `ckpt/`.

        Raises:
            UserError: where there is none, or it does not fit the configuration.
        """
        saved, path = checkpoint.read_latest(folder, self.device)
        if isinstance(saved, list):
            raise UserError(f"{path}: of the published program, which cannot be resumed; --test takes it")
        try:
            counts_steps = "seen" not in saved
            if counts_steps:  # written by 0.1.0
                saved["seen"] = saved["position"] * configs.load(folder.parent / "config.yml").batch_size
            if (saved["ema"] is None) != (self.average is None):
                there, here = ("has none", "true") if saved["ema"] is None else ("has them", "false")
                raise ValueError(f"of averaged weights it {there}, and model.ema is {here}")
            self.load_state_dict(saved)
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            reason = f"{error} is missing" if isinstance(error, KeyError) else lines[min(1, len(lines) - 1)]
            raise UserError(f"{path}: does not fit this configuration ({reason}); cannot resume from it") from error
        if counts_steps:  # while config.yml still has the size of the batches that were counted
            self.world.at_first(lambda: checkpoint.write(saved, path))
        self.last_good, self._saved_at = path, time.monotonic()
        log.info("resuming from %s: step %d, epoch %d", path, self.step, self.epoch)


def _averaging(model: ModelConfig) -> Callable[[Any, Any, Any], None]:
    """How the average follows the weights: with a decay of `ema_rate`, or less in the first updates."""
    if not model.ema_ramp:
        return get_ema_multi_avg_fn(model.ema_rate)

    def average(averages: Any, weights: Any, updates: Any) -> None:
        decay = min(model.ema_rate, (1 + int(updates)) / (10 + int(updates)))
        get_ema_multi_avg_fn(decay)(averages, weights, updates)

    return average
