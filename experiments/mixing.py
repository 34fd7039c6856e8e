"""How fast Langevin and Ozaki chains mix: `python -m experiments.mixing`.

Chains that start in exact draws, so that a chain has nothing to forget; each sampler at every step size of one grid, in
units of one over the largest curvature met among the draws. Effective samples are those of the slowest of the
density's principal axes, over a run much longer than its autocorrelation. A step size counts if a crowd of other
chains, after some steps, still has the density: `bias` is the sliced Wasserstein distance between the crowd and exact
draws, beyond that of the crowd's starts, in standard deviations of the density. The best step size is the one with
most effective samples among those whose bias is at most 0.1; with it the run goes on, twice as long each time, until
R-hat is at most 1.1 or it is `--longest` times as long as the others. By default Ozaki takes Langevin's step in
directions where the density is convex, in which its own leaps.

Rows are written density by density, and what the table has is not repeated.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

import datasets
import evaluation
import inference
import models
from configs import UserError
from experiments.harness import (
    argument_parser,
    not_negative,
    open_run,
    positive,
    rows_so_far,
    run,
    save_figure,
    save_table,
    table,
    whole_number,
)
from models import Scores
from runners import distributed

__all__ = ["ALLOWED_BIAS", "TARGETS", "Target", "best", "ill_conditioned", "mixing_of", "summarise"]

ALLOWED_BIAS = 0.1
MEASURED = ("steps", "ess_per_step", "ess_per_second", "r_hat", "bias")
FIELDS = ("density", "sampler", "step_size", *MEASURED, "best")
MIXED = 1.1
PLANE_SIGMA = 0.1


@dataclass(frozen=True)
class Target:
    """A density to sample.

    Attributes:
        scores: of the density.
        draw: exact draws, `(n, D)`, from a seed.
        unit: of step sizes.
        steps: of a run that is long.
        crowd: chains and steps that show the bias.
        axes: at most so many principal axes are looked at.
    """

    scores: Scores
    draw: Callable[[int, int], Tensor]
    unit: float
    steps: int
    crowd: tuple[int, int]
    axes: int = 50


def of_density(density: datasets.Mixture, sigma: float, steps: int, crowd: tuple[int, int]) -> Target:
    """The noisy density with its exact scores; step sizes in units of one over the largest curvature."""

    def draw(count: int, seed: int) -> Tensor:
        generator = datasets.generator_of(seed)
        x = density.sample(count, generator)
        return x + sigma * torch.randn(x.shape, generator=generator)

    curvature = torch.linalg.eigvalsh(density.s2(draw(100, 1), sigma)).abs().amax()
    return Target(density.at(sigma), draw, 1 / float(curvature), steps, crowd)


def ill_conditioned(dimension: int = 50, condition: float = 1000.0) -> datasets.GaussianMixture:
    """A normal whose variances go from 1/condition to 1 in equal ratios, along random axes."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
    variances = torch.logspace(-np.log10(condition), 0, dimension, dtype=torch.float64)
    return datasets.multivariate_normal(torch.zeros(dimension), axes * variances @ axes.T)


def of_images(folder: Path, device: torch.device, sigma: float) -> Target:
    """Noisy test images, with the learned scores of a run folder; the draws are exact, the scores are not. Step sizes
    in units of σ²: no noisy density is more concave than 1/σ²."""
    scores, _, data = open_run(folder, device, sigma=sigma)

    def draw(count: int, seed: int) -> Tensor:
        generator = datasets.generator_of(seed)
        rows = torch.randperm(len(data), generator=generator)[:count]
        clean = next(datasets.batches(data, rows[None]))
        noise = torch.randn(clean.shape, generator=generator)
        return clean + scores.sigma * noise.to(device)

    return Target(scores, draw, scores.sigma**2, 400, (400, 50), axes=20)


TARGETS: dict[str, Callable[[], Target]] = {
    "gaussians": lambda: of_density(datasets.gaussians(), PLANE_SIGMA, 2000, (2000, 200)),
    "two_moons": lambda: of_density(datasets.two_moons(), PLANE_SIGMA, 2000, (2000, 200)),
    "rings": lambda: of_density(datasets.rings(), PLANE_SIGMA, 2000, (2000, 200)),
    "checkerboard": lambda: of_density(datasets.checkerboard(), PLANE_SIGMA, 2000, (2000, 200)),
    "normal_2": lambda: of_density(ill_conditioned(2, 100.0), 0.0, 2000, (2000, 100)),
    "normal_50": lambda: of_density(ill_conditioned(), 0.0, 8000, (1000, 30)),
}


