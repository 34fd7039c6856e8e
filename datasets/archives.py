"""Images in an `.npz` file."""

import zipfile
from pathlib import Path

import numpy as np

__all__ = ["archived_images"]


def archived_images(file: Path) -> np.ndarray:
    """The array `images` of an archive, as `numpy.savez` writes it.

    Raises:
        KeyError: where it has no such array.
        Exception: of half a dozen types, where it is broken.
    """
    with file.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("not an archive, or the end of one is missing")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            return archive["images"]
