"""What the third order adds to the posterior of an image: `python -m experiments.skewness`.

Pixels that are not certain (predicted standard deviation above 0.02, and above 0.1) and the first three principal
components of noisy test images: the tails that the clean values fall into, the log score and the CRPS of the normal
distribution and of the split normal one, whose skewness comes from

- `s3`: the head of a model of three orders;
- `two values`: for a pixel, that of a number which is black or white, with the predicted mean; no training at all;
- `derivative of s2`: along a component, `∂(vᵀCv)/∂v` of the second-order head, one forward product of it a component;
- `denoiser`: along a component, the second derivative of the denoiser by finite differences, two calls a component
  (Manor and Michaeli 2024, who take six for the fourth moment too).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import datasets
import evaluation
import inference
from benchmarks.harness import wait_for
from configs import UserError
from evaluation import Marginals
from evaluation.skewness import COMPONENTS, TAIL, TOLERANCE
from experiments.harness import (
    OpenedImages,
    argument_parser,
    open_images,
    print_progress,
    run,
    save_figure,
    save_table,
    table,
    whole_number,
)
from inference import Posterior, SplitNormal
from models import Scores
from runners import distributed

__all__ = ["main"]

UNCERTAIN = (0.02, 0.1)  # standard deviations from which on a pixel counts
STEP = 0.1  # of the finite differences, in units of σ
BATCH = 50
DRAWN = 20_000  # predicted densities, at most, whose mean is in the picture
SHOWN = 0.3  # skewness from which on a number is in the picture
COLOURS = {"normal": "tab:gray", "skewed": "tab:red"}


def from_denoiser(scores: Scores, posterior: Posterior, directions: Tensor) -> Tensor:
    """Of `κ3(v, v, v) = σ⁴ vᵀ ∂²D/∂v²` by a central difference, `(B, k)`."""
    sigma, x = scores.sigma, posterior.noisy

    def along(points: Tensor, v: Tensor) -> Tensor:
        return (inference.posterior_mean(scores.s1(points), points, sigma) * v).sum(1)

    h, third = STEP * sigma, []
    for v in directions.unbind(2):
        apart = along(x + h * v, v) + along(x - h * v, v) - 2 * (posterior.mean * v).sum(1)
        third.append(sigma**4 * apart / h**2)
    variances = posterior.covariance.quadratic(directions).clamp(min=posterior.floor)
    return torch.stack(third, dim=1) / variances**1.5


ALONG: dict[str, Callable[[Scores, Posterior, Tensor], Tensor]] = {
    "s3": lambda scores, posterior, v: posterior.skewness(v),
    "derivative of s2": lambda scores, posterior, v: posterior.skewness(v, differentiate=True),
    "denoiser": from_denoiser,
}
"""The skewness along directions, from the scores, the posterior and the directions."""


def noise_for(images: Tensor, seed: int) -> Tensor:
    """z, the same for all uses of a seed."""
    return torch.randn(images.shape, generator=datasets.generator_of(seed)).to(images)


@dataclass
class Collected:
    """Of one noise level: numbers by what they are and where their skewness comes from, and seconds spent on that."""

    marginals: dict[tuple[str, str], Marginals]
    seconds: dict[tuple[str, str], float]
    images: int


@torch.no_grad()
def collect(opened: OpenedImages, sigma: float, seed: int) -> Collected:
    """Goes through the test images."""
    scores = opened.model.at(sigma)
    noisy = opened.test + sigma * noise_for(opened.test, seed)
    black, white = opened.limits
    marginals: dict[tuple[str, str], Marginals] = {}
    seconds: dict[tuple[str, str], float] = {}

    def timed(what: str, method: str, skewness: Callable[[], Tensor]) -> Tensor:
        wait_for(opened.test.device)
        start = time.perf_counter()
        values = skewness()
        wait_for(opened.test.device)
        seconds[what, method] = seconds.get((what, method), 0.0) + time.perf_counter() - start
        return values

    for clean, x in zip(opened.test.split(BATCH), noisy.split(BATCH), strict=True):
        posterior = inference.posterior(scores, x)
        error, std = clean - posterior.mean, posterior.std()
        guess = (black + white - 2 * posterior.mean) / std
        for method, of_pixels in (("s3", posterior.skewness), ("two values", partial(torch.clone, guess))):
            values = timed("pixels", method, of_pixels)
            for least in UNCERTAIN:
                found = marginals.setdefault((f"pixels, std > {least}", method), Marginals())
                found.add(error, std, values, std > least)
        variances, directions = posterior.principal_components(COMPONENTS, tolerance=TOLERANCE)
        projected = (directions.mT @ error[:, :, None])[:, :, 0]
        for method, skewness_along in ALONG.items():
            fresh = replace(posterior) if method == "s3" else posterior  # which keeps the s3 of its pixels
            values = timed("components", method, partial(skewness_along, scores, fresh, directions))
            marginals.setdefault(("components", method), Marginals()).add(projected, variances.sqrt(), values)
    return Collected(marginals, seconds, len(opened.test))


def rows_of(collected: Collected, sigma: float) -> list[dict]:
    """A row for each kind of number and source of skewness, with how far the share in each tail is from 5 %, over how
    far it is with the normal distribution."""
    rows = []
    for (what, method), marginals in collected.marginals.items():
        metrics = marginals.metrics()
        row = {"noise": sigma, "what": what, "skewness": method, **metrics}
        row["ms_an_image"] = 1e3 * collected.seconds[what.partition(",")[0], method] / collected.images
        for side in ("lower", "upper", "short", "long"):
            ours, normal = (abs(metrics[name] - TAIL) for name in (side, f"{side}_normal"))
            row[f"{side}_distance_ratio"] = ours / normal if normal else math.inf
        rows.append(row)
    return rows


def histograms(collected: dict[float, Collected]) -> Figure:
    """Standardised errors of those numbers whose predicted skewness, turned to the right, is above 0.3, with the mean
    of the densities predicted for them."""
    kinds = {f"pixels, std > {UNCERTAIN[-1]}": "s3", "components": "derivative of s2"}
    figure = Figure(figsize=(9, 3 * len(collected)), layout="constrained")
    axes = figure.subplots(len(collected), len(kinds), squeeze=False)
    grid = torch.linspace(-4, 4, 161, dtype=torch.float64)
    for line, (sigma, found) in zip(axes, collected.items(), strict=True):
        for axis, (what, method) in zip(line, kinds.items(), strict=True):
            marginals = found.marginals[what, method]
            skewness, std = torch.cat(marginals.skewnesses), torch.cat(marginals.deviations)
            kept = skewness.abs() > SHOWN
            turned = (torch.cat(marginals.values) / std * skewness.sign())[kept]
            if not len(turned):
                continue
            axis.hist(turned.numpy(), bins=grid.numpy()[::4], density=True, color="lightsteelblue")
            zero = torch.zeros(1, dtype=torch.float64)
            some = skewness.abs()[kept][:: 1 + int(kept.sum()) // DRAWN, None]
            expected = SplitNormal.of_moments(zero, zero + 1, some)
            axis.plot(grid, expected.log_prob(grid).exp().mean(0), color=COLOURS["skewed"], label="split normal")
            normal = SplitNormal.of_moments(zero, zero + 1, zero)
            axis.plot(grid, normal.log_prob(grid).exp(), color=COLOURS["normal"], ls="--", label="normal")
            axis.set(title=f"{what}, {method}, σ = {sigma:g}: {len(turned)} of {len(std)}", yticks=[], xlim=(-4, 4))
    for axis in axes[-1]:
        axis.set_xlabel("(x − mean) / std, longer tail to the right")
    if axes[0, 0].lines:
        axes[0, 0].legend(frameon=False)
    return figure


@torch.no_grad()
def walks(opened: OpenedImages, sigma: float, seed: int) -> Figure:
    """Of the image, among the first fifty, whose first components are the most skewed: what it may be along each, and
    the distribution along it."""
    scores = opened.model.at(sigma)
    noisy = opened.test + sigma * noise_for(opened.test, seed)
    few = opened.test[:BATCH]
    posterior = inference.posterior(scores, noisy[:BATCH])
    variances, directions = posterior.principal_components(COMPONENTS)
    chosen = int(posterior.skewness(directions).abs().sum(1).argmax())
    return evaluation.walk_figure(posterior, opened.shape, chosen, (variances, directions), clean=few)


def main(arguments: list[str] | None = None) -> None:
    shared = {"noise": [0.5, 1.0], "seed": 0, "device": None}
    parser = argument_parser("experiments.skewness", __doc__, **shared)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mnist_third"), help="of three orders")
    parser.add_argument("--images", type=whole_number, default=1000, help="test images")
    args = parser.parse_args(arguments)
    world = distributed.join(args.device)
    opened = open_images(args.model, world.device, args.images)
    if any(opened.model.at(sigma).s3 is None for sigma in args.noise):
        raise UserError(f"--model: {args.model} has no s3; one of model.order: 3 is expected")
    collected, rows = {}, []
    for sigma in args.noise:
        collected[sigma] = collect(opened, sigma, args.seed)
        for row in rows_of(collected[sigma], sigma):
            rows.append(row)
            print_progress(row)
    tails = [f"{side}{name}" for side in ("lower", "upper", "short", "long") for name in ("_normal", "")]
    gains = [f"{score}_gain{error}" for score in ("log_score", "crps") for error in ("", "_error")]
    columns = {"noise": "{:g}", "what": "{}", "skewness": "{}"} | dict.fromkeys([*tails, *gains], "{:.4f}")
    print(table(rows, columns | {"clipped": "{:.2f}", "ms_an_image": "{:.1f}"}))
    used = {"model": args.model, "images": len(opened.test), "seed": args.seed}
    written = [
        save_table(args.results / "skewness.csv", rows, used, world.device),
        save_figure(args.results / "skewness.png", histograms(collected)),
        save_figure(args.results / "skewness_walks.png", walks(opened, args.noise[-1], args.seed)),
    ]
    print("written:", *written)


if __name__ == "__main__":
    run(main)
