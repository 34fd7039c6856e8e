"""Pictures that a measurement `y = A x + n` leaves possible: `main.py --test --input --measure`."""

import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import datasets
import evaluation
import inference
from configs import Config, UserError
from datasets import ImageInputs
from datasets.pictures import cover, open_picture
from inference import GaussianPrior, guidance
from inference.operators import Blur, Downsample, Mask, Operator
from models import ScoreModel
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

__all__ = ["measure"]

log = logging.getLogger(__name__)

SAMPLES = 8
SHOWN_SAMPLES = 3
FORMS = "a mask picture, blur:σ or down:F is expected"
CORRECTED_UP_TO = 1024  # entries of a picture up to which a corrector takes no minutes
WHITE = 128  # of a mask's 256 grey levels, the darkest that counts as white


@torch.no_grad()
def measure(
    model: ScoreModel | Path,
    source: str | Path,
    target: Path,
    how: str,
    sigma_y: float,
    clean: bool = False,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    resize: bool = False,
) -> dict[str, float]:
    """Draws pictures given measurements of them, and writes what they have in common and where they differ.

    Args:
        model: of images, for a range of noise levels; or the run folder of one.
        source: a file or folder of measurements as pictures, `datasets.ImageInputs` says which; of several sizes, where
            the model takes any.
        target: where the pictures go; it is made.
        how: what is measured. The path of a mask: the pixels that are white in it, and the others of `source` do not
            count. `blur:σ`: a Gaussian of σ pixels has blurred the picture. `down:F`: blocks of F×F pixels have become
            one.
        sigma_y: standard deviation of the noise of the measurements, in the units of the data.
        clean: `source` has clean pictures: they are measured first.
        device: where to compute.
        seed: of all noise; by default that of the run.
        resize: make clean pictures of other sizes, and the mask, fit.

    Returns:
        the number of images; `predicted_mse`, the mean variance of the samples; for clean ones `mse`, the mean squared
        error of their mean. Both in the squared units of the data.

    Writes, for each image, `NAME_measured.png`, `NAME_mean.png`, `NAME_std.png` (white is the largest of all) and
    `NAME_sample_0.png` to `NAME_sample_7.png`; for all of them `measured.npz` (names, mean, std, samples) and
    `overview.png`. Of images of several sizes each has its own of these two.

    Where a model does not know the mean and the spread of its data, values are taken to be spread evenly from black to
    white before anything is measured. Without a second order, for which products with the Jacobian of s1 would take
    minutes, pseudo-inverse guidance stands for the Kalman update (`inference.guidance.pigdm_step`).

    Raises:
        UserError: where the images, the mask or the checkpoint can't be read or do not fit each other, the model is of
            one noise level, `how` is none of these, a sample diverges, or the target can't be written.
    """
    measurement = _measurement(how, resize)
    model = model_of_images(model, device)
    low, high = model.sigmas
    if low == high:
        raise UserError(f"--measure: the model has scores at σ = {low:g} alone; one of a range of levels is expected")
    problems = _problems(model, source, measurement, clean, resize)
    seed = (model.config or Config()).seed if seed is None else seed
    answers = partial(_answers, model, sigma_y, clean, datasets.generator_of(seed), _seeds(seed))
    sums: defaultdict[str, float] = defaultdict(float)
    total = sum(len(problem.inputs) for problem in problems)
    with tqdm(total=total, desc="images", disable=None, leave=False) as bar:
        for problem in problems:
            ending = "" if len(problems) == 1 else "_{1}x{2}".format(*problem.shape)
            with collected_in(target) as collected:
                for name, value in _write_batches(target, problem, answers(problem), collected, ending, bar).items():
                    sums[name] += value / total
                arrays = collected.arrays()
                write_spreads(target, problem.inputs, arrays["std"])
                np.savez_compressed(target / f"measured{ending}.npz", names=np.array(problem.inputs.names), **arrays)
    figures = {"images": total} | dict(sums)
    log.info("%s; written: %s", ", ".join(f"{name} {value:.5g}" for name, value in figures.items()), target)
    return figures


# --- what is measured ---


