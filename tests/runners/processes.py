"""`main.py` in a process of its own, which can send itself a signal at a named moment.

A server that has imported the program forks the processes, so that they start at once.
"""

import ctypes
import multiprocessing
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import sklearn.datasets  # noqa: F401 - and the runners: imported once, by the server
import torch

import main
from runners import hybrid, training, unet_dsm  # noqa: F401
from tests.runners.full_disk import FullDisk

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])

MOMENTS = {
    "step": (training, "take_step"),
    "write": (torch, "save"),
    "flush": (os, "fsync"),
    "rename": (Path, "replace"),
}


@dataclass(frozen=True)
class Started:
    process: multiprocessing.Process
    folder: Path

    def end(self) -> tuple[int, str, str]:
        """Waits for the process: its exit code, or minus the signal that ended it, and its output and errors."""
        self.process.join()
        return self.process.exitcode, *((self.folder / name).read_text() for name in ("out.txt", "err.txt"))


def start(
    folder: Path,
    *arguments: object,
    stop: tuple[int, str, int] | None = None,
    unprivileged: bool = False,
    writes: int | None = None,
    **environment: str,
) -> Started:
    """Starts `main.py` with these arguments in a folder.

    Args:
        folder: where; `out.txt` and `err.txt` appear there.
        arguments: of the command line.
        stop: a signal, the name of a moment and a number n: the process sends itself the signal before the n-th call
            of the function that the moment names.
        unprivileged: permissions of files hold for it, also where it is root's.
        writes: the disk is full after so many, below `folder`; see `FullDisk`.
        environment: variables to set.
    """
    texts = [str(argument) for argument in arguments]
    process = CONTEXT.Process(target=_run, args=(folder, texts, stop, unprivileged, writes, environment))
    process.start()
    return Started(process, folder)


def start_two(folder: Path, *arguments: object, stop: tuple[int, str, int] | None = None) -> list[Started]:
    """Starts two processes that train together, with the variables that torchrun sets, at a sixth of its time.

    They run in `folder/0` and `folder/1`, and their run folders are in `folder/runs`. Only the first takes `stop`.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in ("0", "1"):
        (folder / rank).mkdir(exist_ok=True)
        variables = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost"}
        call = [*arguments, "--run", folder / "runs"]
        first = stop if rank == "0" else None
        started.append(start(folder / rank, *call, stop=first, **variables, MASTER_PORT=port, OMP_NUM_THREADS="1"))
    return started


def _run(
    folder: Path,
    arguments: list[str],
    stop: tuple[int, str, int] | None,
    unprivileged: bool,
    writes: int | None,
    environment: dict[str, str],
) -> None:
    os.chdir(folder)
    os.environ |= environment
    for descriptor, name in ((1, "out.txt"), (2, "err.txt")):
        with Path(name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["main.py", *arguments]
    if stop is not None:
        _stop_before_a_call(*stop)
    if unprivileged:
        _give_up_capabilities()
    if writes is not None:
        FullDisk(folder, writes).install()
    sys.exit(main.main(arguments))


def _give_up_capabilities() -> None:
    """Those by which root may read and write whatever it likes, on Linux: capset(2) with none."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "capset"):
        assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0


def _stop_before_a_call(number: int, moment: str, count: int) -> None:
    owner, name = MOMENTS[moment]
    function, calls = getattr(owner, name), 0

    def stop_first(*args, **options):
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), number)
        return function(*args, **options)

    setattr(owner, name, stop_first)
