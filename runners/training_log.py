"""What is seen of a training: its losses, its pace and its pictures, on the console, in the log and in TensorBoard."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from configs import UserError, replacing
from runners.state import TrainingState

__all__ = ["TrainingLog"]

log = logging.getLogger(__name__)

RECENT = 5
LEGIBLE = 64


class TrainingLog:
    """Takes up the losses of every step, and shows them now and then; a context, which ends the bar and the curves.

    Args:
        state: of the training.
        folder: the run folder.
        images: the folder for pictures, in the run folder.
        total: the step at which the training ends.
    """

    def __init__(self, state: TrainingState, folder: Path, images: Path, total: int):
        self.state, self.folder, self.images, self.total = state, folder, images, total
        self._pending: list[dict[str, Tensor]] = []  # of the last steps, still on the device
        self._since_shown: dict[str, list[float]] = {}
        self._recent: list[float] = []
        self._writer: SummaryWriter | None = None
        self._told = False
        batch_size, first = state.config.batch_size, state.world.first
        disable = None if first else True  # None: where there is no terminal
        self._bar = tqdm(total=total, initial=state.step, unit="img", unit_scale=batch_size, disable=disable)
        self._shown_at, self._shown_step = time.monotonic(), state.step

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        with self._beside_the_training():
            if self._writer is not None:
                self._writer.close()

    @property
    def writer(self) -> SummaryWriter:
        """The run's TensorBoard, which begins with its first use."""
        if self._writer is None:
            self._writer = SummaryWriter(self.folder / "tensorboard", purge_step=self.state.step)
        return self._writer

    def add(self, losses: dict[str, Tensor]) -> None:
        """Takes up the losses of the step just taken, without waiting for the device."""
        self._pending.append({name: value.detach() for name, value in losses.items()})
        self._bar.update()

    def check(self) -> None:
        """Fetches the pending losses: rarely, because on a GPU each look waits for the device.

        Raises:
            UserError: where one is not finite, with the step, the losses before it and the last checkpoint.
        """
        if not self._pending:
            return
        names = list(self._pending[0])
        stacked = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in self._pending])
        values = self.state.world.mean(stacked).cpu()
        self._pending.clear()
        totals = values[:, names.index("loss")].tolist()
        finite = values.isfinite().all(1)
        if not finite.all():
            bad = int(finite.logical_not().nonzero()[0])
            before = ", ".join(f"{value:.5g}" for value in (self._recent + totals[:bad])[-RECENT:]) or "none"
            raise UserError(
                f"the loss is {totals[bad]} at step {self.state.step - len(values) + 1 + bad}; the losses before it: "
                f"{before}; {self.state.way_back()}"
            )
        self._recent = (self._recent + totals)[-RECENT:]
        for name, column in zip(names, values.T.tolist(), strict=True):
            self._since_shown.setdefault(name, []).extend(column)

    def show(self) -> None:
        """A line of the log and a point of the curves: means since the last line, and the pace.

        Raises:
            UserError: see `check`.
        """
        self.check()
        means = {name: sum(values) / len(values) for name, values in self._since_shown.items()}
        self._since_shown.clear()
        now, step, batch_size = time.monotonic(), self.state.step, self.state.config.batch_size
        pace = (step - self._shown_step) / max(now - self._shown_at, 1e-9)
        self._shown_at, self._shown_step = now, step
        if not self.state.world.first:
            return
        self._bar.set_postfix(loss=f"{means['loss']:.4g}")
        log.info(
            "step %d/%d, epoch %d: %s, %.0f images/s, %s left",
            step,
            self.total,
            self.state.epoch,
            ", ".join(f"{name} {value:.5g}" for name, value in means.items()),
            pace * batch_size,
            timedelta(seconds=round((self.total - step) / pace)),
            extra={"progress": not self._bar.disable},
        )
        with self._beside_the_training():
            for name, value in means.items():
                self.writer.add_scalar(f"train/{name}", value, step)
            self.writer.add_scalar("train/images_per_second", pace * batch_size, step)

    def show_preview(self, preview: dict[str, Tensor | float]) -> None:
        """Shows numbers as curves, and pictures `(n, C, H, W)` in [0, 1] in TensorBoard; `source` and `denoised` as
        files too."""
        with self._beside_the_training():
            for name, value in preview.items():
                if not isinstance(value, Tensor):
                    self.writer.add_scalar(f"test/{name}", value, self.state.step)
                    continue
                legible = F.interpolate(value, scale_factor=max(1, LEGIBLE // value.shape[-1]), mode="nearest")
                grid = make_grid(legible, nrow=6, pad_value=0.5)
                self.writer.add_image(name, grid, self.state.step)
                if name in ("source", "denoised"):
                    with replacing(self.images / f"{name}_{self.state.epoch}.png") as file:
                        save_image(grid, file)

    @contextmanager
    def _beside_the_training(self) -> Iterator[None]:
        """Curves and pictures that cannot be written, on a full disk say, are no reason to end a training: the first
        time, the log says so."""
        try:
            yield
        except (OSError, UnicodeError) as error:
            self._writer = None  # its thread has ended; the next use begins a new file
            if not self._told:
                reason = getattr(error, "strerror", None) or error
                log.warning("curves and pictures cannot be written (%s); the training goes on", reason)
            self._told = True