def mixing_of(
    target: Target,
    grid: list[float],
    chains: int = 32,
    share: float = 1.0,
    max_exponent: float = 0.0,
    seed: int = 0,
    longest: int = 1,
) -> list[dict]:
    """Both samplers at every step size of the grid, and at the best one for as long as it takes.

    Args:
        target: what to sample.
        grid: step sizes, in units of `target.unit`.
        chains: of the long run.
        share: of the target's steps and crowd that is taken.
        max_exponent: of `inference.ozaki`.
        seed: of draws and noise.
        longest: the run at the best step size is at most so many times as long.

    Returns:
        rows with `sampler`, `step_size`, `steps`, `ess_per_step` and `ess_per_second` (of all chains together, over all
        their steps), `r_hat` and `bias`, None where the chains diverged; and `best`, 1 in the row of the best step size
        of a sampler, 0 in the others.
    """
    counts = (chains, 4000, max(2, int(share * target.crowd[0])))
    # draws that are none of each other's, nor the noise of the chains
    draws = [target.draw(count, datasets.derived_seed(seed, use)) for use, count in enumerate(counts, start=1)]
    start, reference, crowd_start = draws
    if len(start) < chains:
        raise UserError(f"--chains: {chains}; at most {len(start)}, as many as there are test images, are expected")
    steps, crowd_steps = max(4, int(share * target.steps)), max(1, int(share * target.crowd[1]))
    torch.manual_seed(seed)  # pca_lowrank draws
    _, _, axes = torch.pca_lowrank(reference, q=min(target.axes, reference.shape[1]))
    spread = float(reference.var(0).mean().sqrt())
    floor = evaluation.sliced_wasserstein(crowd_start, reference)

    def mixing(sampler: Callable, step_size: float, longest: int = 1) -> dict[str, float]:
        x, projected, seconds = start, start.new_empty(0, chains, axes.shape[1]), 0.0
        while True:
            taken = len(projected)
            length = min(taken, longest * steps - taken) if taken else steps  # twice as long each time
            begin = time.perf_counter()
            own = datasets.derived_seed(seed, len(counts) + 1 + taken)
            x, chain = sampler(target.scores, x, step_size, length, keep_every=1, seed=own)
            seconds += time.perf_counter() - begin
            projected = torch.cat([projected, chain @ axes])
            taken, r_hat = len(projected), float(evaluation.r_hat(projected).max())
            if not r_hat > MIXED or taken >= longest * steps:
                effective = float(evaluation.effective_sample_size(projected).min())
                per_step = effective / (taken * chains)
                return {"steps": taken, "ess_per_step": per_step, "ess_per_second": effective / seconds, "r_hat": r_hat}

    def bias(sampler: Callable, step_size: float) -> float:
        crowd = sampler(target.scores, crowd_start, step_size, crowd_steps, seed=seed)
        return max(0.0, evaluation.sliced_wasserstein(crowd, reference) ** 2 - floor**2) ** 0.5 / spread

    samplers: dict[str, Callable] = {
        "langevin": partial(inference.langevin, progress=False),
        "ozaki": partial(inference.ozaki, max_exponent=max_exponent, progress=False),
    }
    rows: list[dict] = []
    for name, sampler in samplers.items():
        own: list[dict] = []
        for step_size in (factor * target.unit for factor in grid):
            row = {"sampler": name, "step_size": step_size} | dict.fromkeys(MEASURED) | {"best": 0}
            with suppress(inference.DivergedError):
                row |= {"bias": bias(sampler, step_size)} | mixing(sampler, step_size)
            own.append(row)
        while chosen := best(own):
            try:
                chosen |= mixing(sampler, chosen["step_size"], longest) | {"best": 1}
                break
            except inference.DivergedError:  # in the long run, and so it has no allowed bias
                chosen |= dict.fromkeys(MEASURED)
        rows += own
    return rows


def best(rows: list[dict]) -> dict | None:
    """The row of most effective samples a step among those whose bias is allowed; None where there is none."""
    allowed = [row for row in rows if row["bias"] is not None and row["bias"] <= ALLOWED_BIAS]
    return max(allowed, key=lambda row: row["ess_per_step"], default=None)


def summarise(by_target: dict[str, list[dict]]) -> str:
    """Each sampler at its own best step size, and Ozaki's effective samples as multiples of Langevin's; dashes where no
    step size of the grid has an allowed bias."""
    rows = []
    for name, target_rows in by_target.items():
        chosen = {row["sampler"]: row for row in target_rows if row["best"]}
        langevin, ozaki = (chosen.get(sampler, {}) for sampler in ("langevin", "ozaki"))
        ratios = {}
        if langevin and ozaki:
            ratios = {f"{key}, ratio": ozaki[key] / langevin[key] for key in ("ess_per_step", "ess_per_second")}
        rows.append({"density": name} | langevin | {"sampler": "langevin"})
        rows.append({"density": name} | ozaki | {"sampler": "ozaki"} | ratios)
    columns = {"density": "{}", "sampler": "{}", "step_size": "{:.4g}", "steps": "{:d}", "ess_per_step": "{:.4g}"}
    columns |= {"ess_per_second": "{:.4g}", "r_hat": "{:.3f}", "bias": "{:.3f}"}
    return table(rows, columns | {"ess_per_step, ratio": "{:.3g}×", "ess_per_second, ratio": "{:.3g}×"})


