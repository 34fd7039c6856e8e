"""How fast Langevin and Ozaki chains mix: `python -m experiments.mixing`.

Chains that start in exact draws, so that a chain has nothing to forget; each sampler at every step size of one grid, in
units of one over the largest curvature met among the draws. Effective samples are those of the slowest of the
density's principal axes, over a run much longer than its autocorrelation. A step size counts if a crowd of other
chains, after some steps, still has the density: `bias` is the sliced Wasserstein distance between the crowd and exact
draws, beyond that of the crowd's starts, in standard deviations of the density. The best step size is the one with
most effective samples among those whose bias is at most 0.1. By default Ozaki takes Langevin's step in directions
where the density is convex, in which its own leaps.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

import datasets
import inference
import models
from experiments.results import run, save_figure, save_table
from models import DiagonalPlusLowRank
from runners import world

__all__ = ["TARGETS", "Target", "best", "ill_conditioned", "mixing_of"]

ALLOWED_BIAS = 0.1
PLANE_SIGMA = 0.1


@dataclass(frozen=True)
class Target:
    """A density to sample.

    Attributes:
        s1, s2: its scores.
        draw: exact draws, `(n, D)`, from a seed.
        unit: of step sizes.
        steps: of a run that is long.
        crowd: chains and steps that show the bias.
        axes: at most so many principal axes are looked at.
    """

    s1: Callable[[Tensor], Tensor]
    s2: Callable[[Tensor], Tensor | DiagonalPlusLowRank]
    draw: Callable[[int, int], Tensor]
    unit: float
    steps: int
    crowd: tuple[int, int]
    axes: int = 50


def of_density(density: datasets.Mixture, sigma: float, steps: int, crowd: tuple[int, int]) -> Target:
    """The noisy density with its exact scores; step sizes in units of one over the largest curvature."""

    def draw(count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = density.sample(count, generator)
        return x + sigma * torch.randn(x.shape, generator=generator)

    curvature = torch.linalg.eigvalsh(density.s2(draw(100, 1), sigma)).abs().amax()
    s1, s2 = lambda x: density.s1(x, sigma), lambda x: density.s2(x, sigma)
    return Target(s1, s2, draw, 1 / float(curvature), steps, crowd)


def ill_conditioned(dimension: int = 50, condition: float = 1000.0) -> datasets.GaussianMixture:
    """A normal whose variances go from 1/condition to 1 in equal ratios, along random axes."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
    variances = torch.logspace(-np.log10(condition), 0, dimension, dtype=torch.float64)
    return datasets.multivariate_normal(torch.zeros(dimension), axes * variances @ axes.T)


def of_images(folder: Path, device: torch.device) -> Target:
    """Noisy test images, with the learned scores of a run folder; the draws are exact, the scores are not. Step sizes
    in units of σ²: no noisy density is more concave than 1/σ²."""
    s1, s2, config = models.load(folder, device)
    data = datasets.load(config, "test", device)

    def draw(count: int, seed: int) -> Tensor:
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
        clean = next(datasets.batches(data, rows[None]))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        return clean + config.noise * noise.to(device)

    return Target(s1, s2, draw, config.noise**2, 400, (200, 50), axes=20)


TARGETS: dict[str, Callable[[], Target]] = {
    "gaussians": lambda: of_density(datasets.gaussians(), PLANE_SIGMA, 2000, (2000, 200)),
    "two_moons": lambda: of_density(datasets.two_moons(), PLANE_SIGMA, 2000, (2000, 200)),
    "rings": lambda: of_density(datasets.rings(), PLANE_SIGMA, 2000, (2000, 200)),
    "checkerboard": lambda: of_density(datasets.checkerboard(), PLANE_SIGMA, 2000, (2000, 200)),
    "normal_2": lambda: of_density(ill_conditioned(2, 100.0), 0.0, 2000, (2000, 100)),
    "normal_50": lambda: of_density(ill_conditioned(), 0.0, 8000, (1000, 30)),
}


def mixing_of(
    target: Target, grid: list[float], chains: int = 64, share: float = 1.0, max_exponent: float = 0.0, seed: int = 0
) -> list[dict]:
    """Both samplers at every step size of the grid.

    Args:
        target: what to sample.
        grid: step sizes, in units of `target.unit`.
        chains: of the long run.
        share: of the target's steps and crowd that is taken.
        max_exponent: of `inference.ozaki`.
        seed: of draws and noise.

    Returns:
        rows with `sampler`, `step_size`, `ess_per_step` and `ess_per_second` (of all chains together, over all their
        steps), `r_hat` and `bias`; where the chains diverged, the last four are None.
    """
    start, reference = target.draw(chains, seed), target.draw(4000, seed + 1)
    crowd_start, crowd_steps = target.draw(int(share * target.crowd[0]), seed + 2), int(share * target.crowd[1])
    steps = int(share * target.steps)
    torch.manual_seed(seed)  # pca_lowrank draws
    _, _, axes = torch.pca_lowrank(reference, q=min(target.axes, reference.shape[1]))
    spread = float(reference.var(0).mean().sqrt())
    floor = inference.sliced_wasserstein(crowd_start, reference)
    options = {"seed": seed, "progress": False}

    def langevin(x: Tensor, step_size: float, steps: int, **more):
        return inference.langevin(target.s1, x, step_size, steps, **options, **more)

    def ozaki(x: Tensor, step_size: float, steps: int, **more):
        return inference.ozaki(target.s1, target.s2, x, step_size, steps, max_exponent=max_exponent, **options, **more)

    rows = []
    for sampler in (langevin, ozaki):
        for factor in grid:
            step_size = factor * target.unit
            row = {"sampler": sampler.__name__, "step_size": step_size}
            try:
                crowd = sampler(crowd_start, step_size, crowd_steps)
                begin = time.perf_counter()
                _, chain = sampler(start, step_size, steps, keep_every=1)
                seconds = time.perf_counter() - begin
            except inference.DivergedError:
                rows.append(row | dict.fromkeys(("ess_per_step", "ess_per_second", "r_hat", "bias")))
                continue
            projected = chain @ axes
            effective = float(inference.effective_sample_size(projected).min())
            rows.append(
                row
                | {
                    "ess_per_step": effective / (steps * chains),
                    "ess_per_second": effective / seconds,
                    "r_hat": float(inference.r_hat(projected).max()),
                    "bias": max(0.0, inference.sliced_wasserstein(crowd, reference) ** 2 - floor**2) ** 0.5 / spread,
                }
            )
    return rows


