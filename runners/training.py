"""The one training loop: steps, checkpoints, signals and previews, shared by every runner."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

import datasets
from configs import UserError
from datasets import DensityData, ImageData
from models import checkpoint
from runners import run_folder
from runners.interrupts import Interrupted, Interrupts
from runners.state import TrainingState
from runners.training_log import TrainingLog

if TYPE_CHECKING:
    from runners.runner import Runner

__all__ = ["take_step", "train"]

log = logging.getLogger(__name__)

CONTINUE, SAVE, STOP = 0, 1, 2


def train(runner: "Runner", resume: bool = False) -> None:
    """Trains a runner's networks to the end, or until a signal.

    Args:
        runner: what is trained, on which data and with which losses.
        resume: begin with the newest checkpoint of its run folder, where it has one.

    Raises:
        UserError: where the data can't be had, the loss is not finite, or a checkpoint can't be read or written.
        SystemExit: with 128 + the signal's number, after saving, on Ctrl-C or SIGTERM.
    """
    runner.load_data()
    config, world, checkpoints, data = runner.config, runner.world, runner.folder / "ckpt", runner.train_data
    state = TrainingState(config, data.shape, world, datasets.fingerprint(data))
    if resume and any(path.suffix == ".pth" for path in checkpoints.iterdir()):
        state.restore(checkpoints)
    else:
        state.begin()
    if resume:
        world.at_first(lambda: run_folder.record(runner.folder, config))
        if world.first:
            runner.compare_data("train", "test")
    total = _last_step(state, len(data))
    if _finished(state, total, checkpoints, len(data)):
        log.info("nothing left to do: the run has its %d steps", state.step)
        return
    log.info(
        "training on %s in %s: steps %d to %d, %d an epoch",
        world.device,
        config.precision,
        state.step,
        total,
        len(data) // config.batch_size,
    )

    with Interrupts() as interrupts, TrainingLog(state, runner.folder, runner.images, total) as training_log:
        try:
            while True:
                # --- the batches of an epoch, or those that are left of it ---
                batches = datasets.batches(data, _rows(state, data, total))
                while (clean := _wait_for(batches, state, interrupts)) is not None:
                    training_log.add(take_step(runner, state, clean))
                    if state.step % config.print_every == 0 or state.step == total:
                        training_log.show()
                    _obey(state, training_log, checkpoints, interrupts)

                # --- the end of an epoch, or of the training ---
                if len(data) - state.seen < config.batch_size:
                    state.epoch, state.seen = state.epoch + 1, 0
                numbered = state.step >= total or state.epoch % config.save_interval == 0
                if numbered or state.epoch % config.checkpoint_epochs == 0:
                    training_log.check()
                    state.save(checkpoints, numbered)
                if numbered and world.first:
                    with _heard(interrupts, state):
                        training_log.show_preview(runner.preview(runner.scores_of(state.averaged)))
                if state.step >= total:
                    break
                _obey(state, training_log, checkpoints, interrupts)
        except Interrupted:
            _stop(state, training_log, checkpoints, interrupts)
    log.info("trained: %d steps; %s", state.step, checkpoints / "checkpoint.pth")


def take_step(runner: "Runner", state: TrainingState, clean: Tensor) -> dict[str, Tensor]:
    """One step on this process's share of the batch.

    Args:
        runner: whose losses are minimised.
        state: of the training; it moves on by one step.
        clean: the clean points, `(B, D)`.

    Returns:
        the losses that were minimised, by name.
    """
    noise = state.draw(torch.randn, clean.shape[1])
    if state.config.data.random_flip:
        flipped = state.draw(torch.rand, 1) < 0.5
        clean = torch.where(flipped, clean.unflatten(1, state.shape).flip(3).flatten(1), clean)
    losses = runner.batch_losses(state, clean, noise)
    losses["loss"].backward()
    state.update()
    return losses


# --- how far, and which images ---


def _last_step(state: TrainingState, size: int) -> int:
    """The step at which the training ends, with `size` training images."""
    config = state.config
    left = (size - state.seen) // config.batch_size
    later = (config.max_epochs - state.epoch - 1) * (size // config.batch_size)
    return min(state.step + left + later, config.max_steps or sys.maxsize)


def _finished(state: TrainingState, last: int, checkpoints: Path, size: int) -> bool:
    """Whether the last step was taken, and the numbered checkpoint that follows it was written."""
    if state.step != last:
        return state.step > last
    epoch = state.epoch + (size - state.seen < state.config.batch_size)
    try:
        return checkpoint.read(checkpoints / f"checkpoint_{epoch}.pth")["step"] == state.step
    except (UserError, KeyError, TypeError):
        return False


def _rows(state: TrainingState, data: ImageData | DensityData, last: int) -> Tensor:
    """This process's share of the batches that are left of the epoch, as rows of indices; none after the last step.

    The order of all images is that of the epoch, and the position in it a number of images, so that a run goes through
    each image once whatever the sizes of its batches were.
    """
    batch_size = state.config.batch_size
    order = datasets.training_order(data, state.config.seed, state.epoch)[state.seen :]
    steps = max(0, min(len(order) // batch_size, last - state.step))
    return order[: steps * batch_size].view(steps, batch_size)[:, state.share]


def _wait_for(batches: Iterator[Tensor], state: TrainingState, interrupts: Interrupts) -> Tensor | None:
    """The next batch, or None after the last; a reader of data takes no random numbers from the training."""
    with _heard(interrupts, state), torch.random.fork_rng(devices=[]):
        return next(batches, None)


# --- checkpoints and signals ---


def _heard(interrupts: Interrupts, state: TrainingState) -> AbstractContextManager[None]:
    """Signals are heard at once, but where several processes have to agree on the step to stop at."""
    return interrupts.heard_at_once() if state.world.size == 1 else nullcontext()


def _obey(state: TrainingState, training_log: TrainingLog, checkpoints: Path, interrupts: Interrupts) -> None:
    """Saves where it is time, or stops after a signal; all processes alike."""
    due = state.world.first and state.unsaved_minutes >= state.config.checkpoint_minutes
    request = state.world.agree(STOP if interrupts.caught else SAVE if due else CONTINUE)
    if request == STOP:
        _stop(state, training_log, checkpoints, interrupts)
    if request == SAVE:
        training_log.check()  # never save what came of a loss that is not finite
        state.save(checkpoints)


def _stop(state: TrainingState, training_log: TrainingLog, checkpoints: Path, interrupts: Interrupts) -> NoReturn:
    training_log.check()
    state.save(checkpoints)
    number = signal.Signals(state.world.agree(max(interrupts.caught, default=0)))
    log.info("%s: stopped at step %d; --resume_training continues from it", number.name, state.step)
    raise SystemExit(128 + number)
