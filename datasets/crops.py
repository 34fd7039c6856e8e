"""Random crops of large image files, each file decoded once an epoch.

A file's crops of an epoch are all cut when it is decoded, and held until their turn comes; the order of the epoch is
such that only so many files are held at a time. The index of a crop tells the seed and the epoch too, so that the same
order gives the same crops, wherever in it a run is resumed.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs import UserError
from datasets.image_files import ImageFiles
from datasets.pictures import size_of
from datasets.seeds import derived_seed, generator_of

__all__ = ["CroppedFiles", "check_sizes"]

HELD_BYTES = 2**27  # of the crops of the files that an epoch mixes; twice that is held at most, at its start
NAMED = 5


def check_sizes(files: Sequence[Path], height: int, width: int) -> None:
    """Refuses files that are smaller than a crop, by their headers; broken ones are left to be found when decoded.

    Raises:
        UserError: that names the first of them.
    """
    small = []
    for file in files:
        size = size_of(file)
        if size is not None and (size[0] < height or size[1] < width):
            small.append(f"{file} ({size[0]}×{size[1]})")
    if small:
        others = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
        raise UserError(
            f"data.crop: {', '.join(small[:NAMED])}{others}: smaller than a crop of {height}×{width}; "
            "remove them, or make data.image_size smaller"
        )


class CroppedFiles(ImageFiles):
    """Random crops of image files.

    An item is a visit to a file: all its crops of an epoch, uint8 `(crops, C, H, W)`. Crop n of a visit has the index
    `visit·crops + n`; a visit modulo the number of files is the number of the file.

    Args:
        files: their paths; none may be smaller than a crop.
        shape: of a crop, `(C, H, W)`.
        crops: of each file an epoch.
        folder: that their names are relative to.
    """

    def __init__(self, files: Sequence[Path], shape: tuple[int, int, int], crops: int, folder: Path):
        super().__init__(files, shape[0], None, folder)
        self.shape, self.crops = shape, crops

    def __len__(self) -> int:
        """The crops of an epoch."""
        return len(self.files) * self.crops

    def __getitem__(self, visit: int) -> Tensor | UserError:
        return self.read(visit % len(self.files), lambda picture: self._cut(picture, np.random.default_rng(visit)))

    def _cut(self, picture: Image.Image, rng: np.random.Generator) -> Tensor:
        channels, height, width = self.shape
        pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
        tops = rng.integers(picture.height - height + 1, size=self.crops)
        lefts = rng.integers(picture.width - width + 1, size=self.crops)
        cut = [pixels[y : y + height, x : x + width] for y, x in zip(tops, lefts, strict=True)]
        return torch.from_numpy(np.stack(cut).transpose(0, 3, 1, 2).copy())

    def order(self, seed: int, epoch: int) -> Tensor:
        """The indices of an epoch's crops, `(N,)`, shuffled: a function of seed and epoch, as their places in the files
        are.

        Where the crops of all files may be held at once, every order is as likely. Else the files are shuffled, so many
        of them begin together, and then one after another, and the crops of each come at random times from there on,
        spread over the time in which so many files pass.
        """
        files = len(self.files)
        mixed = min(files, max(1, HELD_BYTES // (self.crops * math.prod(self.shape))))
        number = derived_seed(seed, epoch)
        generator = generator_of(number)
        begins = (torch.randperm(files, generator=generator) - mixed + 1).clamp(min=0)
        times = torch.rand(files, self.crops, generator=generator, dtype=torch.float64)
        order = (begins[:, None] + mixed * times).flatten().argsort(stable=True)
        return order + (number >> 31) * len(self)  # 32 bits: such indices have 64 with up to 2³¹ crops

    def visits(self, rows: Iterable[list[int]]) -> list[int]:
        """The visits that rows of indices need, in the order of their first crops."""
        return list(dict.fromkeys(index // self.crops for row in rows for index in row))

    def dealt(
        self, rows: list[list[int]], visited: Iterator[tuple[int, Tensor | UserError]]
    ) -> Iterator[Tensor | UserError]:
        """The crops of each row, `(B, C, H, W)`.

        Args:
            rows: of indices.
            visited: each of `visits(rows)` with its crops, `(1, crops, C, H, W)`, or the error where its file cannot be
                read. They are held from their first crop to their last.
        """
        left = Counter(index // self.crops for row in rows for index in row)
        held: dict[int, Tensor] = {}
        for row in rows:
            places = [divmod(index, self.crops) for index in row]
            for visit, _ in places:
                while visit not in held:
                    one, crops = next(visited)
                    if isinstance(crops, UserError):
                        yield crops
                        return
                    held[one] = crops[0].clone()  # out of the memory that is shared with the worker
            yield torch.stack([held[visit][number] for visit, number in places])
            for visit, _ in places:
                left[visit] -= 1
                if not left[visit]:
                    del held[visit]
