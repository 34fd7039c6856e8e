"""Answers to measurements, by several methods on one model: `python -m experiments.measurements`.

Ours, a Kalman update in every reverse step, with the whole posterior covariance, with its diagonal, and with a
corrector at every level; and what backpropagates through the denoiser, DPS, ΠGDM and TMPD. On mixtures of Gaussians,
how far samples are from exact ones; on images, in-painting of a half, down-sampling and a blur: the error of the mean,
whether the spread of the samples is right, and the time, for as many calls of the network and for as much time.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import datasets
import evaluation
import inference
from configs import UserError
from datasets import GaussianMixture
from experiments.harness import (
    OpenedImages,
    argument_parser,
    number_from_zero,
    open_images,
    print_progress,
    run,
    save_figure,
    save_table,
    table,
    whole_number,
)
from inference import GaussianPrior, guidance, operators
from inference.levels import HasScores, geometric
from inference.operators import Operator
from runners import distributed

__all__ = ["METHODS", "of_images", "of_mixtures"]

SIGMA_Y = 0.05
CALLS = (5, 10, 20, 50)
COMPONENTS, DIMENSION, MEASURED, SPREAD = 6, 8, 2, 0.1
MIXTURES = {"mixtures_near": 1.0, "mixtures_apart": 2.0}  # standard deviation of their means; of a component, 0.75
WEIGHTS = (0.1, 0.3, 1.0, 3.0)  # of DPS; the best is taken, on other images than those that are shown
TUNED = 3
SHOWN = 4
SMALL = 1024
INTERVAL = 1.6449  # standard deviations of the central interval of 90 %
OURS, CORRECTED = "ours", "ours, with corrector"


@dataclass(frozen=True)
class Problem:
    """A measurement to be answered.

    Attributes:
        model: with scores at all levels.
        y: `(B, m)`.
        operator: A.
        sigma_y: of its noise.
        sigmas: the lowest and the highest level.
        prior: of the clean points, or None.
        std: of the data, for ΠGDM.
        weight: of DPS.
    """

    model: HasScores
    y: Tensor
    operator: Operator
    sigma_y: float
    sigmas: tuple[float, float]
    prior: GaussianPrior | None = None
    std: float = 1.0
    weight: float = 1.0

    def answered(self, levels: int, step: Callable, corrector: bool = False, seed: int = 0) -> Tensor:
        return inference.conditional(
            self.model,
            self.y,
            self.operator,
            self.sigma_y,
            steps=geometric(*self.sigmas, levels),
            step=step,
            corrector=corrector,
            prior=self.prior,
            seed=seed,
        )


def by_ours(problem: Problem, calls: int) -> Tensor:
    return problem.answered(calls, inference.kalman_step)


def by_corrected(problem: Problem, calls: int) -> Tensor:
    """A corrector calls the network once more at each level but the first."""
    return problem.answered((calls + 1) // 2, inference.kalman_step, corrector=True)


def by_diagonal(problem: Problem, calls: int) -> Tensor:
    return problem.answered(calls, partial(inference.kalman_step, covariance=inference.diagonal_covariance))


def by_dps(problem: Problem, calls: int) -> Tensor:
    return problem.answered(calls, partial(guidance.dps_step, weight=problem.weight))


def by_pigdm(problem: Problem, calls: int) -> Tensor:
    return problem.answered(calls, partial(guidance.pigdm_step, std=problem.std))


def by_tmpd(problem: Problem, calls: int) -> Tensor:
    return problem.answered(calls, guidance.tmpd_step)


METHODS: dict[str, Callable[[Problem, int], Tensor]] = {
    OURS: by_ours,
    CORRECTED: by_corrected,
    "ours, diagonal alone": by_diagonal,
    "DPS": by_dps,
    "ΠGDM": by_pigdm,
    "TMPD": by_tmpd,
}
"""From a problem and a number of calls of the network to a sample for each row of y, `(B, D)`."""


# --- mixtures ---


def mixture(seed: int, scale: float) -> tuple[GaussianMixture, Tensor, Tensor]:
    """A mixture whose means have the standard deviation `scale`, a matrix `(m, D)` and a measurement `(1, m)`."""
    generator = datasets.generator_of(seed)
    options: dict = {"generator": generator, "dtype": torch.float64}
    means = scale * torch.randn(COMPONENTS, DIMENSION, **options)
    roots = torch.randn(COMPONENTS, DIMENSION, DIMENSION, **options)
    covariances = 0.5 * roots @ roots.mT / DIMENSION + 0.05 * torch.eye(DIMENSION, dtype=torch.float64)
    density = GaussianMixture(torch.ones(COMPONENTS), means, covariances)
    matrix = torch.randn(MEASURED, DIMENSION, **options) / DIMENSION**0.5
    x = density.sample(1, generator).double()
    return density, matrix, x @ matrix.T + SPREAD * torch.randn(1, MEASURED, **options)


def exact_samples(density: GaussianMixture, matrix: Tensor, y: Tensor, count: int, seed: int) -> Tensor:
    """Of the clean points given y, `(count, D)`: a mixture again, of the components' own posteriors."""
    noise = SPREAD**2 * torch.eye(len(matrix), dtype=torch.float64)
    innovation = matrix @ density.covariances @ matrix.T + noise
    gain = density.covariances @ matrix.T @ torch.linalg.inv(innovation)
    offset = y - density.means @ matrix.T
    likelihood = torch.distributions.MultivariateNormal(torch.zeros(len(matrix), dtype=torch.float64), innovation)
    weights = (density.weights.log() + likelihood.log_prob(offset)).softmax(0)
    means = density.means + (gain @ offset[:, :, None])[:, :, 0]
    covariances = density.covariances - gain @ matrix @ density.covariances
    given = GaussianMixture(weights.clamp(min=1e-300), means, (covariances + covariances.mT) / 2)
    return given.sample(count, datasets.generator_of(seed)).double()


