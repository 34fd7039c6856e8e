"""Devices and processes: one process alone, or N of them under `torchrun`."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from configs import UserError

__all__ = ["World", "best_device", "join", "joined", "leave", "tell", "told"]

PATIENCE = timedelta(seconds=5)
SAID = "said"


@dataclass(frozen=True)
class World:
    """This process's place among those that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def agree(self, value: int) -> int:
        """The largest `value` of all processes, the same for each of them."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of `values` over the processes."""
        if self.size == 1:
            return values
        dist.all_reduce(values, dist.ReduceOp.SUM)
        return values / self.size

    def at_first(self, action: Callable[[], Any]) -> None:
        """The first process does it while the others wait.

        Raises:
            SystemExit: with the code 2 in the others, where it fails in the first.
        """
        if self.size == 1:
            action()
            return
        failure: Exception | None = None
        if self.first:
            try:
                action()
            except Exception as error:
                failure = error
        if self.agree(failure is not None):
            if failure is None:
                _hear()
            raise failure or SystemExit(2)


def best_device() -> str:
    """`cuda`, `mps` or `cpu`: the first of them that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def join(device: str | None, together: bool = True) -> World:
    """The world of this process, from `--device` and the variables that `torchrun` sets.

    Args:
        device: `cuda`, `cuda:N`, `mps` or `cpu`; by default the best there is.
        together: whether this process works with the others, where there are any.

    Raises:
        UserError: where the machine has no such device.
    """
    chosen = _checked_device(best_device() if device is None else device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or not together:
        return World(chosen)
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    if chosen.type == "cuda":  # after the others can be told that there is none
        chosen = _checked_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    return World(chosen, int(os.environ["RANK"]), size)


def joined() -> bool:
    """Whether this process works together with others."""
    return dist.is_initialized()


def leave() -> None:
    """Ends what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def tell(line: str) -> None:
    """Lets the other processes know what the first one has said of a mistake, and gives them time to hear it."""
    if not dist.is_initialized():
        return
    store = _store()
    with suppress(dist.DistError):
        store.set(SAID, line)
        store.wait([f"{SAID}/{rank}" for rank in range(1, dist.get_world_size())], PATIENCE)


def told(line: str) -> bool:
    """Whether the first process says the same of a mistake as this one: one that it tells within seconds."""
    store = _store()
    try:
        _hear()
        store.wait([SAID], PATIENCE)
        return store.get(SAID).decode() == line
    except dist.DistNetworkError:  # the first one has ended, and took the store with it
        return True
    except dist.DistError:
        return False


def _hear() -> None:
    """Lets the first process know that this one listens, or needs not to."""
    _store().set(f"{SAID}/{dist.get_rank()}", "")


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not on this machine, which has {_devices()}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name}: cuda, cuda:N, mps or cpu is expected; this machine has {_devices()}")
    return device


def _devices() -> str:
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join([*names, "cpu"])
