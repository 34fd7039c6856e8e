"""What a trained model says of a user's own images: `main.py --test --input`."""

import itertools
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import datasets
import evaluation
import inference
import models
from configs import Config, UserError
from datasets import ImageInputs
from inference import Posterior
from models import Networks, ScoreModel, Scores
from runners.collected import Collected, collected_in

__all__ = ["explain"]

log = logging.getLogger(__name__)

Shape = tuple[int, int, int]

BATCH = 100
SHOWN = 12
COMPONENTS = 3
CUT_OFF = 0.05
ESTIMATED = 1000


@torch.no_grad()
def explain(
    folder: Path,
    source: str | Path,
    target: Path,
    clean: bool = False,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    sigma: float | Literal["auto"] | None = None,
    resize: bool = False,
) -> dict[str, float]:
    """Denoises images and writes what else is known of them.

    Args:
        folder: the run folder of the model.
        source: a file or folder of images, `datasets.ImageInputs` says which.
        target: where the pictures go; it is made.
        clean: the images are clean: noise of the model's σ is added first.
        device: where to compute.
        seed: of that noise; by default that of the run.
        sigma: σ of the images, in the units of the data, or `"auto"` to estimate it from them; it can be left out for
            a model of one level.
        resize: make images of other sizes fit.

    Returns:
        the number of images; `mse`, the mean squared error, for clean ones; `predicted_mse`, the mean variance, of a
        second-order model, both in the squared units of the data.

    Writes, for each image, `NAME_denoised.png`, and with a second-order model `NAME_std.png` (white is the largest of
    all), and for all of them `posterior.npz` (names, mean, std, and variances and directions of the components) and
    `overview.png`; `walks.png` for the first one, where the model is low-rank.

    Whatever the number of images, memory holds a batch of them.

    Raises:
        UserError: where the images or the checkpoint can't be read or do not fit each other, the target can't be
            written, or a model of a range has no level to answer at.
    """
    model = models.load(folder, device)
    config = cast(Config, model.config)
    if len(model.shape) != 3:
        raise UserError(f"{folder}: a model of points, not of images")
    shape = datasets.picture_shape(source, model.shape)
    inputs = datasets.ImageInputs(source, shape, resize, model.values)
    _warn_of_values(inputs, clean)
    scores = _at_level(model, sigma, inputs, clean)
    components = min(COMPONENTS, config.rank) if config.model.head == "low_rank" else 0
    noise_seed = None if not clean else config.seed if seed is None else seed
    with collected_in(target) as collected:
        batches = answers(scores, inputs.batches(BATCH), components, noise_seed, model.device)
        metrics = _write_batches(target, inputs, batches, collected)
        arrays = collected.arrays()
        if "std" in arrays:
            _write_spreads(target, inputs, arrays["std"])
        np.savez_compressed(target / "posterior.npz", names=np.array(inputs.names), **arrays)
    log.info("%s; written: %s", ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()), target)
    return metrics


