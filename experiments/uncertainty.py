"""What is known of the posterior, and what it costs: `python -m experiments.uncertainty`.

On the same noisy test images and the same denoiser, its leading principal components: by the trained second order in
one call of the network; the same refined by one and two steps of five products with the Jacobian of s1 each; by the
full Jacobian of s1, up to D = 256; and by what needs no second order at all, subspace iteration on the denoiser from a
random start until it converges. And its covariance: the trained one, its variances alone, Hutchinson's estimate of the
variances from 64 products with the Jacobian of s1, and the best single variance. What each
catches of the residual r = x − E[x|x̃], what trace it predicts, its log score, and what it costs for an image.

Rows are written as soon as they are there, and what the table has is not repeated.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import datasets
import evaluation
import inference
import linalg
import models
from benchmarks.harness import wait_for
from configs import UserError
from datasets import ImageData
from experiments.harness import (
    argument_parser,
    image_test_set,
    open_run,
    rows_so_far,
    run,
    save_table,
    table,
    whole_number,
)
from linalg import DiagonalPlusLowRank, Jacobian, SymmetricMatrix
from models import Scores
from runners import distributed

__all__ = ["METHODS", "Answer", "compare", "summarise"]

COMPONENTS = 5
QUICK = 0.05
FIELDS = (
    *("data", "model", "images", "noise", "method"),
    *("captured_5", "trace_ratio", "log_score", "non_positive", "calls", "milliseconds"),
)
BATCH = 20 * 784  # entries of the images at a time
PROBES = 64
SMALLEST = 0.1  # of the variances that Hutchinson's method estimates of an image, as a share of their mean
JACOBIAN_UP_TO = 256


@dataclass(frozen=True)
class Answer:
    """What a method says of the posterior at B noisy images; None where it does not say it.

    Attributes:
        calls: of the network for each image, a product with its Jacobian counted as one; `(B,)`.
        directions: the leading principal components, `(B, D, COMPONENTS)`.
        trace: of the covariance, `(B,)`.
        covariance: positive definite, B of them.
        non_positive: how many of D variances had to be raised because they were not positive, `(B,)`.
    """

    calls: Tensor
    directions: Tensor | None = None
    trace: Tensor | None = None
    covariance: SymmetricMatrix | None = None
    non_positive: Tensor | None = None


def by_head(scores: Scores, x: Tensor, generator: torch.Generator, refine: int = 0) -> Answer:
    """The trained second order, refined by so many steps of `COMPONENTS` products with the Jacobian of s1."""
    posterior = inference.posterior(scores, x)
    _, directions = posterior.principal_components(COMPONENTS, refine, QUICK)
    calls = x.new_full((len(x),), 1 + refine * COMPONENTS)
    if refine:
        return Answer(calls, directions)
    return Answer(calls, directions, posterior.covariance.trace(), posterior.covariance.clamp(posterior.floor)[0])


def by_variances(scores: Scores, x: Tensor, generator: torch.Generator) -> Answer:
    """The variances of the trained second order alone."""
    variances = inference.posterior(scores, x).variance()
    return Answer(x.new_ones(len(x)), trace=variances.sum(1), covariance=DiagonalPlusLowRank(variances))


def by_jacobian(scores: Scores, x: Tensor, generator: torch.Generator) -> Answer:
    """The whole Jacobian of s1."""
    covariance = scores.sigma**4 * linalg.jacobian(scores.s1, x, rows=8)  # of 20 images at a time: 2 GiB on MNIST
    covariance.diagonal(dim1=1, dim2=2).add_(scores.sigma**2)
    _, vectors = torch.linalg.eigh(covariance)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    return Answer(x.new_full((len(x),), x.shape[1]), vectors.flip(2)[:, :, :COMPONENTS], trace)


def by_iteration(scores: Scores, x: Tensor, generator: torch.Generator) -> Answer:
    """Subspace iteration on the denoiser, from a random start until it converges."""
    _, directions, calls = inference.denoiser_components(scores, x, COMPONENTS, generator=generator)
    return Answer(calls, directions)


def by_probes(scores: Scores, x: Tensor, generator: torch.Generator) -> Answer:
    """Hutchinson's variances; those below a tenth of their mean in the image, where the estimate is mostly noise and
    often negative, are raised to that. Products by differences, as `inference.denoiser_components` takes them, would
    need less time and be less exact."""
    covariance = inference.posterior_covariance(Jacobian(scores.s1, x), scores.sigma)
    estimates, _ = linalg.hutchinson_diagonal(covariance, PROBES, generator)
    smallest = (SMALLEST * estimates.mean(1, keepdim=True)).clamp(min=1e-6 * scores.sigma**2)
    variances = DiagonalPlusLowRank(torch.maximum(estimates, smallest))
    return Answer(x.new_full((len(x),), PROBES), None, estimates.sum(1), variances, (estimates <= 0).sum(1))


Method = Callable[[Scores, Tensor, torch.Generator], Answer]

METHODS: dict[str, Method] = {
    "ours": by_head,
    "ours, refined once": partial(by_head, refine=1),
    "ours, refined twice": partial(by_head, refine=2),
    "Jacobian of s1": by_jacobian,
    "subspace iteration": by_iteration,
    "ours, variances alone": by_variances,
    f"Hutchinson, {PROBES} products": by_probes,
}


def compare(folder: Path, count: int, device: torch.device, seed: int = 0, sigma: float | None = None) -> list[dict]:
    """A row for each method, and one for the best single variance of all entries of all images.

    Args:
        folder: the run folder or checkpoint of a low-rank model; its data set must be at hand.
        count: of test images.
        device: where.
        seed: of the noise and the random start.
        sigma: of a model of several noise levels.

    Returns:
        rows with `images`, `noise`, `method`; and, None where a method does not say it, `captured_5`, `trace_ratio`,
        `log_score` in nats an entry, `non_positive`, the share of variances that were raised because they were not,
        `calls` of the network, a product with its Jacobian counted as one, and `milliseconds`, an image both.
    """
    scores, _, data = open_run(folder, device, count, sigma)
    generator = datasets.generator_of(datasets.derived_seed(seed, 1), device)  # not the noise again
    batches = noisy_and_residual(scores, data, seed)
    residuals = [residual for _, residual in batches]
    shared = {"images": len(data), "noise": scores.sigma}
    rows: list[dict] = []
    for name, method in METHODS.items():
        if method is by_jacobian and math.prod(data.shape) > JACOBIAN_UP_TO:
            continue
        answers, costs = timed(method, scores, [x for x, _ in batches], generator)
        rows.append({**shared, "method": name, **quality(answers, residuals), **costs})
    residual = torch.cat(residuals)
    best = evaluation.isotropic_log_score(float(residual.square().mean()))
    return [*rows, dict.fromkeys(rows[0]) | shared | {"method": "best isotropic", "log_score": best}]


def noisy_and_residual(scores: Scores, data: ImageData, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Noisy test images and what their denoised ones are off by, in batches, `(B, D)` each."""
    batches = []
    size = max(1, BATCH // max(784, math.prod(data.shape)))
    for p in evaluation.noisy_batches(data, scores.sigma, seed, batch_size=size):
        with torch.no_grad():
            mean = inference.posterior_mean(scores.s1(p.inputs), p.inputs, scores.sigma)
        batches.append((p.inputs, p.clean - mean))
    return batches


def timed(
    method: Method, scores: Scores, batches: list[Tensor], generator: torch.Generator
) -> tuple[list[Answer], dict[str, float]]:
    """The answers of a method to batches of noisy images, and, of an image, the `calls` of the network and the
    `milliseconds` that they took."""
    method(scores, batches[0][:2], generator)  # what is done once is not counted
    start = time.perf_counter()
    answers = [method(scores, x, generator) for x in batches]
    calls = sum(float(answer.calls.sum()) for answer in answers)
    wait_for(batches[0].device)
    images = sum(map(len, batches))
    return answers, {"calls": calls / images, "milliseconds": 1e3 * (time.perf_counter() - start) / images}


def quality(answers: list[Answer], residuals: Sequence[Tensor]) -> dict[str, float | None]:
    """What the answers to batches are worth on the residuals of these, `(B, D)`: the columns of `compare`."""
    energy = float(torch.cat([*residuals]).square().sum(1).mean())
    parts = [of_images(answer, residual) for answer, residual in zip(answers, residuals, strict=True)]
    means = {name: float(torch.cat([part[name] for part in parts]).mean()) for name in parts[0]}
    return {
        "captured_5": means["captured"] / energy if "captured" in means else None,
        "trace_ratio": energy / means["trace"] if "trace" in means else None,
        "log_score": means.get("log_score"),
        "non_positive": means.get("non_positive"),
    }


def of_images(answer: Answer, residual: Tensor) -> dict[str, Tensor]:
    """What an answer says of each image, `(B,)`, by name."""
    values = {}
    if answer.directions is not None:
        values["captured"] = (answer.directions.mT @ residual[:, :, None]).square().sum((1, 2))
    if answer.trace is not None:
        values["trace"] = answer.trace
    if answer.covariance is not None:
        values["log_score"], _ = evaluation.log_score(residual, answer.covariance)
    if answer.non_positive is not None:
        values["non_positive"] = answer.non_positive / residual.shape[1]
    return values


def summarise(rows: list[dict]) -> str:
    """The table, the methods of each data set one below the other; calls and times for an image, and how many times
    faster than subspace iteration."""
    slowest = {
        (row["data"], row["noise"]): row["milliseconds"] for row in rows if row["method"] == "subspace iteration"
    }
    columns = {
        "data": "{}",
        "noise": "{:g}",
        "images": "{:d}",
        "method": "{}",
        "captured_5": "{:.3f}",
        "trace_ratio": "{:.3f}",
        "log_score": "{:.3f}",
        "non_positive": "{:.3f}",
    }
    columns |= {"calls": "{:.0f}", "milliseconds": "{:.2f}", "faster": "{:.1f}×"}
    timed = [row for row in rows if row["milliseconds"] is not None]
    faster = {id(row): slowest[row["data"], row["noise"]] / row["milliseconds"] for row in timed}
    return table([row | {"faster": faster.get(id(row))} for row in rows], columns)


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.uncertainty", __doc__, seed=0, device=None, noise=[0.5])
    titles = {"digits": "the digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}
    for name, title in titles.items():
        parser.add_argument(f"--{name}", type=Path, default=Path("checkpoints") / name, help=f"run folder of {title}")
    parser.add_argument("--data", nargs="+", choices=titles, default=["digits", "mnist"])
    parser.add_argument("--images", type=whole_number, default=20, help="test images of each")
    args = parser.parse_args(arguments)
    device = distributed.join(args.device).device
    folders = {name: getattr(args, name) for name in args.data}
    settings = {"components": COMPONENTS, "probes": PROBES, "seed": args.seed}
    path = args.results / "uncertainty.csv"
    rows = rows_so_far(path, settings, FIELDS)
    wanted: list[dict] = []
    for name, folder in folders.items():
        model = models.load(folder)
        assert model.config is not None  # what is loaded from a folder has one
        images = len(image_test_set(model.config, count=args.images))
        for sigma in (level for level in args.noise if model.sigmas[0] <= level <= model.sigmas[1]):
            wanted.append({"data": name, "model": str(folder), "images": images, "noise": sigma})
            if not any(wanted[-1].items() <= row.items() for row in rows):
                measured = compare(folder, args.images, device, args.seed, sigma)
                rows += [{"data": name, "model": str(folder)} | row for row in measured]
                save_table(path, rows, settings, device)
    if not wanted:
        raise UserError(f"--noise {' '.join(map(str, args.noise))}: no model has one of these levels")
    print(summarise([row for row in rows if any(key.items() <= row.items() for key in wanted)]))
    print("written:", path)


if __name__ == "__main__":
    run(main)
