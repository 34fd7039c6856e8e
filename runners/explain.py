"""What a model says of a user's own images: `main.py --test --input`."""

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
from torch import Tensor
from tqdm import tqdm

import datasets
import evaluation
import inference
import models
from configs import Config, UserError
from datasets import ImageInputs
from inference import Posterior
from inference.regions import region_of
from models import Networks, ScoreModel, Scores
from runners.collected import Collected, collected_in
from runners.own_images import (
    BATCH,
    ENTRIES,
    SHOWN,
    Shape,
    dots,
    model_of_images,
    own_images,
    write_pictures,
    write_spreads,
)

__all__ = ["explain"]

log = logging.getLogger(__name__)

Region = tuple[int, int, int, int]

COMPONENTS = 3
CUT_OFF = 0.05
ESTIMATED = 1000


@torch.no_grad()
def explain(
    model: ScoreModel | Path,
    source: str | Path,
    target: Path,
    clean: bool = False,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    sigma: float | Literal["auto"] | None = None,
    resize: bool = False,
    region: Region | None = None,
) -> dict[str, float]:
    """Denoises images and writes what else is known of them.

    Args:
        model: of images; or the run folder of one.
        source: a file or folder of images, `datasets.ImageInputs` says which; of several sizes, where the model takes
            any.
        target: where the pictures go; it is made.
        clean: the images are clean: noise of the model's σ is added first.
        device: where to compute.
        seed: of that noise; by default that of the run.
        sigma: σ of the images, in the units of the data, or `"auto"` to estimate it from them; it can be left out for
            a model of one level.
        resize: make images of other sizes fit.
        region: (top, left, height, width) in pixels, whose principal components are taken.

    Returns:
        the number of images; `mse`, the mean squared error, for clean ones; `predicted_mse`, the mean variance, where
        variances are known, both in the squared units of the data.

    Writes, for each image, `NAME_denoised.png` and, where variances are known, `NAME_std.png` (white is the largest of
    all); with a region `NAME_components.png` and `NAME_walks.png`, the posterior of that region and the walks along its
    components. For all of them `posterior.npz` (names, mean, std, and variances and directions of the components, of
    the region where there is one) and `overview.png`, and `walks.png` for the first one, where a low-rank model is
    asked about images of the size that it was trained on. Of images of several sizes each has its own of these files.

    Variances come from the second order. Without one they come from products with the Jacobian of s1, dozens an image,
    where the denoiser is somebody else's or a region is asked for.

    Whatever the number of images, memory holds a batch of them.

    Raises:
        UserError: where the images or the checkpoint can't be read or do not fit each other, the target can't be
            written, a model of a range has no level to answer at, or the region does not lie in an image.
    """
    model = model_of_images(model, device)
    groups = own_images(model, source, resize)
    questions = [_question(model, inputs, sigma, clean, region) for inputs in groups]
    noise_seed = None if not clean else (model.config or Config()).seed if seed is None else seed
    sums: defaultdict[str, float] = defaultdict(float)
    total = sum(map(len, groups))
    if any(question.spread and question.scores.s2 is None for question in questions):
        log.info("no second order: variances come from products with the Jacobian, minutes for a large picture")
    with tqdm(total=total, desc="images", disable=None, leave=False) as bar:
        for inputs, question in zip(groups, questions, strict=True):
            ending = "" if len(groups) == 1 else "_{1}x{2}".format(*inputs.shape)
            with collected_in(target) as collected:
                batches = answers(question, inputs.batches(question.batch), noise_seed, model.device)
                metrics = _write_batches(target, inputs, batches, collected, region, ending, bar)
                arrays = collected.arrays()
                if "std" in arrays:
                    write_spreads(target, inputs, arrays["std"])
                arrays |= {"names": np.array(inputs.names)} | ({} if region is None else {"region": np.array(region)})
                np.savez_compressed(target / f"posterior{ending}.npz", **arrays)
            for name, value in metrics.items():
                sums[name] += value * len(inputs) / total
    figures = {"images": total} | dict(sums)
    log.info("%s; written: %s", ", ".join(f"{name} {value:.5g}" for name, value in figures.items()), target)
    return figures


