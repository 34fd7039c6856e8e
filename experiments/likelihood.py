"""What a trace from a head is worth to likelihoods: `python -m experiments.likelihood`.

The log-likelihood of uniformly dequantised test images at the lowest noise level of a model, along the same flow, with
the trace of its second order, and with Hutchinson's estimate of that of the Jacobian of s1 from 1, 8 and 64 products;
the same of points that the density at that level is of, images with its noise; and the variational bound of a chain of
100 steps. And what makes the two traces differ: the squared error of the denoiser, which the second order predicts and
the Jacobian does not know of.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import datasets
import inference
from configs import UserError
from experiments.harness import (
    argument_parser,
    open_images,
    print_progress,
    run,
    save_figure,
    save_table,
    table,
    whole_number,
)
from inference import GaussianPrior
from inference.levels import geometric
from linalg import Jacobian
from models import ScoreModel, Scores
from runners import distributed

__all__ = ["compare", "errors"]

TOLERANCE = 1e-4
PROBES = (1, 8, 64)
STEPS = 100
LEVELS = 9
BATCH = 20
VALUES = 256
CLEAN, NOISY = "dequantised", "noisy"
HEAD, BOUND = "trace of s2 (ours)", f"variational bound, {STEPS} steps"


@dataclass
class Counted:
    """A model that counts how often its scores are asked for."""

    model: ScoreModel
    calls: int = 0

    def at(self, sigma: float) -> Scores:
        self.calls += 1
        return self.model.at(sigma)


def compare(
    model: ScoreModel, x: Tensor, slow: int, bounded: int, limits: datasets.Limits, prior: GaussianPrior, seed: int
) -> list[dict]:
    """A row for each way to take the trace, and one for the variational bound: `bits` an entry, `over_ours`, the mean
    difference to the head's on the same images, with its standard error, `calls` of s1 a batch, `milliseconds` an image
    and how many times `faster` the head is on the same images.

    Args:
        model: with an s2.
        x: clean images, `(B, D)`, of pixels.
        slow: how many of them are taken with Hutchinson's estimates.
        bounded: how many with the bound.
        limits: black and white.
        prior: of the clean images.
        seed: of the noise and the probes.
    """
    spacing = (limits[1] - limits[0]) / (VALUES - 1)
    dimension = x.shape[1]
    spread = inference.dequantised(x, spacing, datasets.generator_of(seed))

    generator = datasets.generator_of(datasets.derived_seed(seed, 1))
    noisy = x + model.sigmas[0] * torch.randn(x.shape, generator=generator).to(x)

    def measured(points: Tensor, **options: Any) -> tuple[Tensor, float, float]:
        counted, bits = Counted(model), []
        start = time.perf_counter()
        parts = points.split(BATCH)
        known: dict[str, Any] = {"sigmas": model.sigmas, "prior": prior, "tolerance": TOLERANCE, "seed": seed}
        for part in parts:
            density = inference.log_likelihood(counted, part, **known, **options)
            bits.append(inference.bits_per_entry(density, dimension, spacing))
        milliseconds = 1e3 * (time.perf_counter() - start) / len(points)
        return torch.cat(bits), counted.calls / len(parts), milliseconds

    measured(spread[:2], trace="s2")  # what is done once is not counted
    rows = []
    for name, points, estimates in ((CLEAN, spread, PROBES), (NOISY, noisy[:slow], PROBES[1:2])):
        ours, calls, milliseconds = measured(points, trace="s2")
        rows.append({"points": name} | row(HEAD, ours, ours, calls, milliseconds))
        _, _, of_few = measured(points[:slow], trace="s2")
        for probes in estimates:
            bits, calls, milliseconds = measured(points[:slow], trace="hutchinson", probes=probes)
            method = f"Hutchinson, {probes} product{'s' if probes > 1 else ''}"
            rows.append({"points": name} | row(method, bits, ours, calls, milliseconds))
            rows[-1]["faster"] = milliseconds / of_few
            print_progress(rows[-1])
    start = time.perf_counter()
    covariances = {"full": inference.full_covariance}
    parts = [
        inference.variational_bounds(
            model, part, geometric(*model.sigmas, STEPS), covariances, limits=limits, prior=prior, seed=seed + number
        )["full"].total
        for number, part in enumerate(x[:bounded].split(BATCH))
    ]
    bound = torch.cat(parts) / (dimension * math.log(2))
    milliseconds = 1e3 * (time.perf_counter() - start) / bounded
    return [*rows, {"points": "pixels"} | row(BOUND, bound, None, STEPS, milliseconds)]


def row(name: str, bits: Tensor, ours: Tensor | None, calls: float, milliseconds: float) -> dict:
    """What is known of a method; `over_ours` where there is something to compare with."""
    values: dict[str, Any] = {"method": name, "images": len(bits), "bits": float(bits.mean())}
    values |= {"over_ours": None, "standard_error": None, "calls": calls, "milliseconds": milliseconds, "faster": None}
    if ours is not None:
        over = bits - ours[: len(bits)]
        values |= {"over_ours": float(over.mean()), "standard_error": float(over.std()) / len(bits) ** 0.5}
    return values


@torch.no_grad()
def errors(model: ScoreModel, x: Tensor, seed: int) -> list[dict]:
    """At each of several levels, of noisy images, an entry and over σ²: the `mse` of the denoiser, and the trace of the
    posterior covariance by the `head` and by the `jacobian` (Hutchinson's estimate). By I-MMSE
    `σ d log q/dσ = tr C/σ² − D`, so that the differences of the traces, over log σ, are those of the log-likelihoods.

    Source: Guo, Shamai and Verdú, *Mutual information and minimum mean-square error in Gaussian channels*, 2005.
    """
    rows = []
    for sigma in geometric(*model.sigmas, LEVELS):
        scores = model.at(sigma)
        generator = datasets.generator_of(seed)
        noisy = x + sigma * torch.randn(x.shape, generator=generator).to(x)
        posterior = inference.posterior(scores, noisy)
        implied = inference.posterior_covariance(Jacobian(scores.s1, noisy), sigma)
        signs = torch.randint(2, (*x.shape, 8), generator=generator).to(x) * 2 - 1
        unit = x.numel() * sigma**2
        rows.append(
            {
                "noise": sigma,
                "mse": float((x - posterior.mean).square().sum()) / unit,
                "head": float(posterior.covariance.trace().sum()) / unit,
                "jacobian": float(implied.quadratic(signs).mean(1).sum()) / unit,
            }
        )
    return rows


def figure(rows: list[dict]) -> Figure:
    """The traces over the squared error of the denoiser, over the noise level."""
    drawn = Figure(figsize=(4.5, 3.6), layout="constrained")
    axis = drawn.subplots()
    noise = [row["noise"] for row in rows]
    for key, label in {"head": HEAD, "jacobian": "trace of the Jacobian"}.items():
        axis.plot(noise, [row[key] / row["mse"] for row in rows], marker="o", label=label)
    axis.axhline(1, color="black", lw=0.8, ls=":")
    axis.set(xscale="log", xlabel="σ", ylabel="predicted over actual squared error")
    axis.legend()
    return drawn


def summarise(rows: list[dict]) -> str:
    columns = {"data": "{}", "points": "{}", "method": "{}", "images": "{:d}", "bits": "{:.4f}", "over_ours": "{:+.4f}"}
    columns |= {"standard_error": "{:.4f}", "calls": "{:.0f}", "milliseconds": "{:.0f}", "faster": "{:.0f}×"}
    return table(rows, columns)


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.likelihood", __doc__, seed=0, device=None)
    parser.add_argument(
        "--models", type=Path, nargs="+", default=[Path("checkpoints/mnist"), Path("checkpoints/cifar10")]
    )
    parser.add_argument("--images", type=whole_number, default=500, help="test images of each")
    parser.add_argument("--slow", type=whole_number, default=20, help="of them with Hutchinson's estimates")
    parser.add_argument("--bounded", type=whole_number, default=20, help="of them with the variational bound")
    args = parser.parse_args(arguments)
    if not 2 <= min(args.slow, args.bounded) <= max(args.slow, args.bounded) <= args.images:
        raise UserError("--slow, --bounded: from 2 to the number of --images is expected")
    device = distributed.join(args.device).device
    settings = {"tolerance": TOLERANCE, "seed": args.seed, "models": " ".join(map(str, args.models))}
    rows: list[dict] = []
    for folder in args.models:
        opened = open_images(folder, device, args.images)
        levels = errors(opened.model, opened.test[: args.slow], args.seed)
        for level in levels:
            print_progress(level)
        picture = save_figure(args.results / f"likelihood_{folder.name}.png", figure(levels))
        prior = GaussianPrior.fitted(opened.train)
        measured = compare(opened.model, opened.test, args.slow, args.bounded, opened.limits, prior, args.seed)
        own = [{"data": folder.name} | one for one in measured]
        path = save_table(args.results / f"likelihood_{folder.name}.csv", own, settings, device)
        print("written:", path, picture)
        rows += own
    print(summarise(rows))


if __name__ == "__main__":
    run(main)
