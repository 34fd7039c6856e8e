"""Images in, pixels out: between uint8 pixels, the values that models take, and pictures in [0, 1].

The values of grey images lie in [0, 1] and those of coloured ones in [−1, 1], as published; a batch of N images of
shape `(C, H, W)` is `(N, D)` of them, D = C·H·W.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs import UserError

__all__ = ["displayable", "from_pixels", "read_images", "to_float", "to_pixels", "value_range"]


def value_range(channels: int) -> tuple[float, float]:
    """The range of an image's values, without noise: [0, 1] for one channel, [−1, 1] for more."""
    return (0.0, 1.0) if channels == 1 else (-1.0, 1.0)


def to_float(images: Tensor) -> Tensor:
    """uint8 images `(N, C, H, W)` as values `(N, D)`, float32."""
    low, high = value_range(images.shape[1])
    return (images.float() * ((high - low) / 255) + low).flatten(1)


def displayable(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Values `(N, D)` as pictures `(N, C, H, W)` in [0, 1], on the CPU; what is outside of the range is cut off."""
    low, high = value_range(shape[0])
    return ((values - low) / (high - low)).clamp(0, 1).unflatten(1, shape).cpu()


def from_pixels(images: np.ndarray | Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images as values.

    Args:
        images: `(H, W)`, `(N, H, W)`, `(H, W, C)` or `(N, H, W, C)`. uint8 from 0 to 255; floats are values already: in
            [0, 1] for grey images, [−1, 1] for coloured ones, and outside where there is noise.
        shape: of an image, `(C, H, W)`.

    Returns:
        `(N, D)`, float32, on the CPU.

    Raises:
        ValueError: where the array has another type or shape, is empty, or has values that are not finite.
    """
    channels, height, width = shape
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images of type {array.dtype}; uint8, or floats in the model's range, are expected")
    with_channels = array if array.ndim and array.shape[-1] == channels else array[..., None]
    batch = with_channels if with_channels.ndim == 4 else with_channels[None]
    if batch.shape[1:] != (height, width, channels):
        raise ValueError(
            f"an array of shape {array.shape}; images of {height}×{width} with {channels} channel(s) are expected"
        )
    if not len(batch):
        raise ValueError("an array without images")
    if not np.isfinite(batch).all():
        raise ValueError("the images have values that are not finite")
    values = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)
    return to_float(values) if array.dtype == np.uint8 else values.float().flatten(1)


def to_pixels(values: Tensor, shape: tuple[int, int, int]) -> np.ndarray:
    """Values as uint8 images.

    Args:
        values: `(N, D)`; what is outside of the range is cut off.
        shape: of an image, `(C, H, W)`.

    Returns:
        `(N, H, W)` for grey images, `(N, H, W, C)` for coloured ones.
    """
    low, high = value_range(shape[0])
    pixels = ((values - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    array = pixels.unflatten(1, shape).permute(0, 2, 3, 1).numpy()
    return array[..., 0] if shape[0] == 1 else array


def read_images(path: str | Path, shape: tuple[int, int, int]) -> tuple[list[str], Tensor]:
    """A file, or all files of a folder: images, `.npy` arrays, and `.npz` archives with an array `images`.

    Arrays may hold floats, so that noise is not cut off at the ends of the range as in an image file.

    Args:
        path: of the file or folder.
        shape: of an image, `(C, H, W)`.

    Returns:
        a name for each image, and their values `(N, D)`, float32.

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
    names: list[str] = []
    values = []
    for file in files:
        try:
            images = from_pixels(_array(file, channels=shape[0]), shape)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error
        values.append(images)
        name = file.stem if stems[file.stem] == 1 else file.name.replace(".", "_")
        names += [name] if len(images) == 1 else [f"{name}_{number}" for number in range(len(images))]
    return names, torch.cat(values)


def _array(file: Path, channels: int) -> np.ndarray:
    """A file's array; a `ValueError` says what is wrong with it."""
    from PIL import Image

    try:
        if file.suffix in (".npy", ".npz"):
            with file.open("rb") as stream:
                content = np.load(stream)
                return content if isinstance(content, np.ndarray) else content["images"]
        with Image.open(file) as image:
            eight_bits = not image.mode.startswith(("I", "F"))
            pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    except KeyError as error:
        raise ValueError("the archive has no array 'images'") from error
    except Exception as error:  # Pillow and numpy meet a broken file with half a dozen types of exception
        raise ValueError("not an image, .npy or .npz file, or a broken one") from error
    if not eight_bits:
        raise ValueError("more than 8 bits a pixel; save it with 8, or as a .npy array of floats")
    return pixels
