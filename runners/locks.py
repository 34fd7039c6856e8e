"""Who is at work in a run folder: one process that trains, any number that test.

The locks are those of the system (`flock`), which releases them when a process dies, however it does. They follow a
folder that is renamed. A training holds the file `lock` in its folder; a test holds the folder itself, together with
other tests, so that it can't be moved away meanwhile.
"""

import errno
import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

from configs import UserError

__all__ = ["NAME", "claim", "held_by_a_test", "release", "renamed", "share"]

log = logging.getLogger(__name__)

NAME = "lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_training: dict[Path, int] = {}
_testing: dict[Path, int] = {}
"""The descriptors of this process by the folder that they are held for."""


def claim(folder: Path) -> None:
    """Takes a run folder for this process, to train in it, until `release` or the end of the process. Nothing happens
    where it has it.

    Raises:
        UserError: where another process has it.
        OSError: where the folder can't be written to.
    """
    place, path = folder.absolute(), folder / NAME
    if place in _training:
        return
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise UserError(
                f"{folder}: another run{f' ({holder})' if holder else ''} is training in it; give another --doc, or "
                "wait for its end"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            log.warning("%s: its file system has no locks; take care that no other run trains in it", folder)
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # the folder was moved away in between
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _training[place] = descriptor


def release(folder: Path) -> bool:
    """Gives up what this process holds of a run folder; whether it held anything."""
    descriptors = [held.pop(folder.absolute(), None) for held in (_training, _testing)]
    for descriptor in descriptors:
        if descriptor is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
    return descriptors != [None, None]


def renamed(folder: Path, target: Path) -> None:
    """Notes that a folder that this process holds has another name from here on."""
    _training[target.absolute()] = _training.pop(folder.absolute())


def share(folder: Path) -> None:
    """Keeps a run folder from being moved away, until `release` or the end of the process; where its file system knows
    no such lock, nothing does."""
    if folder.absolute() not in _testing:
        with suppress(OSError):
            _testing[folder.absolute()] = descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def held_by_a_test(folder: Path) -> bool:
    """Whether a process tests the run of a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _forget() -> None:
    """A forked process, such as one that reads data, does not keep the locks of one that dies."""
    for held in (_training, _testing):
        for descriptor in held.values():
            os.close(descriptor)
        held.clear()


os.register_at_fork(after_in_child=_forget)
