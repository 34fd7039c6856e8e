"""A user's own images: files of pictures and arrays, read a batch at a time."""

import itertools
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs import UserError, reason_of
from datasets.archives import archived_images
from datasets.folders import is_litter
from datasets.pictures import cover, open_picture, size_of
from datasets.pixels import Shape, as_images, as_values, picture_shape
from datasets.ranges import Limits, RangeCheck

__all__ = ["ImageInputs", "inputs_by_size", "read_images"]

ARRAYS = (".npy", ".npz")
CHUNK = 256
LONGEST = 200  # bytes of a name, so that an ending fits


class ImageInputs:
    """A file, or all files of a folder: images, `.npy` arrays, and `.npz` archives with an array `images`.

    Arrays may hold floats, so that noise is not cut off at the ends of the range as in an image file. What a system
    leaves behind, `.DS_Store` and the like, is passed over. Every file is read once here, so that mistakes are known
    before there are results, and again in `batches`.

    Args:
        path: of the file or folder, or some files.
        shape: of an image, `(C, H, W)`.
        resize: make images of other sizes fit: they cover `(H, W)`, and their middle is taken. Arrays are not resized.
        limits: the values of black and white, see `value_range`.

    Attributes:
        files: in which they are.
        counts: how many there are in each.
        names: one for each image, no two alike, in upper and lower case either.
        values: counts of their values; see `RangeCheck`.

    Raises:
        UserError: where there is no such file, or one is no image or has another size.
    """

    def __init__(self, path: str | Path | list[Path], shape: Shape, resize: bool = False, limits: Limits | None = None):
        self.shape, self.resize, self.limits = shape, resize, limits
        self.files = path if isinstance(path, list) else _files(Path(path))
        self.values = RangeCheck(shape[0], limits)
        self.counts = [sum(len(part) for part in self._read(file, self.values)) for file in self.files]
        self.names = _names(self.files, self.counts)

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, size: int) -> Iterator[Tensor]:
        """The values of the images in the order of `names`, `(B, D)` with B ≤ `size`.

        Raises:
            UserError: where a file can't be read any more.
        """
        waiting = torch.empty(0, math.prod(self.shape))
        for file in self.files:
            for part in self._read(file, RangeCheck(self.shape[0], self.limits)):
                waiting = torch.cat([waiting, part])
                while len(waiting) >= size:
                    yield waiting[:size]
                    waiting = waiting[size:]
        if len(waiting):
            yield waiting

    def _read(self, file: Path, check: RangeCheck) -> Iterator[Tensor]:
        """The values of a file, in parts."""
        try:
            (images,) = as_images(self._content(file), self.shape)
            for first in range(0, len(images), CHUNK):
                yield as_values(images[first : first + CHUNK], check)
        except UserError:
            raise
        except ValueError as error:
            fits = file.suffix.lower() not in ARRAYS and not self.resize and "are expected" in str(error)
            raise UserError(f"{file}: {error}{'; --resize makes them so' if fits else ''}") from error

    def _content(self, file: Path) -> np.ndarray:
        channels, height, width = self.shape
        if file.suffix.lower() in ARRAYS:
            return _array(file)
        picture = open_picture(file, channels)
        return np.array(cover(picture, height, width) if self.resize else picture)


def inputs_by_size(path: str | Path, channels: int, limits: Limits | None = None) -> list[ImageInputs]:
    """The images of a file or folder whatever their sizes: those of each size by themselves.

    Args:
        path: of the file or folder.
        channels: of an image, C.
        limits: the values of black and white, see `value_range`.

    Returns:
        `ImageInputs` for each size, in the order of the first file that has it; no two images have one name.

    Raises:
        UserError: where there is no such file, or one is no image.
    """
    by_size: dict[Shape, list[Path]] = {}
    for file in _files(Path(path)):
        by_size.setdefault(_shape_of(file, channels), []).append(file)
    inputs = [ImageInputs(files, shape, limits=limits) for shape, files in by_size.items()]
    files = [file for part in inputs for file in part.files]
    names = iter(_names(files, [count for part in inputs for count in part.counts]))
    for part in inputs:
        part.names = list(itertools.islice(names, len(part.names)))
    return inputs


def _shape_of(file: Path, channels: int) -> Shape:
    is_array = file.suffix.lower() in ARRAYS
    if not is_array and (size := size_of(file)) is not None:
        return channels, *size
    try:
        content = _array(file) if is_array else open_picture(file, channels)
        return picture_shape(content, (channels, None, None))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error


def read_images(path: str | Path, shape: Shape, limits: Limits | None = None) -> tuple[list[str], Tensor]:
    """All images of a file or folder at once; see `ImageInputs`.

    Args:
        path: of the file or folder.
        shape: of an image, `(C, H, W)`.
        limits: the values of black and white, see `value_range`.

    Returns:
        a name for each image, and their values `(N, D)`, float32.

    Raises:
        UserError: where there is no such file, or one is no image or has another size.

    Warns where the values do not seem to be in the range of the model.
    """
    inputs = ImageInputs(path, shape, limits=limits)
    if (doubt := inputs.values.doubt()) is not None:
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return inputs.names, torch.cat(list(inputs.batches(len(inputs))))


def _files(path: Path) -> list[Path]:
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                names = sorted(entry.name for entry in entries if not is_litter(entry.name))
            files = [path / name for name in names if (path / name).is_file() or not (path / name).exists()]
        else:
            path.stat()
            files = [path] if path.is_file() else []
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not files:
        raise UserError(f"{path}: {'the folder has no files' if path.is_dir() else 'not a file or folder'}")
    return files


def _array(file: Path) -> np.ndarray:
    try:
        if file.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(file, mode="r")  # refuses arrays of objects
        return archived_images(file)
    except KeyError as error:
        raise UserError(f"{file}: the archive has no array 'images'") from error
    except Exception as error:  # numpy meets a broken file with half a dozen types of exception
        raise UserError(f"{file}: cannot be read as an array ({reason_of(error)}); mend or remove it") from error


def _names(files: list[Path], counts: list[int]) -> list[str]:
    """A name for each image, no two alike: that of its file, with the file's ending where others go by that name, and
    numbered where a file holds several."""
    stems = Counter(_folded(file.stem) for file in files)
    names: dict[Path, list[str]] = {}
    taken: set[str] = set()
    for file, count in sorted(zip(files, counts, strict=True), key=lambda one: one[1] > 1):  # plain names come first
        plain, whole = _short(file.stem), _short(file.name.replace(".", "_"))
        first = [plain] if stems[_folded(file.stem)] == 1 else []
        for base in chain(first, [whole], (f"{whole}_{number}" for number in itertools.count(2))):
            proposed = [base] if count == 1 else [f"{base}_{number}" for number in range(count)]
            if taken.isdisjoint(map(_folded, proposed)):
                break
        taken.update(map(_folded, proposed))
        names[file] = proposed
    return [name for file in files for name in names[file]]


def _short(name: str) -> str:
    return os.fsencode(name)[:LONGEST].decode(errors="ignore")


def _folded(name: str) -> str:
    """The same for names that a file system may not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()
