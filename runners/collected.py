"""Arrays of many batches, collected on the disk so that memory does not grow with their number."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from configs import UserError

__all__ = ["Collected", "collected_in"]


class Collected:
    """Arrays of many batches, kept in files until all are there.

    Args:
        folder: where the files lie, without a name: they are gone with the process.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._rows: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._count = 0

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        """The next rows of each."""
        for name, rows in arrays.items():
            if name not in self._files:
                self._files[name] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._files[name].write(np.ascontiguousarray(rows).tobytes())
            self._rows[name] = rows.dtype, rows.shape[1:]
        self._count += len(next(iter(arrays.values())))

    def arrays(self) -> dict[str, Any]:
        """All rows of each, in the order they came; they are read when they are needed."""
        whole: dict[str, np.ndarray] = {}
        for name, (dtype, shape) in self._rows.items():
            self._files[name].flush()
            whole[name] = np.memmap(self._files[name], dtype, "r", shape=(self._count, *shape))
        return whole

    def close(self) -> None:
        """Frees the space."""
        for file in self._files.values():
            file.close()


@contextmanager
def collected_in(target: Path) -> Iterator[Collected]:
    """`Collected` in a folder, which is made.

    Raises:
        UserError: where it can't be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target).close()
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); --output DIR says where else") from error
    with closing(Collected(target)) as collected:
        yield collected