@dataclass(frozen=True)
class Measurement:
    """What `--measure` says.

    Attributes:
        text: in these words.
        make: from the shape of an image to its operator; a `ValueError` where there is none.
        factor: how many times smaller a measurement is.
    """

    text: str
    make: Callable[[Shape], Operator]
    factor: int = 1

    def operator(self, shape: Shape) -> Operator:
        """A for images `(C, H, W)`.

        Raises:
            UserError: where such images cannot be measured so.
        """
        try:
            return self.make(shape)
        except ValueError as error:
            raise UserError(f"--measure {self.text}: {error}") from error


def _measurement(text: str, resize: bool) -> Measurement:
    kind, _, number = text.partition(":")
    try:
        if kind == "blur":
            return Measurement(text, partial(Blur, float(number)))
        if kind == "down" and int(number) > 0:
            return Measurement(text, partial(Downsample, int(number)), int(number))
    except ValueError:
        pass
    if not Path(text).is_file():
        raise UserError(f"--measure {text}: {FORMS}")
    picture = open_picture(text, channels=1)

    def of_shape(shape: Shape) -> Mask:
        fitting = cover(picture, *shape[1:]) if resize else picture
        white = np.array(fitting) >= WHITE
        if white.shape != shape[1:]:
            sizes = "{}×{} pixels; {}×{} are expected".format(*white.shape, *shape[1:])
            raise ValueError(f"a mask of {sizes}, as the images have")
        if not white.any():
            raise ValueError("no pixel is white; those that are measured are expected to be")
        return Mask(white, shape)

    return Measurement(text, of_shape)


@dataclass(frozen=True)
class Problem:
    """Pictures of one size that are asked for.

    Attributes:
        inputs: their measurements, or themselves.
        shape: theirs, `(C, H, W)`.
        operator: A.
        prior: what is known of them before, where the model does not know it.
    """

    inputs: ImageInputs
    shape: Shape
    operator: Operator
    prior: GaussianPrior | None


def _problems(
    model: ScoreModel, source: str | Path, measurement: Measurement, clean: bool, resize: bool
) -> list[Problem]:
    factor = 1 if clean else measurement.factor
    if not model.any_size:
        measurement.operator(cast(Shape, model.shape))
    try:
        groups = own_images(model, source, resize, factor)
    except UserError as error:  # a measurement of another size is of another picture
        if clean:
            raise
        raise UserError(str(error).removesuffix("; --resize makes them so")) from error
    problems = []
    for inputs in groups:
        if (doubt := inputs.values.doubt(clean)) is not None:
            log.warning("%s", doubt)
        channels, height, width = inputs.shape
        shape = channels, height * factor, width * factor
        model.at(model.sigmas[1], shape)
        problems.append(Problem(inputs, shape, measurement.operator(shape), _prior(model, shape)))
    return problems


def _prior(model: ScoreModel, shape: Shape) -> GaussianPrior | None:
    """None where the model knows the mean and the spread of its data."""
    data = None if model.config is None else model.config.data
    if data is not None and data.mean is not None and data.std is not None:
        return None
    low, high = datasets.value_range(shape[0], model.values)
    return GaussianPrior.isotropic((low + high) / 2, (high - low) / math.sqrt(12), math.prod(shape))


def _std(model: ScoreModel, problem: Problem) -> float:
    """Of the values of clean pictures."""
    if problem.prior is not None:
        return problem.prior.rest**0.5
    return cast(float, cast(Config, model.config).data.std)


# --- computing ---


@dataclass(frozen=True)
class Answer:
    """What a batch of measurements leaves possible.

    Attributes:
        clean: x, `(B, D)`, where it is known.
        measured: y, `(B, m)`.
        samples: `(B, SAMPLES, D)`.
    """

    clean: Tensor | None
    measured: Tensor
    samples: Tensor

    def arrays(self, shape: Shape) -> dict[str, np.ndarray]:
        """What is kept of it: `mean` and `std` `(B, C, H, W)`, `samples` `(B, SAMPLES, C, H, W)`."""
        samples = self.samples.unflatten(2, shape)
        return {"mean": samples.mean(1).numpy(), "std": samples.std(1).numpy(), "samples": samples.numpy()}


def _seeds(seed: int) -> Iterator[int]:
    """One for each batch."""
    return (datasets.derived_seed(seed, number) for number in itertools.count())


