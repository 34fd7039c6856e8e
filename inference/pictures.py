"""The posterior mean of pictures."""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import datasets
import models
from configs import UserError
from inference.arguments import noise_of
from inference.tweedie import posterior_mean
from models import ScoreModel

__all__ = ["denoise"]


BATCH = 250

Picture = np.ndarray | Tensor


@torch.no_grad()
def denoise(
    model: ScoreModel | str | Path, images: Any | str | Path, sigma: float | None = None
) -> Picture | list[Picture]:
    """The posterior mean of noisy pictures.

    Args:
        model: of images; or the path of a run folder or checkpoint.
        images: all that `datasets.from_pixels` takes: an array, a tensor, a Pillow image, or a list of these; or the
            path of a file or folder. All of one size, whatever that is where the model takes any.
        sigma: σ, in the units of the model; it can be left out for a model of one level.

    Returns:
        pictures in the scale they came in: uint8 for pixels and for files, float32 for floats of any precision. An
        array in the layout of the array, a tensor on the device of the tensor, a list for a list; `(N, H, W[, C])` for
        files and `(H, W[, C])` for a Pillow image. No gradients are tracked.

    Raises:
        UserError: where a file or the checkpoint cannot be read, or the model has no scores at σ.
        ValueError: where an array does not fit the model, or that is not one of images.
    """
    model = models.load(model) if isinstance(model, str | Path) else model
    if not isinstance(model, ScoreModel):
        raise ValueError(f"model is of type {type(model).__name__}; a models.ScoreModel or the path of one is expected")
    if len(model.shape) != 3:
        raise ValueError(f"a model of points of shape {model.shape}; one of images, (C, H, W), is expected")
    if sigma is None:
        if model.sigmas[0] != model.sigmas[1]:
            raise UserError("sigma: the model has scores at σ from {:g} to {:g}; say which".format(*model.sigmas))
        sigma = model.sigmas[0]
    shape = _shape_of(images, model)
    scores = model.at(sigma, shape)
    if isinstance(images, str | Path):
        noisy = datasets.read_images(images, shape, scores.values)[1]
    else:
        noisy = datasets.from_pixels(images, shape, scores.values)
    parts = (scores.points(part) for part in noisy.split(BATCH))
    mean = torch.cat([posterior_mean(scores.s1(part), part, noise_of(scores)).cpu() for part in parts])
    if isinstance(images, str | Path):
        return datasets.to_pixels(mean, shape, scores.values)
    return _in_the_form_of(images, mean, shape, scores.values)


def _shape_of(images: Any, model: ScoreModel) -> tuple[int, int, int]:
    """`(C, H, W)` of the pictures, where the model takes any size; else that of the model."""
    if not model.any_size:
        return cast(tuple[int, int, int], model.shape)
    channels = cast(int, model.shape[0])
    if not isinstance(images, str | Path):
        return datasets.picture_shape(images, (channels, None, None))
    shape, *others = (part.shape for part in datasets.inputs_by_size(images, channels, model.values))
    if others:
        raise UserError(f"{images}: images of {1 + len(others)} sizes; those of one size are expected")
    return shape


def _in_the_form_of(images: Any, mean: Tensor, shape: tuple[int, int, int], limits: datasets.Limits | None) -> Any:
    """Values `(N, D)` as the pictures were given that they are the means of."""
    if isinstance(images, Image.Image):
        return datasets.to_pixels(mean, shape, limits)[0]
    if isinstance(images, list | tuple) and any(isinstance(one, Tensor | np.ndarray | Image.Image) for one in images):
        counts = [1 if isinstance(one, Image.Image) else math.prod(np.shape(one)) // mean.shape[1] for one in images]
        return [_in_the_form_of(one, part, shape, limits) for one, part in zip(images, mean.split(counts), strict=True)]
    array = images if isinstance(images, Tensor) else np.asarray(images)
    values = mean
    if array.dtype in (np.uint8, torch.uint8):
        pixels = torch.from_numpy(datasets.to_pixels(mean, shape, limits)).reshape(-1, *shape[1:], shape[0])
        values = pixels.movedim(-1, 1).flatten(1)
    pictures = datasets.like(values, tuple(array.shape), shape)
    return pictures.to(array.device) if isinstance(array, Tensor) else pictures.contiguous().numpy()
