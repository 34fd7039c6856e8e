"""Image data sets, and batches of them as flat float vectors.

A set that fits lies in memory as one tensor, on the training device where there is room, and a batch is
an index and a cast. A folder of images goes through a DataLoader whose workers decode.

A new data set is a function `(data_dir, split, data section) -> images`, in a module of its own, and a line in
`READERS`.
"""

import hashlib
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from configs import Config, DataConfig, UserError, reason_of
from datasets.archives import archived_images
from datasets.crops import CroppedFiles, check_sizes
from datasets.folders import held_out_parts, image_files, split_by_name
from datasets.image_files import ImageFiles
from datasets.pictures import cover
from datasets.pixels import Shape, as_images, to_float
from datasets.ranges import Limits, RangeCheck
from datasets.seeds import SEEDS_OF_TORCH, derived_seed, generator_of
from datasets.synthetic import DENSITIES, DensityData

__all__ = [
    "DATASETS",
    "READERS",
    "ImageData",
    "at_hand",
    "batches",
    "epoch_order",
    "fingerprint",
    "load",
    "training_order",
]

log = logging.getLogger(__name__)

PROJECT = Path(__file__).parents[1]
SPLIT_SEED = 2019
EPOCHS = 1_000_003  # between the numbers that small seeds give to the orders of their epochs


@dataclass(frozen=True)
class ImageData:
    """One split of an image data set.

    Attributes:
        images: a tensor `(N, C, H, W)`, uint8 pixels or float32 values in the model's range, or N files.
        shape: `(C, H, W)`.
        device: that batches are moved to.
        workers: processes that decode, where `images` are files.
        limits: the values of black and white, see `value_range`.
    """

    images: Tensor | ImageFiles
    shape: tuple[int, int, int]
    device: torch.device
    workers: int = 0
    limits: Limits | None = None

    def __len__(self) -> int:
        return len(self.images)


def load(config: Config, split: str, device: torch.device | str = "cpu") -> ImageData | DensityData:
    """A split of the data set that a configuration names.

    Args:
        config: `data` says which data set, `data_dir` where it lies or is downloaded to.
        split: `"train"` or `"test"`.
        device: that batches are moved to; the images themselves where there is room.

    Returns:
        images, or points of a density where `data.dataset` is Synthetic.

    Raises:
        UserError: where files are missing or broken, a download fails, or `data.image_size`, `data.channels` or
            `data.dimension` does not fit. The message says what to do.
    """
    device = torch.device(device)
    section = config.data
    if section.dataset == "Synthetic":
        density = DENSITIES[section.density](section.dimension)
        if density.shape != section.shape:
            raise UserError(
                f"data.dimension: {section.dimension} does not fit {section.density}, whose points have "
                f"{density.dimension} values; {density.dimension} is expected"
            )
        return DensityData(density, section.size, split, device, section.points if split == "train" else None)
    shape = cast(Shape, section.shape)
    images = READERS[section.dataset](_place(config), split, section)
    if isinstance(images, ImageFiles):
        return ImageData(images, shape, device, section.workers, section.values)
    if tuple(images.shape[1:]) != shape:
        channels, height, width = images.shape[1:]
        raise UserError(
            f"data.image_size: {_size(shape)} and data.channels: {section.channels} do not fit "
            f"{section.dataset}, whose images are {height}×{width} with {channels} channel(s)"
        )
    if _has_room(images, device):
        images = images.to(device)
    return ImageData(images, shape, device, limits=section.values)


def at_hand(config: Config) -> bool:
    """Whether the data set of a configuration is on this machine, so that `load` downloads nothing."""
    return any(_holds(place, config) for place in _places(config))


def _places(config: Config) -> list[Path]:
    """Where `data_dir` may be: seen from the working directory, and then from the project's folder."""
    here = Path(config.data_dir).expanduser()
    return [here, PROJECT / here]


def _place(config: Config) -> Path:
    """The first of those that hold the data set; the first one where none does."""
    here, there = _places(config)
    if _holds(here, config) or not _holds(there, config):
        return here
    log.info("data_dir: %s is not here; taken from %s", here, there)
    return there


def _holds(folder: Path, config: Config) -> bool:
    name = config.data.dataset
    if name in ("Digits", "Synthetic"):
        return True
    if name == "npz":
        return folder.is_file() or folder.with_name(f"{folder.name}_test.npz").is_file()
    reader = READERS[name]
    return (folder / reader.place).is_dir() if isinstance(reader, _Downloaded) else folder.is_dir()


