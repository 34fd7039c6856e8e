"""A disk that is full from the n-th write on, for one process: whatever Python writes below a folder fails."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path


class FullDisk:
    """Counts what needs room on the disk, below a folder, and refuses it from the n-th on.

    That is: making a file or a folder, writing to a file, flushing it to the disk. Renaming and removing go on.

    Args:
        folder: what lies elsewhere is not counted.
        last: how many are let through; None for all.
    """

    def __init__(self, folder: Path, last: int | None = None):
        self.folder, self.last, self.count = str(folder), last, 0
        self._open, self._os_open, self._mkdir, self._fsync = io.open, os.open, os.mkdir, os.fsync

    def install(self) -> None:
        """For the life of the process."""
        io.open = builtins.open = self.open
        os.open, os.mkdir, os.fsync = self.os_open, self._counted(os.mkdir), self._counted(os.fsync)
        os.pwrite = self._counted(os.pwrite)

    def take(self, path: object) -> None:
        """Counts one.

        Raises:
            OSError: where the disk is full.
        """
        self.count += 1
        if self.last is not None and self.count > self.last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), None if isinstance(path, int) else str(path))

    def open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if isinstance(file, int) or not set(mode) & set("wax+") or not self._below(file):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not os.path.exists(file):  # noqa: PTH110
            self.take(file)
        raw = _File(self, os.fspath(file), mode.replace("t", "").replace("b", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

    def os_open(self, path, flags, mode=0o777, *, dir_fd=None):
        if flags & os.O_CREAT and self._below(path) and not os.path.exists(path):  # noqa: PTH110
            self.take(path)
        return self._os_open(path, flags, mode, dir_fd=dir_fd)

    def _counted(self, function: Callable) -> Callable:
        def counted(path, *arguments, **options):
            if isinstance(path, int) or (self._below(path) and not os.path.exists(path)):  # noqa: PTH110
                self.take(path)
            return function(path, *arguments, **options)

        return counted

    def _below(self, path) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)  # noqa: PTH100


class _File(io.FileIO):
    def __init__(self, disk: FullDisk, path: str, mode: str):
        super().__init__(path, mode)
        self.disk = disk

    def write(self, data) -> int:
        self.disk.take(self.name)
        return super().write(data)
