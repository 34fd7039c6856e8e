"""Image files, decoded when they are asked for, in this process or in workers that may die."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from configs import UserError
from datasets.pictures import open_picture

__all__ = ["ImageFiles"]


class ImageFiles(Dataset[Tensor | UserError]):
    """Image files as uint8 tensors `(C, H, W)`; a file that cannot be read gives the `UserError` to raise.

    Args:
        files: their paths.
        channels: 1 makes grey images of them, 3 coloured ones.
        transform: from a Pillow image to one of the size that is needed; None where they have it.
        folder: that their names are relative to.
    """

    def __init__(self, files: Sequence[Path], channels: int, transform: Callable | None, folder: Path):
        self.files = np.array([str(file) for file in files])
        self.channels = channels
        self.transform = transform
        self.folder = folder
        self.reading: Tensor | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | UserError:
        from torchvision.transforms.v2.functional import pil_to_tensor

        return self.read(index, lambda picture: pil_to_tensor(self.transform(picture) if self.transform else picture))

    def read(self, number: int, made: Callable[[Image.Image], Tensor]) -> Tensor | UserError:
        """What is made of a file's picture, or the error where it cannot be read."""
        self._note(number)
        try:
            return made(open_picture(self.files[number], self.channels))
        except UserError as error:
            return error
        finally:
            self._note(-1)

    def watch(self, workers: int) -> None:
        """From here on, each of so many worker processes notes what it reads where the parent sees it."""
        self.reading = torch.full((workers, 2), -1).share_memory_() if workers else None

    def _note(self, index: int) -> None:
        worker = get_worker_info()
        if self.reading is not None and worker is not None:
            self.reading[worker.id] = torch.tensor([os.getpid(), index])

    def death(self, error: RuntimeError) -> UserError | None:
        """What to say where a worker process died, as `error` of its loader says."""
        killed = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error))
        if killed is None or self.reading is None:
            return None
        dead = {int(number) for number in killed[1].split(",")}
        files = [str(self.files[index]) for pid, index in self.reading.tolist() if pid in dead and index >= 0]
        reason = killed[2].strip(" .").partition(". ")[0]
        where = ", ".join(files) or "data.workers"
        return UserError(f"{where}: the process that read it ended ({reason}); mend or remove it, or give more memory")