def _at_level(model: ScoreModel, sigma: float | Literal["auto"] | None, inputs: ImageInputs, clean: bool) -> Scores:
    """The scores at the noise level of the images."""
    low, high = model.sigmas
    if sigma is None and low != high:
        levels = f"the model has scores at σ from {low:g} to {high:g}"
        raise UserError(f"--noise is missing: {levels}; give that of your images, or auto")
    if sigma is None:
        return model.at(low, inputs.shape)
    if sigma == "auto":
        if clean:
            raise UserError("--noise auto: with --clean there is no noise yet to measure; give a number")
        parts = itertools.islice(inputs.batches(BATCH), ESTIMATED // BATCH)
        estimates = torch.cat([datasets.estimate_noise(part, inputs.shape) for part in parts])
        sigma = float(estimates.median())
        log.info("σ = %.3g, estimated from %d images: %.3g to %.3g", sigma, len(estimates), *estimates.aminmax())
    config = cast(Config, model.config)
    if "noise" not in config.model_fields_set and model.network is not None:  # the published program does not keep it
        network = cast(Networks, model.network)
        return models.score_model(network, config.model_copy(update={"noise": sigma}), inputs.shape).at(sigma)
    return model.at(sigma, inputs.shape)


def _warn_of_values(inputs: ImageInputs, clean: bool) -> None:
    if (doubt := inputs.values.doubt(clean)) is not None:
        log.warning("%s", doubt)
    if not clean and inputs.values.share_at_ends > CUT_OFF:
        log.warning(
            "%.0f %% of the values are at the ends of their range: if noise was cut off there the result is biased "
            "(give .npy files of floats), and if the images are clean, say --clean",
            100 * inputs.values.share_at_ends,
        )


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


def answers(
    scores: Scores, values: Iterable[Tensor], components: int, seed: int | None, device: torch.device
) -> Iterator[Answer]:
    """Evaluates scores at images, a batch at a time.

    Args:
        scores: of images, at one noise level.
        values: batches of the images, `(B, D)`.
        components: how many principal components, of a model that has them.
        seed: of the noise to add, where they are clean.
        device: where to compute.
    """
    generator = datasets.generator_of(seed)
    for part in values:
        if generator is None:
            yield _answer(scores, None, part.to(device), components)
        else:
            noise = scores.sigma * torch.randn(part.shape, generator=generator)
            yield _answer(scores, part, (part + noise).to(device), components)


def _answer(scores: Scores, clean: Tensor | None, noisy: Tensor, components: int) -> Answer:
    if scores.s2 is None:
        return Answer(clean, noisy, inference.posterior_mean(scores.s1(noisy), noisy, scores.sigma), None, None)
    posterior = inference.posterior(scores, noisy)
    top = posterior.principal_components(components) if components else None
    return Answer(clean, noisy, posterior.mean, posterior, top)


# --- writing ---


def _write_batches(
    target: Path, inputs: ImageInputs, batches: Iterable[Answer], collected: Collected
) -> dict[str, float]:
    """Writes the figures of the first batch and the denoised pictures of each; collects the arrays of them all, and
    returns the metrics."""
    count = clipped = 0
    sums: defaultdict[str, float] = defaultdict(float)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* are taken for that", RuntimeWarning)  # batch by batch: once below
        for answer in batches:
            if not count:
                _write_figures(target, answer, inputs)
            arrays = answer.arrays(inputs.shape)
            collected.add(arrays)
            names = inputs.names[count : count + len(answer.mean)]
            _write_pictures(target, names, arrays["mean"], "denoised", inputs.limits)
            count += len(answer.mean)
            if answer.clean is not None:
                sums["mse"] += float((answer.mean.cpu() - answer.clean).double().square().mean(1).sum())
            if answer.posterior is not None:
                sums["predicted_mse"] += float(np.square(arrays["std"], dtype=np.float64).mean((1, 2, 3)).sum())
                clipped += int(answer.posterior.clipped.sum())
    if clipped:
        log.warning("%d predicted variances are zero or negative, and were clipped", clipped)
    return {"images": count} | {name: value / count for name, value in sums.items()}


def _write_spreads(target: Path, inputs: ImageInputs, std: np.ndarray) -> None:
    """A picture of the standard deviation of each image, white the largest of all."""
    low, high = datasets.value_range(std.shape[1], inputs.limits)
    parts = [slice(first, first + BATCH) for first in range(0, len(std), BATCH)]
    largest = max(float(std[part].max()) for part in parts)
    for part in parts:
        _write_pictures(target, inputs.names[part], std[part] / largest * (high - low) + low, "std", inputs.limits)


def _write_figures(target: Path, answer: Answer, inputs: ImageInputs) -> None:
    """The overview of the first images, and the walks of the first one."""
    clean = None if answer.clean is None else answer.clean[:SHOWN]
    components = 0 if answer.components is None else answer.components[0].shape[1]
    if answer.posterior is None:
        rows = {} if clean is None else {"clean": clean}
        rows |= {"noisy": answer.noisy[:SHOWN], "denoised": answer.mean[:SHOWN]}
        pictures = {name: datasets.displayable(part, inputs.shape, inputs.limits) for name, part in rows.items()}
        overview = evaluation.image_rows(pictures)
    else:
        overview = evaluation.posterior_figure(answer.posterior[:SHOWN], inputs.shape, clean, components)
    overview.savefig(target / "overview.png", dpi=120)
    if answer.posterior is not None and components:
        walks = evaluation.walk_figure(answer.posterior[:1], inputs.shape, components=components)
        walks.savefig(target / "walks.png", dpi=120)


def _write_pictures(
    target: Path, names: list[str], images: np.ndarray, suffix: str, limits: datasets.Limits | None
) -> None:
    """A file for each of the images `(n, C, H, W)`, in the model's range."""
    values, shape = torch.from_numpy(images).flatten(1), cast(Shape, images.shape[1:])
    for name, pixels in zip(names, datasets.to_pixels(values, shape, limits), strict=True):
        Image.fromarray(pixels).save(target / f"{name}_{suffix}.png")
