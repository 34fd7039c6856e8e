"""A user's own images: from files and arrays to the model's values, and back."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import datasets
import losses
import models
from configs import Config, UserError

__all__ = ["denoise", "from_pixels", "read_images", "to_pixels"]


def from_pixels(images: np.ndarray | Tensor, config: Config) -> Tensor:
    """Images as values of the model.

    Args:
        images: `(H, W)`, `(N, H, W)`, `(H, W, C)` or `(N, H, W, C)`. uint8 from 0 to 255; floats are values of the
            model already: in [0, 1] for grey images, [−1, 1] for coloured ones, and outside where there is noise.
        config: of the model.

    Returns:
        `(N, D)`, float32.

    Raises:
        ValueError: where type or shape do not fit the model.
    """
    data = config.data
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images of type {array.dtype}; uint8, or floats in the model's range, are wanted")
    size = (data.image_size, data.image_size)
    with_channels = array if array.ndim and array.shape[-1] == data.channels else array[..., None]
    batch = with_channels if with_channels.ndim == 4 else with_channels[None]
    if batch.shape[1:] != (*size, data.channels):
        wanted = f"{size[0]}×{size[1]} with {data.channels} channel(s)"
        raise ValueError(f"an array of shape {array.shape}; images of {wanted} are wanted")
    if not len(batch):
        raise ValueError("an array without images")
    if not np.isfinite(batch).all():
        raise ValueError("the images have values that are not finite")
    values = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)
    return datasets.to_float(values) if array.dtype == np.uint8 else values.float().flatten(1)


def to_pixels(values: Tensor, config: Config) -> np.ndarray:
    """Values of the model `(N, D)` as uint8 images, `(N, H, W)` for grey ones and `(N, H, W, C)` for coloured ones."""
    low, high = datasets.value_range(config.data.channels)
    shape = (config.data.channels, config.data.image_size, config.data.image_size)
    pixels = ((values - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    pixels = pixels.unflatten(1, shape).permute(0, 2, 3, 1).numpy()
    return pixels[..., 0] if config.data.channels == 1 else pixels


def read_images(path: str | Path, config: Config) -> tuple[list[str], Tensor]:
    """A file, or all files of a folder: images, `.npy` arrays, and `.npz` archives with an array `images`.

    Arrays may hold floats, so that noise is not cut off at the ends of the range as in an image file.

    Returns:
        a name for each image, and their values `(N, D)`.

    Raises:
        UserError: where there is no such file, or one is no image or has another size.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not files:
        raise UserError(f"{path}: the folder has no files")
    stems = Counter(file.stem for file in files)
    names, values = [], []
    for file in files:
        try:
            read = from_pixels(_read(file, config.data.channels), config)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error
        values.append(read)
        name = file.stem if stems[file.stem] == 1 else file.name.replace(".", "_")
        names += [name] if len(read) == 1 else [f"{name}_{number}" for number in range(len(read))]
    return names, torch.cat(values)


def _read(file: Path, channels: int) -> np.ndarray:
    """A file's array; a `ValueError` says what is wrong with it."""
    from PIL import Image

    try:
        if file.suffix in (".npy", ".npz"):
            content = np.load(file)
            return content if isinstance(content, np.ndarray) else content["images"]
        with Image.open(file) as image:
            eight_bits = not image.mode.startswith(("I", "F"))
            pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    except KeyError as error:
        raise ValueError("the archive has no array 'images'") from error
    except Exception as error:  # Pillow and numpy meet a broken file with half a dozen types of exception
        reason = "not an image, .npy or .npz file, or a broken one"
        raise ValueError(reason) from error
    if not eight_bits:
        raise ValueError("more than 8 bits a pixel; save it with 8, or as a .npy array of floats")
    return pixels


def denoise(source: str | Path | tuple, images: np.ndarray | Tensor | str | Path) -> np.ndarray | Tensor:
    """The posterior mean of noisy pictures.

    Args:
        source: a run folder or checkpoint, or what `models.load` returned for it.
        images: arrays as `from_pixels` takes them, or the path of a file or folder.

    Returns:
        pictures in the scale they came in: uint8 for uint8 and for files, floats for floats; of the shape of the array,
        or `(N, H, W[, C])` for files; a tensor for a tensor.

    Raises:
        UserError: where a file or the checkpoint cannot be read.
        ValueError: where an array does not fit the model.
    """
    s1, _, config = source if isinstance(source, tuple) else models.load(source)
    from_files = isinstance(images, str | Path)
    noisy = read_images(images, config)[1] if from_files else from_pixels(images, config)
    device = next(getattr(s1, "__self__", s1).parameters()).device
    noisy = noisy.to(device)
    with torch.no_grad():
        score = torch.cat([s1(part) for part in noisy.split(250)])
    mean = losses.posterior_mean(score, noisy, config.noise)
    if from_files:
        return to_pixels(mean, config)
    if images.dtype in (np.uint8, torch.uint8):
        pictures = to_pixels(mean, config).reshape(images.shape)
    else:
        side = config.data.image_size
        pictures = mean.unflatten(1, (-1, side, side)).permute(0, 2, 3, 1).cpu().numpy().reshape(images.shape)
    return torch.from_numpy(pictures) if isinstance(images, Tensor) else pictures
