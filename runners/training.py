"""The one training loop: steps, checkpoints, signals and previews, shared by every runner."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import datasets
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
        resume: begin with the newest checkpoint of its run folder.

    Raises:
        UserError: where the data can't be had, the loss is not finite, or a checkpoint can't be read or written.
        SystemExit: with 128 + the signal's number, after saving, on Ctrl-C or SIGTERM.
    """
    config, world, checkpoints = runner.config, runner.world, runner.folder / "ckpt"
    runner.load_data()
    state = TrainingState(config, runner.train_data.shape, world)
    if resume:
        state.restore(checkpoints)
    else:
        state.begin()
    steps_an_epoch = len(runner.train_data) // config.batch_size
    total = min(config.max_epochs * steps_an_epoch, config.max_steps or sys.maxsize)
    if state.step >= total:
        log.info("nothing left to do: the run has its %d steps", total)
        return
    log.info("training on %s: steps %d to %d, %d an epoch", world.device, state.step, total, steps_an_epoch)

    with caught_signals() as caught, TrainingLog(state, runner.folder, runner.images, total) as training_log:
        while state.step < total:
            # --- the batches of an epoch, or those that are left of it ---
            order = datasets.epoch_order(len(runner.train_data), config.batch_size, config.seed, state.epoch)
            left = order[state.position : state.position + total - state.step, state.share]
            for clean in datasets.batches(runner.train_data, left):
                training_log.add(take_step(runner, state, clean))
                if state.step % config.print_every == 0 or state.step == total:
                    training_log.show()
                request = world.agree(_request(state, caught))
                if request != CONTINUE:
                    training_log.check()  # never save what came of a loss that is not finite
                    state.save(checkpoints)
                if request == STOP:
                    number = signal.Signals(world.agree(max(caught, default=0)))
                    log.info("%s: stopped at step %d; --resume_training continues from it", number.name, state.step)
                    raise SystemExit(128 + number)

            # --- the end of an epoch, or of the training ---
            if state.position == steps_an_epoch:
                state.epoch, state.position = state.epoch + 1, 0
            numbered = state.step == total or state.epoch % config.save_interval == 0
            if numbered or state.epoch % config.checkpoint_epochs == 0:
                training_log.check()
                state.save(checkpoints, numbered)
            if numbered and world.first:
                training_log.show_preview(runner.preview(runner.scores_of(state.averaged)))
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


def _request(state: TrainingState, caught: list[int]) -> int:
    """What this process asks of all of them."""
    if caught:
        return STOP
    due = state.unsaved_minutes >= state.config.checkpoint_minutes
    return SAVE if state.world.first and due else CONTINUE


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """A list that takes up SIGINT and SIGTERM instead of the process; a second Ctrl-C interrupts at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