def fingerprint(data: ImageData | DensityData) -> str:
    """A short text that stays the same as long as a split does: how many images, and a digest of which.

    Of files their names and sizes count, of images in memory the sum of the pixels of each, in their order; of the
    points of a density only their number.
    """
    if isinstance(data, DensityData):
        return f"{len(data)} points"
    digest = hashlib.sha256(str(data.shape).encode())
    if isinstance(data.images, ImageFiles):
        for file in map(Path, data.images.files):
            size = file.stat().st_size if file.exists() else -1
            digest.update(os.fsencode(f"{file.relative_to(data.images.folder)}\0{size}\0"))
    else:
        images = data.images.flatten(1)
        exact = images.dtype == torch.uint8
        sums = images.sum(1, dtype=torch.int64) if exact else images.cpu().double().sum(1)
        digest.update(sums.cpu().numpy().tobytes())
    return f"{len(data)} images, {digest.hexdigest()[:12]}"


def epoch_order(size: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """The shuffled indices of one epoch, `(size // batch_size, batch_size)`, the remainder left out: a function of seed
    and epoch alone, so that a run resumed in the middle of an epoch has the same ones, and shared by no two of them."""
    number = seed * EPOCHS + epoch
    generator = generator_of(number if number < SEEDS_OF_TORCH and epoch < EPOCHS else derived_seed(seed, epoch))
    steps = size // batch_size
    return torch.randperm(size, generator=generator)[: steps * batch_size].view(steps, batch_size)


def training_order(data: ImageData | DensityData, seed: int, epoch: int) -> Tensor:
    """The shuffled indices `(N,)` of the training images or points of one epoch: a function of data, seed and epoch,
    see `epoch_order`, and `CroppedFiles.order` for crops of files."""
    if isinstance(data, ImageData) and isinstance(data.images, CroppedFiles):
        return data.images.order(seed, epoch)
    return epoch_order(len(data), 1, seed, epoch).flatten()


def batches(data: ImageData | DensityData, order: Tensor | list[Tensor]) -> Iterator[Tensor]:
    """The images or points of each row of `order`.

    Args:
        data: the split.
        order: rows of indices, B each.

    Yields:
        values `(B, D)`, float32, on the data's device; see `value_range` for those of images.

    Raises:
        UserError: where an image file cannot be read.
    """
    if isinstance(data, DensityData):
        yield from map(data.draw, order)
        return
    for images in _uint8_batches(data, order):
        if isinstance(images, UserError):
            raise images
        images = images.to(data.device, non_blocking=True)
        yield to_float(images, data.limits) if images.dtype == torch.uint8 else images.flatten(1)


def _uint8_batches(data: ImageData, order: Tensor | list[Tensor]) -> Iterator[Tensor | UserError]:
    if isinstance(data.images, Tensor):
        for row in order:
            yield data.images[row.to(data.images.device)]
        return
    rows = [row.tolist() for row in order]
    if isinstance(data.images, CroppedFiles):
        visits = data.images.visits(rows)
        decoded = _decoded(data, data.images, [[visit] for visit in visits])
        yield from data.images.dealt(rows, zip(visits, decoded, strict=True))
    else:
        yield from _decoded(data, data.images, rows)


def _decoded(data: ImageData, files: ImageFiles, rows: list[list[int]]) -> Iterator[Tensor | UserError]:
    """The items of each row, stacked, from the workers."""
    workers = min(data.workers, len(rows))
    files.watch(workers)
    loader = DataLoader(
        files,
        batch_sampler=rows,
        num_workers=workers,
        collate_fn=_stack,
        worker_init_fn=_leave_signals_to_the_parent,
        pin_memory=data.device.type == "cuda",
    )
    try:
        yield from loader
    except RuntimeError as error:
        if (said := files.death(error)) is None:
            raise
        raise said from error


def _stack(items: list[Tensor | UserError]) -> Tensor | UserError:
    """An exception raised in a worker arrives wrapped in its traceback; one that is returned does not."""
    errors = [item for item in items if isinstance(item, UserError)]
    return errors[0] if errors else torch.stack([item for item in items if isinstance(item, Tensor)])


def _leave_signals_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _size(shape: tuple[int, ...]) -> str:
    return str(shape[1]) if shape[1] == shape[2] else f"[{shape[1]}, {shape[2]}]"


def _has_room(images: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes < free / 4


# --- a reader for each data set: (data_dir, split, data section) -> uint8 tensor (N, C, H, W), or ImageFiles ---


def _digits(folder: Path, split: str, data: DataConfig) -> Tensor:
    from sklearn.datasets import load_digits

    images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(images[_indices(len(images), split, train=0.8, test=0.2)])[:, None]


@dataclass(frozen=True)
class _Downloaded:
    """Reads a data set that torchvision downloads.

    Attributes:
        name: of its class in `torchvision.datasets`.
        files: what a user may put into `place` where a download fails.
        place: under `data_dir`.
    """

    name: str
    files: str
    place: str

    def __call__(self, folder: Path, split: str, data: DataConfig) -> Tensor:
        import torchvision

        try:
            downloaded = getattr(torchvision.datasets, self.name)(folder, train=split == "train", download=True)
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            problem = f"{self.name}: could not be downloaded or read ({reason_of(error)})"
            raise UserError(f"{problem}; put {self.files} into {folder / self.place}") from error
        images = torch.as_tensor(downloaded.data)
        return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"


def _npz(path: Path, split: str, data: DataConfig) -> Tensor:
    """`path` itself, split by a fixed seed, or `{path}_{split}.npz`; uint8 pixels, or floats in the model's range."""
    parts = path.with_name(f"{path.name}_{split}.npz")
    file = path if path.is_file() else parts
    try:
        images = archived_images(file)
    except FileNotFoundError as error:
        raise UserError(f"data_dir: neither a file {path} nor {parts} is there") from error
    except KeyError as error:
        raise UserError(f"{file}: has no array 'images'; (N, H, W) or (N, H, W, C) uint8 is expected") from error
    except Exception as error:  # numpy meets a broken archive with half a dozen types of exception
        raise UserError(f"{file}: cannot be read as .npz ({reason_of(error)})") from error
    check = RangeCheck(data.channels, data.values)
    try:
        (images,) = as_images(images, cast(Shape, data.shape))
        check.add(images)
    except ValueError as error:
        raise UserError(f"{file}: {error}; see data.image_size and data.channels") from error
    if (doubt := check.doubt(clean=True)) is not None:
        warnings.warn(f"{file}: {doubt}", stacklevel=2)
    if file == path:
        images = images[_indices(len(images), split, train=0.9, test=0.1)]
    return torch.from_numpy(np.ascontiguousarray(images if images.dtype == np.uint8 else images.astype(np.float32)))


def _celeba(folder: Path, split: str, data: DataConfig) -> ImageFiles:
    """Centre crop of 140 pixels, resized; 70 % of the files to train on, 10 % to test."""
    files = image_files(folder, "unpack img_align_celeba.zip of the CelebA page there")
    part = split_by_name([str(file.relative_to(folder)) for file in files], split, train=0.7, test=0.1)
    _, height, width = data.shape
    return ImageFiles(
        [files[index] for index in part],
        data.channels,
        partial(_cover_centre, height=height, width=width),
        folder,
    )


def _cover_centre(image: Image.Image, height: int, width: int) -> Image.Image:
    from torchvision.transforms.v2 import functional

    return cover(functional.center_crop(image, [140, 140]), height, width)


def _image_folder(folder: Path, split: str, data: DataConfig) -> ImageFiles:
    """The subfolders to train and to test on where there are both; else one folder, split by the files' names.

    The files are resized, or cut where `data.crop` is given: at random places to train on, in their middle to test.
    """
    parts = held_out_parts(folder)
    if parts is not None:
        log.info("%s: %s", split, parts[split])
        folder = parts[split]
        files = image_files(folder, "put images there")
    else:
        files = image_files(folder, "put images there, or into its subfolders train and test")
        part = split_by_name([str(file.relative_to(folder)) for file in files], split, train=0.9, test=0.1)
        files = [files[index] for index in part]
    _, height, width = data.shape
    if data.crop is None:
        return ImageFiles(files, data.channels, partial(cover, height=height, width=width), folder)
    check_sizes(files, height, width)
    if split == "train":
        return CroppedFiles(files, cast(Shape, data.shape), data.crop, folder)
    return ImageFiles(files, data.channels, partial(_centre, height=height, width=width), folder)


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    from torchvision.transforms.v2 import functional

    return functional.center_crop(image, [height, width])


READERS: dict[str, Callable[[Path, str, DataConfig], Tensor | ImageFiles]] = {
    "Digits": _digits,
    "MNIST": _Downloaded("MNIST", IDX_FILES, "MNIST/raw"),
    "FashionMNIST": _Downloaded("FashionMNIST", IDX_FILES, "FashionMNIST/raw"),
    "CIFAR10": _Downloaded("CIFAR10", "the files of cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "celeba": _celeba,
    "ImageFolder": _image_folder,
    "npz": _npz,
}
DATASETS = (*READERS, "Synthetic")
"""What `data.dataset` may be."""


def _indices(size: int, split: str, train: float, test: float) -> np.ndarray:
    """Of a split's images: the first part `train` of a fixed shuffle, or the part `test` that follows."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(size)
    train_size, test_size = round(train * size), round(test * size)
    return shuffled[:train_size] if split == "train" else shuffled[train_size : train_size + test_size]