def of_mixtures(calls: Sequence[int], count: int, seeds: int, scale: float) -> list[dict]:
    """A row for each method and number of calls: `distance`, sliced Wasserstein, to exact samples, in the mean over
    `seeds` mixtures; DPS at its best weight."""
    found: dict[tuple[str, int | None], list[float]] = {}
    for seed in range(seeds):
        density, matrix, y = mixture(seed, scale)
        truth, other = (exact_samples(density, matrix, y, count, number) for number in (1, 2))
        found.setdefault(("exact", None), []).append(evaluation.sliced_wasserstein(other, truth))
        rows = y.expand(count, -1)
        problem = Problem(density, rows, operators.Dense(matrix), SPREAD, inference.priors.noise_range(density))
        for number in calls:
            for name, method in METHODS.items():
                weights = WEIGHTS if method is by_dps else (1.0,)
                tried = [
                    evaluation.sliced_wasserstein(method(replace(problem, weight=weight), number), truth)
                    for weight in weights
                ]
                found.setdefault((name, number), []).append(min(tried))
    return [
        {"calls": number, "method": name, "images": seeds, "distance": sum(values) / len(values)}
        for (name, number), values in found.items()
    ]


# --- images ---


def tasks(shape: tuple[int, int, int]) -> dict[str, Operator]:
    _, height, width = shape
    half = torch.ones(height, width, dtype=torch.bool)
    half[:, width // 2 :] = False
    return {
        "a half": operators.Mask(half, shape),
        "down 4×": operators.Downsample(4, shape),
        "blur": operators.Blur(1.5, shape),
    }


def of_images(opened: OpenedImages, calls: int, samples: int) -> tuple[list[dict], dict[str, dict[str, Tensor]]]:
    """A row for each task and method, at equal `calls` and, for the others, at the time that ours takes (a corrector
    is left out of more than 1024 entries, where it takes minutes): `psnr` in dB of the mean of the samples,
    `coverage_90`, the share of entries in the central interval of the samples' mean and standard deviation,
    `milliseconds` a sample.

    Args:
        opened: the model, its test images, and others for the prior and the weight of DPS.
        calls: of the network for a sample.
        samples: for each image.

    Returns:
        the rows; and by task and method the samples of the first images, to look at.
    """
    rows: list[dict] = []
    shown: dict[str, dict[str, Tensor]] = {}
    model, x, tuning = opened.model, opened.test, opened.train[:TUNED]
    prior, width = GaussianPrior.fitted(opened.train), opened.limits[1] - opened.limits[0]
    assert model.config is not None  # what is loaded from a folder has one
    assert model.config.data.std is not None  # measured when the run was made
    std = model.config.data.std
    for task, operator in tasks(opened.shape).items():
        generator = datasets.generator_of(0)

        def problem_of(clean: Tensor, operator: Operator = operator, generator: torch.Generator = generator) -> Problem:
            y = operator(clean)
            y = y + SIGMA_Y * torch.randn(y.shape, generator=generator).to(y)
            return Problem(model, y.repeat_interleave(samples, 0), operator, SIGMA_Y, model.sigmas, prior, std)

        tuned = problem_of(tuning)
        quality = {w: measured(by_dps, replace(tuned, weight=w), calls, tuning, width)[0]["psnr"] for w in WEIGHTS}
        problem = replace(problem_of(x), weight=max(quality, key=lambda weight: quality[weight]))
        own, shown[task] = {}, {"clean": x[:SHOWN, None]}
        methods = {name: method for name, method in METHODS.items() if name != CORRECTED or x.shape[1] <= SMALL}
        for name, method in methods.items():
            own[name], drawn = measured(method, problem, calls, x, width)
            shown[task][name] = drawn[:SHOWN]
            rows.append({"task": task, "budget": "calls", "calls": calls, "method": name} | own[name])
            print_progress(rows[-1])
        for name, method in methods.items():
            affordable = max(2, round(calls * own[OURS]["milliseconds"] / own[name]["milliseconds"]))
            if affordable != calls:
                values, _ = measured(method, problem, affordable, x, width)
                rows.append({"task": task, "budget": "time", "calls": affordable, "method": name} | values)
                print_progress(rows[-1])
    return rows, shown


def measured(
    method: Callable[[Problem, int], Tensor], problem: Problem, calls: int, x: Tensor, width: float
) -> tuple[dict, Tensor]:
    """What an answer is worth, and the samples `(B, samples, D)`; nothing where it diverged."""
    start = time.perf_counter()
    try:
        drawn = method(problem, calls).view(len(x), -1, x.shape[1])
    except inference.DivergedError:
        failed = {"images": len(x), "psnr": -math.inf, "coverage_90": None, "milliseconds": math.inf}
        return failed, x[:, None]
    seconds = time.perf_counter() - start
    mean, count = drawn.mean(1), drawn.shape[1]
    spread = INTERVAL * drawn.std(1) * (1 + 1 / count) ** 0.5
    values = {
        "images": len(x),
        "psnr": 10 * math.log10(width**2 / float((mean - x).square().mean())),
        "coverage_90": float(((x - mean).abs() <= spread).float().mean()),
        "milliseconds": 1e3 * seconds / (len(x) * count),
    }
    return values, drawn


def figure(shown: dict[str, dict[str, Tensor]], shape: tuple[int, int, int], limits: datasets.Limits) -> Figure:
    """A sample of each method, a row each, the tasks beside each other."""
    rows = {}
    for name in next(iter(shown.values())):
        first = torch.cat([part[name][:, 0] for part in shown.values()])
        rows[name] = datasets.displayable(first, shape, limits)
    return evaluation.image_rows(rows)


def summarise(rows: list[dict]) -> str:
    columns = {"data": "{}", "task": "{}", "budget": "{}", "calls": "{:d}", "method": "{}", "images": "{:d}"}
    columns |= {"distance": "{:.3f}", "psnr": "{:.2f}", "coverage_90": "{:.3f}", "milliseconds": "{:.0f}"}
    return table(rows, columns)


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.measurements", __doc__, device=None)
    parser.add_argument(
        "--models", type=Path, nargs="*", default=[Path("checkpoints/mnist"), Path("checkpoints/cifar10")]
    )
    parser.add_argument("--images", type=whole_number, default=8, help="test images of each")
    parser.add_argument("--samples", type=whole_number, default=8, help="for each image")
    parser.add_argument("--calls", type=whole_number, default=20, help="of the network for a sample")
    parser.add_argument("--points", type=whole_number, default=2000, help="samples of each mixture")
    parser.add_argument("--mixtures", type=number_from_zero, default=6, help="how many; 0 for images alone")
    args = parser.parse_args(arguments)
    if min(args.images, args.samples, args.points, args.calls) < 2:
        raise UserError("--images, --samples, --points, --calls: at least 2 are expected")
    device = distributed.join(args.device).device
    names = ["data", "task", "budget", "calls", "method", "images", "distance", "psnr", "coverage_90", "milliseconds"]
    fields = dict.fromkeys(names)
    rows: list[dict] = []

    def keep(more: list[dict], data: str, sigma_y: float) -> None:
        part = [fields | {"data": data} | row for row in more]
        settings = {"sigma_y": sigma_y, "samples": args.samples}
        print("written:", save_table(args.results / f"measurements_{data}.csv", part, settings, device), flush=True)
        rows.extend(part)

    for name, scale in MIXTURES.items() if args.mixtures else ():
        keep(of_mixtures(CALLS, args.points, args.mixtures, scale), name, SPREAD)
    for folder in args.models:
        opened = open_images(folder, device, args.images)
        measured_rows, shown = of_images(opened, args.calls, args.samples)
        keep(measured_rows, folder.name, SIGMA_Y)
        picture = save_figure(
            args.results / f"measurements_{folder.name}.png", figure(shown, opened.shape, opened.limits)
        )
        print("written:", picture)
    print(summarise(rows))


if __name__ == "__main__":
    run(main)
