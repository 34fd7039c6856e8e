"""Where a noisy point may have come from: `python -m experiments.ellipses`, a figure of the paper.

On densities in the plane: for some noisy points, the posterior mean and an ellipse of two standard deviations of
Cov[x|x̃], exact and learned.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor

import configs
import datasets
import inference
import models
from experiments.results import run, save_figure
from experiments.runs import figures_of, trained
from runners import world

__all__ = ["draw_ellipses", "picture"]


def draw_ellipses(axis: Axes, mean: Tensor, covariance: Tensor, colour: str) -> None:
    """An ellipse of two standard deviations about each mean `(n, 2)`; covariances `(n, 2, 2)`, a negative variance is
    drawn as none."""
    variances, directions = torch.linalg.eigh(covariance)
    lengths = 4 * variances.clamp(min=0).sqrt()
    angles = torch.atan2(directions[:, 1, 1], directions[:, 0, 1]).rad2deg()
    for center, (short, long), angle in zip(mean.tolist(), lengths.tolist(), angles.tolist(), strict=True):
        axis.add_patch(Ellipse(center, long, short, angle=angle, fill=False, edgecolor=colour, linewidth=1.2))
    axis.plot(*mean.T.numpy(), ".", color=colour, ms=3)


@torch.no_grad()
def picture(folders: dict[str, Path], noise: float, points: int, seed: int) -> Figure:
    """A panel for each density."""
    figure = Figure(figsize=(4.6 * len(folders), 5.2), layout="constrained")
    for axis, (name, folder) in zip(figure.subplots(1, len(folders), squeeze=False)[0], folders.items(), strict=True):
        s1, s2, _ = models.load(folder)
        density = datasets.DENSITIES[name](2)
        generator = torch.Generator().manual_seed(seed)
        clean = density.sample(3000, generator)
        noisy = clean[:points] + noise * torch.randn(points, 2, generator=generator)
        axis.plot(*clean.T.numpy(), ",", color="gray", alpha=0.6)
        axis.plot(*noisy.T.numpy(), "x", color="black", ms=4)
        exact = inference.posterior(
            lambda x, d=density: d.s1(x, noise), lambda x, d=density: d.s2(x, noise), noisy, noise
        )
        learned = inference.posterior(s1, s2, noisy, noise)
        for found, colour in ((exact, "tab:blue"), (learned, "tab:red")):
            draw_ellipses(axis, found.mean, found.covariance.dense(), colour)
        axis.set(title=f"{name}: exact (blue), learned (red)", aspect="equal", xticks=[], yticks=[])
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.ellipses", description=__doc__)
    parser.add_argument("--densities", nargs="+", default=["gaussians", "two_moons", "rings"])
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--points", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/ellipses"))
    args = parser.parse_args(arguments)
    here = world.join(args.device)
    folders = {}
    for name in args.densities:
        changes = [f"data.density={name}", f"max_steps={args.steps}", "data.size=20000", "save_interval=1000"]
        given = {"runner": "SyntheticRunner", "noise": args.noise, "seed": args.seed}
        config = configs.load(configs.find("synthetic/plane.yml"), changes, **given)
        folders[name] = trained(config, args.run / f"{name}_{args.noise:g}_{args.seed}", here)
        print(f"{name}: relative error of s2 {figures_of(folders[name])['relative_s2_error']:.4g}", flush=True)
    print("written:", save_figure("ellipses", picture(folders, args.noise, args.points, args.seed)))


if __name__ == "__main__":
    run(main)