def best(rows: list[dict], sampler: str) -> dict | None:
    """The row of most effective samples a step among those whose bias is allowed; None where there is none."""
    allowed = [row for row in rows if row["sampler"] == sampler and row["bias"] is not None]
    allowed = [row for row in allowed if row["bias"] <= ALLOWED_BIAS]
    return max(allowed, key=lambda row: row["ess_per_step"], default=None)


def summarise(by_target: dict[str, list[dict]]) -> str:
    """Each sampler at its own best step size, and the ratio of the two."""
    lines = [f"{'density':<14}{'sampler':<10}{'step size':>11}{'ESS/step':>11}{'ESS/s':>10}{'R̂':>7}{'bias':>8}"]
    for name, rows in by_target.items():
        found = {sampler: best(rows, sampler) for sampler in ("langevin", "ozaki")}
        for sampler, row in found.items():
            if row is None:
                lines.append(f"{name:<14}{sampler:<10} no step size with a bias of at most {ALLOWED_BIAS:g}")
                continue
            lines.append(
                f"{name:<14}{sampler:<10}{row['step_size']:>11.4g}{row['ess_per_step']:>11.4g}"
                f"{row['ess_per_second']:>10.4g}{row['r_hat']:>7.3f}{row['bias']:>8.3f}"
            )
        if all(found.values()):
            ratios = (found["ozaki"][key] / found["langevin"][key] for key in ("ess_per_step", "ess_per_second"))
            lines.append(f"{name:<14}ozaki / langevin: {next(ratios):.3g}× a step, {next(ratios):.3g}× a second")
    return "\n".join(lines)


def mixing_figure(by_target: dict[str, list[dict]]) -> Figure:
    """Effective samples a step and bias over the step size, a column for each density."""
    figure = Figure(figsize=(2.8 * len(by_target), 5), layout="constrained")
    axes = figure.subplots(2, len(by_target), squeeze=False)
    for column, (name, rows) in zip(axes.T, by_target.items(), strict=True):
        for sampler in ("langevin", "ozaki"):
            own = [row for row in rows if row["sampler"] == sampler and row["bias"] is not None]
            for axis, key in zip(column, ("ess_per_step", "bias"), strict=True):
                axis.loglog([row["step_size"] for row in own], [row[key] for row in own], "o-", ms=3, label=sampler)
        column[0].set(title=name, ylabel="effective samples a step")
        column[1].set(xlabel="step size", ylabel="bias")
        for axis in column:
            axis.xaxis.set_minor_formatter(NullFormatter())
        column[1].axhline(ALLOWED_BIAS, color="gray", linestyle="--", linewidth=1)
    axes[0, 0].legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.mixing", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS, "images"], default=[*TARGETS, "images"])
    parser.add_argument("--images", type=Path, default=Path("checkpoints/mnist_low_rank"), help="run folder of images")
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, for a quick look")
    parser.add_argument("--grid", type=float, nargs="+", help="step sizes, in units of 1 / largest curvature",
                        default=[0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 3.0, 10.0, 30.0, 100.0, 1000.0, 1e4])  # fmt: skip
    parser.add_argument("--image-grid", type=float, nargs="+", default=[0.03, 0.1, 0.3, 0.6, 1.0, 1.5, 3.0],
                        help="of images, in units of σ²")  # fmt: skip
    parser.add_argument("--max-exponent", type=float, default=0.0,
                        help="of the Ozaki step: 0 is Langevin's step in convex directions")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None, help="of the networks")
    args = parser.parse_args(arguments)
    device = world.join(args.device).device
    by_target = {}
    for name in args.targets:
        on_images = name == "images"
        target = of_images(args.images, device) if on_images else TARGETS[name]()
        grid = args.image_grid if on_images else args.grid
        by_target[name] = mixing_of(target, grid, args.chains, args.share, args.max_exponent, args.seed)
        print(summarise({name: by_target[name]}), flush=True)
    settings = {key: getattr(args, key) for key in ("chains", "share", "max_exponent", "seed", "images")} | {
        "plane_sigma": PLANE_SIGMA,
        "allowed_bias": ALLOWED_BIAS,
    }
    rows = [{"density": name} | row for name, rows in by_target.items() for row in rows]
    path = save_table("mixing", rows, settings, device)
    save_figure("mixing", mixing_figure(by_target))
    print("\nEach at its own best step size:\n" + summarise(by_target))
    print("written:", path, "and", path.with_suffix(".png"))


if __name__ == "__main__":
    run(main)
