"""What a trained model has to say of a user's own images: `main.py --test --input`."""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import datasets
import losses
import models
from configs import Config, UserError
from inference.figures import displayable, image_rows, posterior_figure, walk_figure
from inference.pictures import read_images, to_pixels
from inference.posterior import posterior
from models import DiagonalPlusLowRank

__all__ = ["explain"]

log = logging.getLogger(__name__)

SHOWN = 12
COMPONENTS = 3
CUT_OFF = 0.05


@torch.no_grad()
def explain(
    folder: Path,
    source: str | Path,
    target: Path,
    clean: bool = False,
    device: torch.device | str = "cpu",
    seed: int | None = None,
) -> dict[str, float]:
    """Denoises images and writes what else is known of them.

    Args:
        folder: the run folder of the model.
        source: a file or folder of images, `read_images` says which.
        target: where the pictures go; it is made.
        clean: the images are clean: noise of the model's σ is added first.
        device: where to compute.
        seed: of that noise; by default that of the run.

    Returns:
        the number of images; `mse`, the mean squared error, for clean ones; `predicted_mse`, the mean variance, of a
        second-order model.

    Writes, for each image, `NAME_denoised.png`, and with a second-order model `NAME_std.png` (white is the largest of
    all), and for all of them `posterior.npz` (names, mean, std, and variances and directions of the components) and
    `overview.png`; `walks.png` for the first one, where the model is low-rank.

    Raises:
        UserError: where the images or the checkpoint can't be read or do not fit each other.
    """
    model, config = models.load_model(folder, device)
    if config.data.dataset == "Synthetic":
        raise UserError(f"{folder}: a model of points, not of images")
    names, values = read_images(source, config)
    sigma, shape = config.noise, (config.data.channels, config.data.image_size, config.data.image_size)
    low, high = datasets.value_range(shape[0])
    cut_off = float(((values == low) | (values == high)).float().mean())
    if not clean and cut_off > CUT_OFF:
        log.warning(
            "%.0f %% of the values are at the ends of their range: if noise was cut off there the result is biased "
            "(give .npy files of floats), and if the images are clean, say --clean",
            100 * cut_off,
        )
    generator = torch.Generator().manual_seed(config.seed if seed is None else seed)
    noise = torch.randn(values.shape, generator=generator)
    noisy = (values + sigma * noise if clean else values).to(device)
    scores, curvatures = zip(*(model(part) for part in noisy.split(100)), strict=True)
    mean = losses.posterior_mean(torch.cat(scores), noisy, sigma)

    target.mkdir(parents=True, exist_ok=True)
    arrays = {"names": np.array(names), "mean": mean.unflatten(1, shape).cpu().numpy()}
    metrics: dict[str, float] = {"images": len(names)}
    if clean:
        metrics["mse"] = float((mean.cpu() - values).square().mean())
    _write(target, names, mean, config, "denoised")
    rows = {"clean": values} if clean else {}
    rows |= {"noisy": noisy, "denoised": mean}
    overview = image_rows({name: displayable(part[:SHOWN], shape) for name, part in rows.items()})
    if curvatures[0] is not None:
        found = posterior(torch.cat(scores), DiagonalPlusLowRank.cat(curvatures), noisy, sigma)
        std = found.std()
        arrays["std"] = std.unflatten(1, shape).cpu().numpy()
        metrics["predicted_mse"] = float(found.variance().mean())
        _write(target, names, std / std.max() * (high - low) + low, config, "std")
        components = min(COMPONENTS, config.rank) if found.covariance.factor is not None else 0
        if components:
            variances, directions = found.principal_components(components)
            arrays["variances"] = variances.cpu().numpy()
            arrays["directions"] = directions.mT.unflatten(2, shape).cpu().numpy()
            walk_figure(found, shape, components=components).savefig(target / "walks.png", dpi=120)
        overview = posterior_figure(found[:SHOWN], shape, values[:SHOWN] if clean else None, components)
    overview.savefig(target / "overview.png", dpi=120)
    np.savez_compressed(target / "posterior.npz", **arrays)
    log.info("%s; written: %s", ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()), target)
    return metrics


def _write(target: Path, names: list[str], values: Tensor, config: Config, what: str) -> None:
    for name, pixels in zip(names, to_pixels(values, config), strict=True):
        Image.fromarray(pixels).save(target / f"{name}_{what}.png")
