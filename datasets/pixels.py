"""Between pixels, the values that models take, and pictures in [0, 1].

The values of images lie between `limits`, black and white: by default [0, 1] for grey images and [−1, 1] for coloured
ones, as published; a batch of N images of shape `(C, H, W)` is `(N, D)` of them, D = C·H·W.
"""

import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.pictures import to_mode
from datasets.ranges import Limits, RangeCheck, value_range

__all__ = ["as_images", "displayable", "from_pixels", "like", "picture_shape", "to_float", "to_pixels"]

Shape = tuple[int, int, int]


def to_float(images: Tensor, limits: Limits | None = None) -> Tensor:
    """uint8 images `(N, C, H, W)` as values `(N, D)`, float32."""
    low, high = value_range(images.shape[1], limits)
    return (images.float() * ((high - low) / 255) + low).flatten(1)


def displayable(values: Tensor, shape: Shape, limits: Limits | None = None) -> Tensor:
    """Values `(N, D)` as pictures `(N, C, H, W)` in [0, 1], on the CPU; what is outside of the range is cut off."""
    low, high = value_range(shape[0], limits)
    return ((values - low) / (high - low)).clamp(0, 1).unflatten(1, shape).cpu()


def to_pixels(values: Tensor, shape: Shape, limits: Limits | None = None) -> np.ndarray:
    """Values as uint8 images.

    Args:
        values: `(N, D)`; what is outside of the range is cut off.
        shape: of an image, `(C, H, W)`.
        limits: the values of black and white, see `value_range`.

    Returns:
        `(N, H, W)` for grey images, `(N, H, W, C)` for coloured ones.
    """
    low, high = value_range(shape[0], limits)
    pixels = ((values - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    array = pixels.unflatten(1, shape).permute(0, 2, 3, 1).numpy()
    return array[..., 0] if shape[0] == 1 else array


def from_pixels(images: Any, shape: Shape, limits: Limits | None = None) -> Tensor:
    """Images as values.

    Args:
        images: an array, a tensor on any device or nested lists of numbers, one image or N of them, channels last or
            first: `(H, W)`, `(N, H, W)`, `(H, W, C)`, `(N, H, W, C)`, `(C, H, W)`, `(N, C, H, W)` or `(N, D)`; a Pillow
            image; or a list of any of these. uint8 goes from 0 to 255; floats of any precision are values already:
            between the limits, and outside where there is noise.
        shape: of an image, `(C, H, W)`.
        limits: the values of black and white, see `value_range`.

    Returns:
        `(N, D)`, float32, on the CPU.

    Raises:
        ValueError: where the array has another type or shape, is empty, or has values that are not finite.

    Warns where floats do not seem to be in that range.
    """
    check = RangeCheck(shape[0], limits)
    values = [as_values(batch, check) for batch in as_images(images, shape)]
    if (doubt := check.doubt()) is not None:
        warnings.warn(doubt, stacklevel=2)
    return torch.cat(values)


def picture_shape(images: Any, shape: tuple[int | None, ...]) -> Shape:
    """`(C, H, W)` of pictures, where the shape that is expected leaves H and W open.

    Args:
        images: what `from_pixels` takes.
        shape: that is expected, `(C, H, W)`; H and W None for any.

    Raises:
        ValueError: where that cannot be seen from the images.
    """
    channels, *sides = shape
    if None not in sides:
        return cast(Shape, tuple(shape))
    if isinstance(images, list | tuple) and len(images):
        images = images[0]
    if isinstance(images, Image.Image):
        return channels or 3, images.height, images.width
    size = tuple(np.shape(images))
    if len(size) >= 3 and size[-1] == channels:
        return size[-1], size[-3], size[-2]
    if len(size) >= 3 and size[-3] == channels:
        return size[-3], size[-2], size[-1]
    if channels == 1 and len(size) in (2, 3):
        return 1, size[-2], size[-1]
    raise ValueError(
        f"an array of shape {size}; pictures with {channels} channel(s) are expected, (H, W, C) or (C, H, W)"
    )


def as_values(batch: np.ndarray, check: RangeCheck) -> Tensor:
    """Images of `as_images` as values `(N, D)`, float32, counted by `check`."""
    check.add(batch)
    images = torch.from_numpy(np.array(batch))  # a copy: what lies in a file cannot be written
    return to_float(images, (check.low, check.high)) if batch.dtype == np.uint8 else images.float().flatten(1)


def as_images(images: Any, shape: Shape) -> list[np.ndarray]:
    """What `from_pixels` takes, as arrays `(n, C, H, W)` of uint8 or floats; several where it is a list of images.

    Raises:
        ValueError: see `from_pixels`.
    """
    if isinstance(images, list | tuple) and any(isinstance(one, Tensor | np.ndarray | Image.Image) for one in images):
        return [array for one in images for array in as_images(one, shape)]
    if isinstance(images, Image.Image):
        images = np.array(to_mode(images, shape[0]))
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        images = (images.float() if images.is_floating_point() else images).numpy()
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise ValueError("lists of different lengths; images of one size are expected") from error
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images of type {array.dtype}; uint8, or floats in the model's range, are expected")
    batch = (np.moveaxis(array, -1, -3) if _channels_last(array.shape, shape) else array).reshape(-1, *shape)
    if not len(batch):
        raise ValueError("an array without images")
    if array.dtype != np.uint8 and not (np.abs(batch) <= np.finfo(np.float32).max).all():
        raise ValueError("the images have values that are not finite")
    return [batch]


def like(values: Tensor, images: Sequence[int], shape: Shape) -> Tensor:
    """Values `(N, D)` in the layout of the array that they came from, whose shape was `images`."""
    batch = values.unflatten(1, shape)
    return (batch.movedim(1, -1) if _channels_last(images, shape) else batch).reshape(tuple(images))


def _channels_last(array: Sequence[int], shape: Shape) -> bool:
    """Whether an array of images has its channels last, or first, or none; a `ValueError` where it holds no such
    images."""
    channels, height, width = shape
    array = tuple(array)
    if len(array) in (3, 4) and array[-3:] == (height, width, channels):
        return True
    first = len(array) in (3, 4) and array[-3:] == shape
    without = channels == 1 and len(array) in (2, 3) and array[-2:] == (height, width)
    if first or without or (len(array) == 2 and array[1] == channels * height * width):
        return False
    raise ValueError(f"an array of shape {array}; images of {height}×{width} with {channels} channel(s) are expected")