@dataclass(frozen=True)
class Question:
    """What is asked of images of one size.

    Attributes:
        scores: at their noise level.
        spread: whether variances are.
        components: how many principal components are.
        region: of these, or None for those of the whole image.
    """

    scores: Scores
    spread: bool
    components: int
    region: Region | None

    @property
    def batch(self) -> int:
        """How many images to take at a time: one, where its region has figures of its own."""
        entries = int(np.prod(cast(Shape, self.scores.shape)))
        return 1 if self.region is not None else max(1, min(BATCH, ENTRIES // entries))


def _question(
    model: ScoreModel,
    inputs: ImageInputs,
    sigma: float | Literal["auto"] | None,
    clean: bool,
    region: Region | None,
) -> Question:
    _warn_of_values(inputs, clean)
    low_rank = model.config is not None and model.config.model.head == "low_rank"
    components = 0
    if region is not None:
        try:
            box, _ = region_of(region, inputs.shape)
        except ValueError as error:
            raise UserError(f"--region {' '.join(map(str, region))}: {inputs.names[0]}: {error}") from error
        diagonal = model.config is not None and model.config.model.head == "diagonal"
        components = 0 if diagonal else min(COMPONENTS, inputs.shape[0] * box.height * box.width)
    elif low_rank and inputs.shape == model.shape:
        components = min(COMPONENTS, cast(Config, model.config).rank)
    scores = _at_level(model, sigma, inputs, clean)
    external = model.config is None or model.config.model.external
    return Question(scores, scores.s2 is not None or external or region is not None, components, region)


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
    config = model.config
    if config is not None and "noise" not in config.model_fields_set:  # the published program does not keep it
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
        posterior: where variances are asked for.
        region: the posterior of the region that is asked about, of a batch of one image.
        components: variances `(B, k)` and directions `(B, D, k)`, of the region where there is one.
    """

    clean: Tensor | None
    noisy: Tensor
    mean: Tensor
    posterior: Posterior | None = None
    region: Posterior | None = None
    components: tuple[Tensor, Tensor] | None = None

    def arrays(self, shape: Shape) -> dict[str, np.ndarray]:
        """What is kept of the batch: `mean` and `std` `(B, C, H, W)`, `variances` `(B, k)` and `directions`
        `(B, k, C, H, W)`, as far as the model has them."""
        kept = {"mean": self.mean.unflatten(1, shape)}
        if self.posterior is not None:
            kept["std"] = self.posterior.std().unflatten(1, shape)
        if self.components is not None:
            kept["variances"], directions = self.components
            part = shape if self.region is None else cast(Shape, self.region.scores.shape)
            kept["directions"] = directions.mT.unflatten(2, part)
        return {name: value.cpu().numpy() for name, value in kept.items()}


def answers(question: Question, values: Iterable[Tensor], seed: int | None, device: torch.device) -> Iterator[Answer]:
    """Evaluates scores at images, a batch at a time.

    Args:
        question: what is asked.
        values: batches of the images, `(B, D)`.
        seed: of the noise to add, where they are clean.
        device: where to compute.
    """
    generator = datasets.generator_of(seed)
    for part in values:
        if generator is None:
            yield _answer(question, None, part.to(device))
        else:
            noise = question.scores.sigma * torch.randn(part.shape, generator=generator)
            yield _answer(question, part, (part + noise).to(device))


def _answer(question: Question, clean: Tensor | None, noisy: Tensor) -> Answer:
    scores = question.scores
    if not question.spread:
        return Answer(clean, noisy, inference.posterior_mean(scores.s1(noisy), noisy, scores.sigma))
    posterior = inference.posterior(scores, noisy, progress=True)
    region = None if question.region is None else posterior.region(question.region)
    top = (region or posterior).principal_components(question.components) if question.components else None
    return Answer(clean, noisy, posterior.mean, posterior, region, top)


# --- writing ---


def _write_batches(
    target: Path,
    inputs: ImageInputs,
    batches: Iterable[Answer],
    collected: Collected,
    region: Region | None,
    ending: str,
    bar: tqdm,
) -> dict[str, float]:
    """Writes the figures of the first batch, and the denoised pictures and the region of each; collects the arrays of
    them all, and returns the metrics."""
    count = clipped = 0
    sums: defaultdict[str, float] = defaultdict(float)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* are taken for that", RuntimeWarning)  # batch by batch: once below
        for answer in batches:
            if not count:
                _write_figures(target, answer, inputs, ending)
            arrays = answer.arrays(inputs.shape)
            collected.add(arrays)
            names = inputs.names[count : count + len(answer.mean)]
            if region is not None:
                _write_region(target, names[0], answer, region, inputs.shape)
            bar.update(len(names))
            write_pictures(target, names, arrays["mean"], "denoised", inputs.limits)
            count += len(answer.mean)
            if answer.clean is not None:
                sums["mse"] += float((answer.mean.cpu() - answer.clean).double().square().mean(1).sum())
            if answer.posterior is not None:
                sums["predicted_mse"] += float(np.square(arrays["std"], dtype=np.float64).mean((1, 2, 3)).sum())
                clipped += int(answer.posterior.clipped.sum())
    if clipped:
        log.warning("%d predicted variances are zero or negative, and were clipped", clipped)
    return {name: value / count for name, value in sums.items()}


def _write_figures(target: Path, answer: Answer, inputs: ImageInputs, ending: str) -> None:
    """The overview of the first images, and the walks of the first one."""
    clean = None if answer.clean is None else answer.clean[:SHOWN]
    components = answer.components if answer.region is None else None
    if answer.posterior is None:
        rows = {} if clean is None else {"clean": clean}
        rows |= {"noisy": answer.noisy[:SHOWN], "denoised": answer.mean[:SHOWN]}
        pictures = {name: datasets.displayable(part, inputs.shape, inputs.limits) for name, part in rows.items()}
        overview = evaluation.image_rows(pictures)
    else:
        first = None if components is None else (components[0][:SHOWN], components[1][:SHOWN])
        overview = evaluation.posterior_figure(answer.posterior[:SHOWN], inputs.shape, clean, first or 0)
    overview.savefig(target / f"overview{ending}.png", dpi=dots(inputs.shape))
    if answer.posterior is not None and components is not None:
        walks = evaluation.walk_figure(answer.posterior[:1], inputs.shape, components=components)
        walks.savefig(target / f"walks{ending}.png", dpi=dots(inputs.shape))


def _write_region(target: Path, name: str, answer: Answer, region: Region, shape: Shape) -> None:
    """The posterior of a region of one image, and the walks along its components."""
    posterior = cast(Posterior, answer.region)
    top, left, height, width = region
    clean = None
    if answer.clean is not None:
        image = answer.clean.unflatten(1, shape)
        clean = image[:, :, top : top + height, left : left + width].flatten(1)
    part = (shape[0], height, width)
    figure = evaluation.posterior_figure(posterior, part, clean, answer.components or 0)
    figure.savefig(target / f"{name}_components.png", dpi=dots(part))
    if answer.components is not None:
        walks = evaluation.walk_figure(posterior, part, components=answer.components)
        walks.savefig(target / f"{name}_walks.png", dpi=dots(part))
