"""Checkpoints on disk: written so that a crash at any moment leaves a whole one, read with a fallback."""

import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs import UserError

__all__ = ["PREVIOUS", "all_finite", "read", "read_latest", "write"]

PREVIOUS = "checkpoint_previous.pth"
WEIGHTS = ("model", "ema")
log = logging.getLogger(__name__)


def all_finite(state: Any) -> bool:
    """Whether every floating-point number in a tree of containers and tensors is finite."""
    flags = [tensor.isfinite().all() for tensor in _tensors(state) if tensor.is_floating_point()]
    by_device: dict[torch.device, list[Tensor]] = {}
    for flag in flags:
        by_device.setdefault(flag.device, []).append(flag)
    return all(bool(torch.stack(same_place).all()) for same_place in by_device.values())


def write(state: dict, path: Path, keep: Path | None = None) -> None:
    """Writes `state` to a temporary file beside `path`, flushes it to the disk and renames it to `path`;
    what `path` held before goes to `keep` where that is given.

    Raises:
        UserError: where the disk is full or the folder can't be written; what `path` held is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    kept = False
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
            kept = True
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            if kept and keep is not None and not path.exists():
                keep.replace(path)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or getattr(error.__context__, "strerror", None) or str(error)
        raise UserError(f"{path}: the checkpoint could not be written ({reason.splitlines()[0]})") from error


def read(path: Path, device: torch.device | str = "cpu") -> Any:
    """What a checkpoint file holds; only tensors and plain containers are accepted (`weights_only`).

    Raises:
        UserError: where this machine does not have the device, or the file is missing, unreadable, truncated or
            something else than a checkpoint.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device}: not on this machine; give another, such as cpu") from error
    try:
        _verify(path)
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch meets a broken file with half a dozen types of exception
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: the checkpoint cannot be read ({error.strerror})") from error
        raise UserError(f"{path}: truncated, corrupt or not a checkpoint") from error


def _verify(path: Path) -> None:
    """A `ValueError` where what the file holds differs from its checksums, which `torch.load` does not look at."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                raise ValueError(f"{name} is not what was written")


def read_latest(folder: Path, device: torch.device | str = "cpu") -> tuple[Any, Path]:
    """The newest good checkpoint of a folder `ckpt/`, and its path.

    A `checkpoint.pth` that is broken, or whose weights are not finite, is passed over, with a warning, for the one
    before it.

    Raises:
        UserError: where there is no good one.
    """
    latest, previous = folder / "checkpoint.pth", folder / PREVIOUS
    try:
        return _read_finite(latest, device), latest
    except UserError as error:
        if not previous.exists():
            raise
        state = _read_finite(previous, device)
        log.warning("%s; taking the one before it, %s", error, previous)
        return state, previous


def _read_finite(path: Path, device: torch.device | str) -> Any:
    state = read(path, device)
    weights = [state.get(key) for key in WEIGHTS] if isinstance(state, dict) else state
    if not all_finite(weights):
        raise UserError(f"{path}: its weights are not finite")
    return state


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)
