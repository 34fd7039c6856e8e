"""Random crops of large pictures: each file is decoded once an epoch, whatever the number of its crops."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from configs import UserError
from datasets.pictures import open_picture
from datasets.seeds import derived_seed, generator_of

__all__ = ["CropFiles"]

Places = Callable[[int, int, int], list[tuple[int, int]]]
"""From the number of a file, and the rows and columns that are left beside a crop, to the corners of its crops."""


@dataclass(frozen=True)
class CropFiles:
    """Picture files, of each of which an epoch has `count` crops; memory holds the crops of an epoch.

    Attributes:
        files: their paths.
        shape: of a crop, `(C, H, W)`.
        count: how many of a file.
        folder: that their names are relative to.
        workers: how many are decoded at a time.
    """

    files: Sequence[Path]
    shape: tuple[int, int, int]
    count: int
    folder: Path
    workers: int

    def __len__(self) -> int:
        return len(self.files) * self.count

    def of_epoch(self, seed: int, epoch: int) -> Tensor:
        """The crops of an epoch, `(N, C, H, W)` of uint8, one file's after the other's: a function of seed and epoch.

        Raises:
            UserError: where a file cannot be read, or is smaller than a crop.
        """
        return self._cut(partial(self._at_random, seed=derived_seed(seed, epoch)))

    def middles(self) -> Tensor:
        """The middle of each file, `(len(files), C, H, W)` of uint8.

        Raises:
            UserError: where a file cannot be read, or is smaller than a crop.
        """
        return self._cut(self._in_the_middle)

    def _cut(self, places: Places) -> Tensor:
        with ThreadPoolExecutor(max(1, self.workers)) as threads:
            return torch.cat(list(threads.map(partial(self._crops, places), range(len(self.files)))))

    def _crops(self, places: Places, number: int) -> Tensor:
        from torchvision.transforms.v2.functional import pil_to_tensor

        channels, height, width = self.shape
        pixels = pil_to_tensor(open_picture(self.files[number], channels))
        rows, columns = pixels.shape[1] - height, pixels.shape[2] - width
        if min(rows, columns) < 0:
            size = f"{pixels.shape[1]}×{pixels.shape[2]} pixels"
            raise UserError(f"{self.files[number]}: {size}, smaller than a crop of {height}×{width}; remove it")
        corners = places(number, rows, columns)
        return torch.stack([pixels[:, top : top + height, left : left + width] for top, left in corners])

    def _at_random(self, number: int, rows: int, columns: int, seed: int) -> list[tuple[int, int]]:
        generator = generator_of(derived_seed(seed, number))
        tops = torch.randint(rows + 1, (self.count,), generator=generator).tolist()
        return list(zip(tops, torch.randint(columns + 1, (self.count,), generator=generator).tolist(), strict=True))

    def _in_the_middle(self, number: int, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(rows // 2, columns // 2)]
