"""Image data sets as uint8, and batches of them as flat float vectors.

A set that fits lies in memory as one tensor, on the training device where there is room, and a batch is
an index and a cast. A folder of images goes through a DataLoader whose workers decode.

A new data set is a function `(data_dir, split, data section) -> images`, in a module of its own, and a line in
`READERS`.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs import Config, DataConfig, UserError
from datasets.pixels import to_float
from datasets.synthetic import DENSITIES, DensityData

__all__ = ["DATASETS", "READERS", "ImageData", "ImageFiles", "at_hand", "batches", "epoch_order", "load"]

SPLIT_SEED = 2019


@dataclass(frozen=True)
class ImageData:
    """One split of an image data set.

    Attributes:
        images: a uint8 tensor `(N, C, H, W)`, or N files.
        shape: `(C, H, W)`.
        device: that batches are moved to.
        workers: processes that decode, where `images` are files.
    """

    images: "Tensor | ImageFiles"
    shape: tuple[int, int, int]
    device: torch.device
    workers: int = 0

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
        UserError: where files are missing or broken, a download fails, or `data.image_size` or
            `data.channels` does not fit. The message says what to do.
    """
    device = torch.device(device)
    section = config.data
    if section.dataset == "Synthetic":
        return DensityData(DENSITIES[section.density](section.dimension), section.size, split, device)
    images = READERS[section.dataset](Path(config.data_dir), split, section)
    shape = (section.channels, section.image_size, section.image_size)
    if isinstance(images, ImageFiles):
        return ImageData(images, shape, device, section.workers)
    if tuple(images.shape[1:]) != shape:
        channels, height, width = images.shape[1:]
        raise UserError(
            f"data.image_size: {section.image_size} and data.channels: {section.channels} do not fit "
            f"{section.dataset}, whose images are {height}×{width} with {channels} channel(s)"
            + ("" if height == width else "; only square images can be used")
        )
    if _has_room(images, device):
        images = images.to(device)
    return ImageData(images, shape, device)


def at_hand(config: Config) -> bool:
    """Whether the data set of a configuration is on this machine, so that `load` downloads nothing."""
    name, folder = config.data.dataset, Path(config.data_dir)
    if name in ("Digits", "Synthetic"):
        return True
    if name == "npz":
        return folder.is_file() or folder.with_name(f"{folder.name}_test.npz").is_file()
    reader = READERS[name]
    return (folder / reader.place).is_dir() if isinstance(reader, _Downloaded) else folder.is_dir()


def epoch_order(size: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """The shuffled indices of one epoch, `(size // batch_size, batch_size)`, the remainder left out: a function of seed
    and epoch alone, so that a run resumed in the middle of an epoch has the same ones."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    steps = size // batch_size
    return torch.randperm(size, generator=generator)[: steps * batch_size].view(steps, batch_size)


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
        yield to_float(images.to(data.device, non_blocking=True))


def _uint8_batches(data: ImageData, order: Tensor | list[Tensor]) -> Iterator[Tensor | UserError]:
    if isinstance(data.images, Tensor):
        for row in order:
            yield data.images[row.to(data.images.device)]
    else:
        rows = [row.tolist() for row in order]
        yield from DataLoader(
            data.images,
            batch_sampler=rows,
            num_workers=min(data.workers, len(rows)),
            collate_fn=_stack,
            worker_init_fn=_leave_signals_to_the_parent,
            pin_memory=data.device.type == "cuda",
        )


def _stack(items: list[Tensor | UserError]) -> Tensor | UserError:
    """An exception raised in a worker arrives wrapped in its traceback; one that is returned does not."""
    errors = [item for item in items if isinstance(item, UserError)]
    return errors[0] if errors else torch.stack([item for item in items if isinstance(item, Tensor)])


def _leave_signals_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self.name}: could not be downloaded or read ({reason}); put {self.files} into {folder / self.place}"
            ) from error
        images = torch.as_tensor(downloaded.data)
        return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"


def _npz(path: Path, split: str, data: DataConfig) -> Tensor:
    """`path` itself, split by a fixed seed, or `{path}_{split}.npz`."""
    parts = path.with_name(f"{path.name}_{split}.npz")
    file = path if path.is_file() else parts
    try:
        with file.open("rb") as stream, np.load(stream) as content:
            images = content["images"]
    except FileNotFoundError as error:
        raise UserError(f"data_dir: neither a file {path} nor {parts} is there") from error
    except KeyError as error:
        raise UserError(f"{file}: has no array 'images'; (N, H, W) or (N, H, W, C) uint8 is expected") from error
    except Exception as error:  # numpy meets a broken archive with half a dozen types of exception
        raise UserError(f"{file}: cannot be read as .npz ({str(error).splitlines()[0]})") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise UserError(f"{file}: images is {images.dtype} {images.shape}; (N, H, W) or (N, H, W, C) uint8 is expected")
    if file == path:
        images = images[_indices(len(images), split, train=0.9, test=0.1)]
    images = torch.from_numpy(images)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _celeba(folder: Path, split: str, data: DataConfig) -> "ImageFiles":
    """Centre crop of 140 pixels, resized; the first 70 % of a fixed shuffle to train on, the next 10 % to test."""
    from torchvision.transforms import v2

    files = _image_files(folder, "unpack img_align_celeba.zip of the CelebA page there")
    resize = v2.Compose([v2.CenterCrop(140), v2.Resize(data.image_size, antialias=True)])
    return ImageFiles(files[_indices(len(files), split, train=0.7, test=0.1)], data.channels, resize)


def _image_folder(folder: Path, split: str, data: DataConfig) -> "ImageFiles":
    """`folder/train` and `folder/test` where they are there; else one folder, split by a fixed seed."""
    from torchvision.transforms import v2

    resize = v2.Compose([v2.Resize(data.image_size, antialias=True), v2.CenterCrop(data.image_size)])
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        files = _image_files(folder / split, "put images there")
    else:
        files = _image_files(folder, "put images there, or into its subfolders train and test")
        files = files[_indices(len(files), split, train=0.9, test=0.1)]
    return ImageFiles(files, data.channels, resize)


READERS: dict[str, Callable[[Path, str, DataConfig], "Tensor | ImageFiles"]] = {
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


class ImageFiles(Dataset[Tensor | UserError]):
    """Image files as uint8 tensors `(C, H, W)`; a file that cannot be read gives the `UserError` to raise.

    Args:
        files: their paths.
        channels: 1 makes grey images of them, 3 coloured ones.
        transform: from a Pillow image to one of the size that is needed.
    """

    def __init__(self, files: np.ndarray, channels: int, transform: Callable):
        self.files = files
        self.mode = "L" if channels == 1 else "RGB"
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | UserError:
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        try:
            with Image.open(self.files[index]) as image:
                return pil_to_tensor(self.transform(image.convert(self.mode)))
        except (OSError, ValueError) as error:
            return UserError(f"{self.files[index]}: cannot be read as an image ({error}); mend or remove it")


def _image_files(folder: Path, advice: str) -> np.ndarray:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    if not files:
        raise UserError(f"data_dir: no images under {folder}; {advice}")
    return np.array(files)


def _indices(size: int, split: str, train: float, test: float) -> np.ndarray:
    """Of a split's images: the first part `train` of a fixed shuffle, or the part `test` that follows."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(size)
    train_size, test_size = round(train * size), round(test * size)
    return shuffled[:train_size] if split == "train" else shuffled[train_size : train_size + test_size]
