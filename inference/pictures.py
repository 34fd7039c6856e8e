"""The posterior mean of pictures."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import datasets
import models
from configs import UserError
from inference.tweedie import posterior_mean
from models import ScoreModel

__all__ = ["denoise"]


@torch.no_grad()
def denoise(
    model: ScoreModel | str | Path, images: np.ndarray | Tensor | str | Path, sigma: float | None = None
) -> np.ndarray | Tensor:
    """The posterior mean of noisy pictures.

    Args:
        model: of images; or the path of a run folder or checkpoint.
        images: arrays as `datasets.from_pixels` takes them, or the path of a file or folder.
        sigma: σ, in the units of the model; it can be left out for a model of one level.

    Returns:
        pictures in the scale they came in: uint8 for uint8 and for files, floats for floats; of the shape of the array,
        or `(N, H, W[, C])` for files; a tensor for a tensor.

    Raises:
        UserError: where a file or the checkpoint cannot be read, or the model has no scores at σ.
        ValueError: where an array does not fit the model, or that is not one of images.
    """
    model = models.load(model) if isinstance(model, str | Path) else model
    if len(model.shape) != 3:
        raise ValueError(f"a model of points of shape {model.shape}, not of images")
    shape = model.shape
    if sigma is None:
        if model.sigmas[0] != model.sigmas[1]:
            raise UserError("sigma: the model has scores at σ from {:g} to {:g}; say which".format(*model.sigmas))
        sigma = model.sigmas[0]
    scores = model.at(sigma)
    if isinstance(images, str | Path):
        noisy = datasets.read_images(images, shape)[1]
    else:
        noisy = datasets.from_pixels(images, shape)
    noisy = noisy.to(model.device)
    mean = torch.cat([posterior_mean(scores.s1(part), part, sigma) for part in noisy.split(250)])
    if isinstance(images, str | Path):
        return datasets.to_pixels(mean, shape)
    if images.dtype in (np.uint8, torch.uint8):
        pictures = datasets.to_pixels(mean, shape)
    else:
        pictures = mean.unflatten(1, shape).permute(0, 2, 3, 1).cpu().numpy()
    pictures = pictures.reshape(images.shape)
    return torch.from_numpy(pictures) if isinstance(images, Tensor) else pictures
