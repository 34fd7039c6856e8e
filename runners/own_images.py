"""A user's own images in, and pictures of what a model says of them out: for all that `--test --input` is asked."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

import datasets
import models
from configs import UserError
from datasets import ImageInputs
from models import ScoreModel

__all__ = [
    "BATCH",
    "ENTRIES",
    "SHOWN",
    "Shape",
    "dots",
    "model_of_images",
    "own_images",
    "write_pictures",
    "write_spreads",
]

Shape = tuple[int, int, int]

BATCH = 100
ENTRIES = 2**21  # of a batch together, where the images are large
SHOWN = 12


def model_of_images(model: ScoreModel | Path, device: torch.device | str) -> ScoreModel:
    """A model, or that of a run folder, on a device.

    Raises:
        UserError: where it cannot be had, or is one of points.
    """
    name = "model.denoiser" if isinstance(model, ScoreModel) else model
    model = model if isinstance(model, ScoreModel) else models.load(model, device)
    if len(model.shape) != 3:
        raise UserError(f"{name}: a model of points, not of images")
    if model.network is not None:
        model.network.to(device)
    return model


def own_images(model: ScoreModel, source: str | Path, resize: bool = False, factor: int = 1) -> list[ImageInputs]:
    """The images, those of each size by themselves.

    Args:
        model: that they are for.
        source: their file or folder.
        resize: make images of other sizes fit.
        factor: how many times smaller they are than those of the model.

    Raises:
        UserError: where they cannot be read or do not fit the model.
    """
    if resize and None in model.shape:
        raise UserError("--resize: the model takes images of any size; leave it out")
    if resize or not model.any_size:
        channels, height, width = cast(Shape, model.shape)
        return [datasets.ImageInputs(source, (channels, height // factor, width // factor), resize, model.values)]
    return datasets.inputs_by_size(source, cast(int, model.shape[0]), model.values)


def write_spreads(target: Path, inputs: ImageInputs, std: np.ndarray) -> None:
    """A picture of the standard deviation of each image, white the largest of all."""
    low, high = datasets.value_range(std.shape[1], inputs.limits)
    parts = [slice(first, first + BATCH) for first in range(0, len(std), BATCH)]
    largest = max(float(std[part].max()) for part in parts)
    for part in parts:
        write_pictures(target, inputs.names[part], std[part] / largest * (high - low) + low, "std", inputs.limits)


def write_pictures(
    target: Path, names: list[str], images: np.ndarray, suffix: str, limits: datasets.Limits | None
) -> None:
    """A file for each of the images `(n, C, H, W)`, in the model's range."""
    values, shape = torch.from_numpy(images).flatten(1), cast(Shape, images.shape[1:])
    for name, pixels in zip(names, datasets.to_pixels(values, shape, limits), strict=True):
        Image.fromarray(pixels).save(target / f"{name}_{suffix}.png")


def dots(shape: Shape) -> int:
    """An inch of a figure, so that about two are there for each pixel of an image, which is not as wide as an inch."""
    return min(600, max(120, 5 * shape[2] // 2))
