"""Checkpoints on disk: written so that a crash at any moment leaves a whole one, read with a fallback."""

import logging
import os
from pathlib import Path
from typing import Any

import torch

from configs import UserError

__all__ = ["PREVIOUS", "read", "read_latest", "write"]

PREVIOUS = "checkpoint_previous.pth"
log = logging.getLogger(__name__)


def write(state: dict, path: Path, keep: Path | None = None) -> None:
    """Writes `state` to a temporary file beside `path`, flushes it to the disk and renames it to `path`;
    what `path` held before goes to `keep` where that is given.

    Raises:
        UserError: where the disk is full or the folder can't be written; what `path` held is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or getattr(error.__context__, "strerror", None) or str(error)
        raise UserError(f"{path}: the checkpoint could not be written ({reason.splitlines()[0]})") from error


def read(path: Path, device: torch.device | str = "cpu") -> Any:
    """What a checkpoint file holds; only tensors and plain containers are accepted (`weights_only`).

    Raises:
        UserError: where the file is missing, truncated or something else than a checkpoint.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch meets a broken file with half a dozen types of exception
        raise UserError(f"{path}: truncated, corrupt or not a checkpoint") from error


def read_latest(folder: Path, device: torch.device | str = "cpu") -> tuple[Any, Path]:
    """The newest readable checkpoint of a folder `ckpt/`, and its path.

    A broken `checkpoint.pth` is passed over, with a warning, for the one before it.

    Raises:
        UserError: where there is no readable one.
    """
    latest, previous = folder / "checkpoint.pth", folder / PREVIOUS
    try:
        return read(latest, device), latest
    except UserError as error:
        if not previous.exists():
            raise
        state = read(previous, device)
        log.warning("%s; taking the one before it, %s", error, previous)
        return state, previous
