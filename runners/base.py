"""The one training loop: data, steps, checkpoints, resume, curves and pictures, shared by every runner."""

import json
import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

import datasets
import models
from configs import Config, UserError
from inference import displayable
from models import DiagonalPlusLowRank, ScoreModel, checkpoint
from runners import random_state
from runners.world import World

__all__ = ["Runner"]

log = logging.getLogger(__name__)

GO_ON, SAVE, STOP = 0, 1, 2


class Runner:
    """Trains the networks of a configuration and keeps everything in a run folder.

    A runner of the registry adds three things: `losses` (what a step minimises), `preview` (the pictures
    shown while it trains) and `evaluate` (the figures and the picture of `--test`).

    Args:
        config: the whole configuration.
        folder: the run folder.
        world: device and processes.
        images: the folder for pictures, in the run folder.

    Raises:
        UserError: where the data can't be had or is not for this runner, the batch does not fit the data set or the
            processes, or the runner does not have the objective.
    """

    objectives: tuple[str, ...]
    synthetic = False

    def __init__(self, config: Config, folder: Path, world: World, images: Path):
        self.config, self.folder, self.world, self.images = config, folder, world, images
        self.device = world.device
        if (config.data.dataset == "Synthetic") != self.synthetic:
            wanted = "Synthetic" if self.synthetic else "images"
            raise UserError(f"data.dataset: {type(self).__name__} trains on {wanted}, not on {config.data.dataset}")
        if config.loss not in self.objectives:
            raise UserError(f"loss: {type(self).__name__} has no {config.loss}; one of {', '.join(self.objectives)}")
        if world.first:  # downloads, where that is needed, before the others look
            self.train_data = datasets.load(config, "train", self.device)
        world.wait()
        if not world.first:
            self.train_data = datasets.load(config, "train", self.device)
        self.test_data = datasets.load(config, "test", self.device)
        if config.batch_size > len(self.train_data):
            raise UserError(
                f"batch_size: {config.batch_size} is more than the {len(self.train_data)} training images of "
                f"{config.data.dataset}; at most {len(self.train_data)} is allowed"
            )
        if config.batch_size % world.size:
            raise UserError(f"batch_size: {config.batch_size} cannot be divided among {world.size} processes")

    # --- what a runner adds ---

    @staticmethod
    def folder_name(doc: str, config: Config) -> str:
        """The name of the run folder for `--doc`."""
        return doc

    def losses(self, clean: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The scalars of one step on a batch `(B, D)` and its noise `(B, D)`; `"loss"` is minimised."""
        raise NotImplementedError

    def preview(self, model: ScoreModel, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
        """Pictures `(n, C, H, W)` in [0, 1] by name, of n test images; `"denoised"` is saved as a file."""
        raise NotImplementedError

    def evaluate(self, model: ScoreModel, picture: Path) -> dict:
        """The figures of `--test` over the whole test set; draws the picture into the file `picture`."""
        raise NotImplementedError

    # --- training ---

    def train(self, resume: bool = False) -> None:
        """Trains to the end, or until a signal; `resume` goes on from the newest checkpoint.

        Raises:
            UserError: where the loss is not finite, or a checkpoint can't be read or written.
            SystemExit: with 128 + the signal's number, after saving, on Ctrl-C or SIGTERM.
        """
        config = self.config
        self.set_up()
        if resume:
            self._restore()
        steps_an_epoch = len(self.train_data) // config.batch_size
        total = min(config.max_epochs * steps_an_epoch, config.max_steps or math.inf)
        if self.step >= total:
            log.info("nothing left to do: the run has its %d steps", total)
            return
        log.info("training on %s: steps %d to %d, %d an epoch", self.device, self.step, total, steps_an_epoch)

        self.saved_at = time.monotonic()
        with (
            caught_signals() as caught,
            tqdm(
                total=total,
                initial=self.step,
                unit="img",
                unit_scale=config.batch_size,
                disable=None if self.world.first else True,
            ) as bar,
        ):
            self.bar = bar
            self.shown_at, self.shown_step = time.monotonic(), self.step
            while self.step < total:
                order = datasets.epoch_order(len(self.train_data), config.batch_size, config.seed, self.epoch)
                left = order[self.position : self.position + total - self.step, self.mine]
                for clean in datasets.batches(self.train_data, left):
                    self.take_step(clean)
                    self.step += 1
                    self.position += 1
                    bar.update()
                    if self.step % config.print_every == 0 or self.step == total:
                        self._show_progress(total)
                    request = self.world.agree(self._request(caught))
                    if request:
                        self._save()
                    if request == STOP:
                        stop = signal.Signals(self.world.agree(max(caught, default=0)))
                        log.info("%s: stopped at step %d; --resume_training goes on from here", stop.name, self.step)
                        raise SystemExit(128 + stop)
                if self.position == steps_an_epoch:
                    self.epoch, self.position = self.epoch + 1, 0
                ended = self.step == total
                numbered = ended or self.epoch % config.save_interval == 0
                if numbered or self.epoch % config.checkpoint_epochs == 0:
                    self._save(numbered)
                if numbered and self.world.first:
                    self.show_preview(self._averaged())
        if self.writer is not None:
            self.writer.close()
        log.info("trained: %d steps; %s", self.step, self.folder / "ckpt" / "checkpoint.pth")

    def set_up(self) -> None:
        """Fresh networks, optimizer, average, generator and counters."""
        config = self.config
        torch.manual_seed(config.seed)
        self.model = models.build_model(config).to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.network = torch.compile(self.model) if config.compile else self.model
        if self.world.size > 1:
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False)
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, fused=fused)
        self.ema = None
        if config.model.ema:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.model.ema_rate))
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        share = config.batch_size // self.world.size
        self.mine = slice(self.world.rank * share, (self.world.rank + 1) * share)
        self.step = self.epoch = self.position = 0
        self.unread: list[dict[str, Tensor]] = []  # losses of the last steps, still on the device
        self.read: dict[str, list[float]] = {}  # those since the last line of the log
        self.recent: list[float] = []
        self.writer = None

    def take_step(self, clean: Tensor) -> None:
        """One step on this process's share of the batch."""
        config = self.config
        noise = self.draw(torch.randn, clean.shape[1])
        if config.data.random_flip:
            flipped = self.draw(torch.rand, 1) < 0.5
            mirrored = clean.unflatten(1, self.train_data.shape).flip(3).flatten(1)
            clean = torch.where(flipped, mirrored, clean)
        losses = self.losses(clean, noise)
        losses["loss"].backward()
        if config.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.unread.append({name: value.detach() for name, value in losses.items()})

    def draw(self, law: Callable[..., Tensor], columns: int) -> Tensor:
        """Random numbers, `columns` for each point of this process's share of the batch. Each process draws them for
        the whole batch alike, so that N processes take the very step of one."""
        return law(self.config.batch_size, columns, generator=self.generator, device=self.device)[self.mine]

    def scores(self, inputs: Tensor, rows: int | None = None) -> tuple[Tensor, DiagonalPlusLowRank | None]:
        """Both scores at `inputs`, s2 at the first `rows` of them, in one call of the network and in the
        configured precision; the values are float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.network(inputs, rows)

    def _request(self, caught: list[int]) -> int:
        if caught:
            return STOP
        due = time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_minutes
        return SAVE if self.world.first and due else GO_ON

    # --- what is seen of it ---

    def _read_losses(self) -> None:
        """Fetches the losses of the last steps: rarely, because on a GPU each look waits for the device.

        Raises:
            UserError: where one is not finite, with the step, the losses before it and the last checkpoint.
        """
        if not self.unread:
            return
        names = list(self.unread[0])
        values = torch.stack([torch.stack([step[name].float() for name in names]) for step in self.unread])
        values = self.world.mean(values).cpu()
        first = self.step - len(values) + 1
        self.unread.clear()
        finite = values.isfinite().all(1)
        totals = values[:, names.index("loss")].tolist()
        if not finite.all():
            bad = int(finite.logical_not().nonzero()[0])
            before = ", ".join(f"{value:.5g}" for value in (self.recent + totals[:bad])[-5:]) or "none"
            latest = self.folder / "ckpt" / "checkpoint.pth"
            kept = f"the last good checkpoint is {latest}" if latest.exists() else "no checkpoint was written before"
            raise UserError(
                f"the loss is {totals[bad]} at step {first + bad}; the losses before it: {before}; {kept}; "
                "try a smaller lr, or clip_grad"
            )
        self.recent = (self.recent + totals)[-5:]
        for name, column in zip(names, values.T.tolist(), strict=True):
            self.read.setdefault(name, []).extend(column)

    def _show_progress(self, total: int) -> None:
        self._read_losses()
        losses = {name: sum(values) / len(values) for name, values in self.read.items()}
        self.read.clear()
        now = time.monotonic()
        pace = (self.step - self.shown_step) / max(now - self.shown_at, 1e-9)
        self.shown_at, self.shown_step = now, self.step
        if not self.world.first:
            return
        self.bar.set_postfix(loss=f"{losses['loss']:.4g}")
        log.info(
            "step %d/%d, epoch %d: %s, %.0f images/s, %s left",
            self.step,
            total,
            self.epoch,
            ", ".join(f"{name} {value:.5g}" for name, value in losses.items()),
            pace * self.config.batch_size,
            timedelta(seconds=round((total - self.step) / pace)),
            extra={"progress": not self.bar.disable},
        )
        for name, value in losses.items():
            self.board().add_scalar(f"train/{name}", value, self.step)
        self.board().add_scalar("train/images_per_second", pace * self.config.batch_size, self.step)

    def board(self) -> SummaryWriter:
        """The run's TensorBoard, which begins with its first use."""
        if self.writer is None:
            self.writer = SummaryWriter(self.folder / "tensorboard", purge_step=self.step)
        return self.writer

    def _averaged(self) -> ScoreModel:
        return self.model if self.ema is None else self.ema.module

    @torch.no_grad()
    def show_preview(self, model: ScoreModel) -> None:
        """Up to 36 test images with fixed noise: files in the image folder, and pictures in TensorBoard."""
        size = min(36, len(self.test_data))
        clean = next(datasets.batches(self.test_data, torch.arange(size)[None]))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.config.seed))
        noisy = clean + self.config.noise * noise.to(self.device)
        pictures = {"source": self.pictures(noisy)} | self.preview(model, clean, noisy)
        for name, images in pictures.items():
            legible = F.interpolate(images, scale_factor=max(1, 64 // images.shape[-1]), mode="nearest")
            grid = make_grid(legible, nrow=6, pad_value=0.5)
            self.board().add_image(name, grid, self.step)
            if name in ("source", "denoised"):
                save_image(grid, self.images / f"{name}_{self.epoch}.png")

    def pictures(self, values: Tensor) -> Tensor:
        """Flat values `(n, D)` in the model's range as pictures `(n, C, H, W)` in [0, 1], on the CPU."""
        return displayable(values, self.train_data.shape)

    # --- checkpoints ---

    def _save(self, numbered: bool = False) -> None:
        """`checkpoint.pth`, after the one before it was renamed; a copy with the epoch's number if asked."""
        self._read_losses()  # never save what came of a loss that is not finite
        self.saved_at = time.monotonic()
        if not self.world.first:
            return
        state = {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "ema_updates": None if self.ema is None else self.ema.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "generator": (self.device.type, self.generator.get_state()),
            "random": random_state.get(),
        }
        folder = self.folder / "ckpt"
        checkpoint.write(state, folder / "checkpoint.pth", keep=folder / checkpoint.PREVIOUS)
        if numbered:
            checkpoint.write(state, folder / f"checkpoint_{self.epoch}.pth")

    def _restore(self) -> None:
        state, path = checkpoint.read_latest(self.folder / "ckpt", self.device)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
                self.ema.n_averaged.copy_(state["ema_updates"])
            self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
            device, generator = state["generator"]
            random_state.restore(state["random"])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: does not fit this configuration; it cannot be gone on with") from error
        if device == self.device.type:
            self.generator.set_state(generator.cpu())
        else:
            self.generator.manual_seed(self.config.seed + self.step)
            log.warning("the checkpoint is from %s: on %s other noise is drawn from here on", device, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr
        log.info("going on from %s: step %d, epoch %d", path, self.step, self.epoch)

    # --- test ---

    def test(self) -> dict:
        """Evaluates the newest checkpoint (its EMA weights where there are any) into `metrics.json`."""
        model, _ = models.load_model(self.folder, self.device)
        picture = self.images / "test.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        metrics = {"noise": self.config.noise, "seed": self.config.seed, "images": len(self.test_data)}
        metrics |= self.evaluate(model, picture)
        path = self.folder / "metrics.json"
        path.write_text(json.dumps(metrics, indent=2) + "\n")
        for name, value in metrics.items():
            log.info("%s: %s", name, f"{value:.5g}" if isinstance(value, float) else value)
        log.info("written: %s and %s", path, picture)
        return metrics


@contextmanager
def caught_signals():
    """A list that takes up SIGINT and SIGTERM instead of the process; a second Ctrl-C interrupts at once."""
    caught = []

    def note(number, frame):
        caught.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