def mixing_figure(by_target: dict[str, list[dict]]) -> Figure:
    """Effective samples a step and bias over the step size, a column for each density."""
    figure = Figure(figsize=(2.8 * len(by_target), 5), layout="constrained")
    axes = figure.subplots(2, len(by_target), squeeze=False)
    for column, (name, rows) in zip(axes.T, by_target.items(), strict=True):
        for sampler in ("langevin", "ozaki"):
            own = [row for row in rows if row["sampler"] == sampler and row["bias"] is not None]
            for axis, key in zip(column, ("ess_per_step", "bias"), strict=True):
                axis.plot([row["step_size"] for row in own], [row[key] for row in own], "o-", ms=3, label=sampler)
        column[0].set(title=name, ylabel="effective samples a step", xscale="log", yscale="log")
        column[1].set(xlabel="step size", ylabel="bias", xscale="log")
        column[1].set_yscale("symlog", linthresh=ALLOWED_BIAS / 10)  # shows a bias of none
        column[1].set_ylim(bottom=0)
        for axis in column:
            axis.xaxis.set_minor_formatter(NullFormatter())
        column[1].axhline(ALLOWED_BIAS, color="gray", linestyle="--", linewidth=1)
    axes[0, 0].legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.mixing", __doc__, seed=0, device=None)
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS, "images"], default=[*TARGETS, "images"])
    parser.add_argument("--images", type=Path, default=Path("checkpoints/mnist"), help="run folder of images")
    parser.add_argument(
        "--image-noise", type=positive, nargs="+", default=[0.5, 1.0, 2.0], help="their σ, those of the model's range"
    )
    parser.add_argument("--chains", type=whole_number, default=32)
    parser.add_argument("--share", type=positive, default=1.0, help="of the steps, for a quick look")
    parser.add_argument("--longest", type=whole_number, default=20, help="times the steps, at the best step size")
    parser.add_argument("--grid", type=positive, nargs="+", help="step sizes, in units of 1 / largest curvature",
                        default=[0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 3.0, 10.0, 30.0, 100.0, 1000.0, 1e4])  # fmt: skip
    parser.add_argument("--image-grid", type=positive, nargs="+", default=[0.03, 0.1, 0.3, 0.6, 1.0, 1.5, 3.0],
                        help="of images, in units of σ²")  # fmt: skip
    parser.add_argument("--max-exponent", type=not_negative, default=0.0,
                        help="of the Ozaki step: 0 is Langevin's step in convex directions")  # fmt: skip
    args = parser.parse_args(arguments)
    if args.share > 1:
        raise UserError(f"--share: {args.share:g}; a share of 1 or less is expected")
    if args.chains < 4:
        raise UserError(f"--chains: {args.chains}; 4 or more are expected")
    device = distributed.join(args.device).device
    targets = {name: TARGETS[name] for name in args.targets if name in TARGETS}
    if "images" in args.targets:
        low, high = models.load(args.images).sigmas
        levels = [sigma for sigma in args.image_noise if low <= sigma <= high]
        if not levels:
            raise UserError(f"--image-noise: {args.images} has scores from {low:g} to {high:g}")
        targets |= {f"images, σ = {sigma:g}": partial(of_images, args.images, device, sigma) for sigma in levels}
    kept = ("chains", "share", "longest", "max_exponent", "seed", "images", "grid", "image_grid")
    settings = {key: getattr(args, key) for key in kept}
    settings |= {"plane_sigma": PLANE_SIGMA, "allowed_bias": ALLOWED_BIAS}
    path = args.results / "mixing.csv"
    rows = rows_so_far(path, settings, FIELDS)
    for name, target in targets.items():
        if not any(row["density"] == name for row in rows):
            grid = args.grid if name in TARGETS else args.image_grid
            options = (grid, args.chains, args.share, args.max_exponent, args.seed, args.longest)
            rows += [{"density": name} | row for row in mixing_of(target(), *options)]
            save_table(path, rows, settings, device)
        print(summarise({name: [row for row in rows if row["density"] == name]}), flush=True)
    by_target = {name: [row for row in rows if row["density"] == name] for name in targets}
    print(f"\nEach at its own best step size:\n{summarise(by_target)}")
    print("written:", path, save_figure(args.results / "mixing.png", mixing_figure(by_target)))


if __name__ == "__main__":
    run(main)