def _answers(
    model: ScoreModel,
    sigma_y: float,
    clean: bool,
    noise: torch.Generator,
    seeds: Iterator[int],
    problem: Problem,
) -> Iterator[Answer]:
    """A batch at a time.

    Args:
        model: of images.
        sigma_y: standard deviation of the noise of the measurements.
        clean: whether they are still to be made.
        noise: random numbers for that.
        seeds: of the samples of each batch.
        problem: what is asked.
    """
    operator = problem.operator
    first_order = model.at(model.sigmas[0], problem.shape).s2 is None
    step = partial(guidance.pigdm_step, std=_std(model, problem)) if first_order else inference.kalman_step
    size = max(1, min(BATCH, ENTRIES // math.prod(problem.shape)) // SAMPLES)
    for values in problem.inputs.batches(size):
        measured = operator(values) if clean or isinstance(operator, Mask) else values
        if clean:
            measured = measured + sigma_y * torch.randn(measured.shape, generator=noise)
        try:
            samples = inference.conditional(
                model.sized(problem.shape),
                measured.repeat_interleave(SAMPLES, dim=0),
                operator,
                sigma_y,
                step=step,
                corrector=not first_order and math.prod(problem.shape) <= CORRECTED_UP_TO,
                seed=next(seeds),
                prior=problem.prior,
            )
        except inference.DivergedError as error:
            raise UserError(f"--measure: {error}; a larger --noise may do") from error
        yield Answer(values if clean else None, measured, samples.cpu().unflatten(0, (-1, SAMPLES)))


# --- writing ---


def _write_batches(
    target: Path, problem: Problem, answers: Iterator[Answer], collected: Collected, ending: str, bar: tqdm
) -> dict[str, float]:
    """Writes the overview of the first batch and the pictures of each; collects the arrays of them all, and returns the
    metrics, summed over the images."""
    count, inputs = 0, problem.inputs
    sums: defaultdict[str, float] = defaultdict(float)
    for answer in answers:
        arrays, measured = answer.arrays(problem.shape), _as_pictures(problem, answer.measured)
        if not count:
            _write_overview(target / f"overview{ending}.png", problem, answer, arrays, measured)
        collected.add(arrays)
        names = inputs.names[count : count + len(measured)]
        count += len(names)
        bar.update(len(names))
        write_pictures(target, names, measured.numpy(), "measured", inputs.limits)
        write_pictures(target, names, arrays["mean"], "mean", inputs.limits)
        for number in range(SAMPLES):
            write_pictures(target, names, arrays["samples"][:, number], f"sample_{number}", inputs.limits)
        sums["predicted_mse"] += float(np.square(arrays["std"], dtype=np.float64).mean((1, 2, 3)).sum())
        if answer.clean is not None:
            sums["mse"] += float((answer.samples.mean(1) - answer.clean).double().square().mean(1).sum())
    return sums


def _as_pictures(problem: Problem, measured: Tensor) -> Tensor:
    """Measurements as pictures `(B, C, h, w)` in the range of the model, black where a mask is."""
    if not isinstance(problem.operator, Mask):
        return measured.unflatten(1, problem.operator.measured_shape)
    black, _ = datasets.value_range(problem.shape[0], problem.inputs.limits)
    return (black + problem.operator.transposed(measured - black)).unflatten(1, problem.shape)


def _write_overview(
    path: Path, problem: Problem, answer: Answer, arrays: dict[str, np.ndarray], measured: Tensor
) -> None:
    """A column for each of the first images."""

    def shown(values: Tensor) -> Tensor:
        return datasets.displayable(values[:SHOWN].flatten(1), problem.shape, problem.inputs.limits)

    factor = problem.shape[1] // measured.shape[2]
    rows = {} if answer.clean is None else {"clean": shown(answer.clean)}
    rows["measured"] = shown(measured.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
    rows["mean"] = shown(torch.from_numpy(arrays["mean"]))
    rows["std"] = torch.from_numpy(arrays["std"][:SHOWN]).mean(1, keepdim=True)
    rows |= {f"sample {number}": shown(answer.samples[:, number]) for number in range(SHOWN_SAMPLES)}
    figure = evaluation.image_rows(rows, scales={"std": ("magma", 0.0, float(rows["std"].max()))})
    figure.savefig(path, dpi=dots(problem.shape))
