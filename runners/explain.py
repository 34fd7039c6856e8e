"""What a trained model says of a user's own images: `main.py --test --input`."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import datasets
import evaluation
import inference
import models
from configs import Config, UserError
from inference import Posterior
from models import ScoreModel, Scores

__all__ = ["explain"]

log = logging.getLogger(__name__)

Shape = tuple[int, int, int]

BATCH = 100
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
        source: a file or folder of images, `datasets.read_images` says which.
        target: where the pictures go; it is made.
        clean: the images are clean: noise of the model's σ is added first.
        device: where to compute.
        seed: of that noise; by default that of the run.

    Returns:
        the number of images; `mse`, the mean squared error, for clean ones; `predicted_mse`, the mean variance, of a
        second-order model, both in the squared units of the data.

    Writes, for each image, `NAME_denoised.png`, and with a second-order model `NAME_std.png` (white is the largest of
    all), and for all of them `posterior.npz` (names, mean, std, and variances and directions of the components) and
    `overview.png`; `walks.png` for the first one, where the model is low-rank.

    Raises:
        UserError: where the images or the checkpoint can't be read or do not fit each other.
    """
    model = models.load(folder, device)
    config = cast(Config, model.config)
    if len(model.shape) != 3:
        raise UserError(f"{folder}: a model of points, not of images")
    shape = model.shape
    names, values = datasets.read_images(source, shape)
    if not clean:
        _warn_of_cut_off_noise(values, shape)
    components = min(COMPONENTS, config.rank) if config.model.head == "low_rank" else 0
    noise_seed = None if not clean else config.seed if seed is None else seed
    target.mkdir(parents=True, exist_ok=True)
    arrays = _write_batches(target, names, shape, answers(model, values, components, noise_seed))
    if "std" in arrays:
        low, high = datasets.value_range(shape[0])
        _write_pictures(target, names, arrays["std"] / arrays["std"].max() * (high - low) + low, "std")
    np.savez_compressed(target / "posterior.npz", names=np.array(names), **arrays)
    metrics = _metrics(arrays, values if clean else None)
    log.info("%s; written: %s", ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()), target)
    return metrics


# --- computing ---


@dataclass(frozen=True)
class Answer:
    """What a model says of a batch of images.

    Attributes:
        clean: x, `(B, D)`, where it is known.
        noisy: x̃, `(B, D)`.
        mean: E[x|x̃], `(B, D)`.
        posterior: of a second-order model.
        components: variances `(B, k)` and directions `(B, D, k)`, of a low-rank one.
    """

    clean: Tensor | None
    noisy: Tensor
    mean: Tensor
    posterior: Posterior | None
    components: tuple[Tensor, Tensor] | None

    def arrays(self, shape: Shape) -> dict[str, np.ndarray]:
        """What is kept of the batch: `mean` and `std` `(B, C, H, W)`, `variances` `(B, k)` and `directions`
        `(B, k, C, H, W)`, as far as the model has them."""
        kept = {"mean": self.mean.unflatten(1, shape)}
        if self.posterior is not None:
            kept["std"] = self.posterior.std().unflatten(1, shape)
        if self.components is not None:
            kept["variances"], directions = self.components
            kept["directions"] = directions.mT.unflatten(2, shape)
        return {name: value.cpu().numpy() for name, value in kept.items()}


def answers(model: ScoreModel, values: Tensor, components: int, seed: int | None = None) -> Iterator[Answer]:
    """Evaluates a model at images, a batch at a time, so that memory does not grow with their number.

    Args:
        model: of images.
        values: the images, `(N, D)`.
        components: how many principal components, of a model that has them.
        seed: of the noise to add, where they are clean.
    """
    scores = model.at(model.sigmas[0])
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for part in values.split(BATCH):
        if generator is None:
            yield _answer(scores, None, part.to(model.device), components)
        else:
            noise = scores.sigma * torch.randn(part.shape, generator=generator)
            yield _answer(scores, part, (part + noise).to(model.device), components)


def _answer(scores: Scores, clean: Tensor | None, noisy: Tensor, components: int) -> Answer:
    if scores.s2 is None:
        return Answer(clean, noisy, inference.posterior_mean(scores.s1(noisy), noisy, scores.sigma), None, None)
    posterior = inference.posterior(scores, noisy)
    top = posterior.principal_components(components) if components else None
    return Answer(clean, noisy, posterior.mean, posterior, top)


def _metrics(arrays: dict[str, np.ndarray], clean: Tensor | None) -> dict[str, float]:
    metrics: dict[str, float] = {"images": len(arrays["mean"])}
    if clean is not None:
        metrics["mse"] = float((torch.from_numpy(arrays["mean"]).flatten(1) - clean).square().mean())
    if "std" in arrays:
        metrics["predicted_mse"] = float(torch.from_numpy(arrays["std"]).square().mean())
    return metrics


def _warn_of_cut_off_noise(values: Tensor, shape: Shape) -> None:
    low, high = datasets.value_range(shape[0])
    cut_off = float(((values == low) | (values == high)).float().mean())
    if cut_off > CUT_OFF:
        log.warning(
            "%.0f %% of the values are at the ends of their range: if noise was cut off there the result is biased "
            "(give .npy files of floats), and if the images are clean, say --clean",
            100 * cut_off,
        )


# --- writing ---


def _write_batches(target: Path, names: list[str], shape: Shape, batches: Iterable[Answer]) -> dict[str, Any]:
    """Writes the figures of the first batch and the denoised pictures of each; returns the arrays of them all."""
    parts: list[dict[str, np.ndarray]] = []
    clipped = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* are taken for that", RuntimeWarning)  # batch by batch: once below
        for answer in batches:
            if not parts:
                _write_figures(target, answer, shape)
            first = BATCH * len(parts)
            parts.append(answer.arrays(shape))
            _write_pictures(target, names[first : first + BATCH], parts[-1]["mean"], "denoised")
            clipped += 0 if answer.posterior is None else int(answer.posterior.clipped.sum())
    if clipped:
        log.warning("%d predicted variances are zero or negative, and were clipped", clipped)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _write_figures(target: Path, answer: Answer, shape: Shape) -> None:
    """The overview of the first images, and the walks of the first one."""
    clean = None if answer.clean is None else answer.clean[:SHOWN]
    components = 0 if answer.components is None else answer.components[0].shape[1]
    if answer.posterior is None:
        rows = {} if clean is None else {"clean": clean}
        rows |= {"noisy": answer.noisy[:SHOWN], "denoised": answer.mean[:SHOWN]}
        overview = evaluation.image_rows({name: datasets.displayable(part, shape) for name, part in rows.items()})
    else:
        overview = evaluation.posterior_figure(answer.posterior[:SHOWN], shape, clean, components)
    overview.savefig(target / "overview.png", dpi=120)
    if answer.posterior is not None and components:
        walks = evaluation.walk_figure(answer.posterior[:1], shape, components=components)
        walks.savefig(target / "walks.png", dpi=120)


def _write_pictures(target: Path, names: list[str], images: np.ndarray, suffix: str) -> None:
    """A file for each of the images `(n, C, H, W)`, in the model's range."""
    values, shape = torch.from_numpy(images).flatten(1), cast(Shape, images.shape[1:])
    for name, pixels in zip(names, datasets.to_pixels(values, shape), strict=True):
        Image.fromarray(pixels).save(target / f"{name}_{suffix}.png")
