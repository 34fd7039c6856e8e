"""Where a noisy point may have come from: `python -m experiments.ellipses`, a figure of the paper.

On densities in the plane: for some noisy points, the posterior mean and an ellipse of two standard deviations of
Cov[x|x̃], exact and learned.
"""

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
from experiments.harness import argument_parser, run, save_figure, trained, whole_number
from models import Scores
from runners import distributed

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
def picture(learned: dict[str, Scores], points: int, seed: int) -> Figure:
    """A panel for each density, named as in `datasets.DENSITIES`."""
    figure = Figure(figsize=(4.6 * len(learned), 5.2), layout="constrained")
    for axis, (name, scores) in zip(figure.subplots(1, len(learned), squeeze=False)[0], learned.items(), strict=True):
        density = datasets.DENSITIES[name](2)
        generator = datasets.generator_of(seed)
        clean = density.sample(3000, generator)
        noisy = clean[:points] + scores.sigma * torch.randn(points, 2, generator=generator)
        axis.plot(*clean.T.numpy(), ",", color="gray", alpha=0.6)
        axis.plot(*noisy.T.numpy(), "x", color="black", ms=4)
        for source, colour in ((density.at(scores.sigma), "tab:blue"), (scores, "tab:red")):
            posterior = inference.posterior(source, noisy)
            draw_ellipses(axis, posterior.mean, posterior.covariance.dense(), colour)
        axis.set(title=f"{name}: exact (blue), learned (red)", aspect="equal", xticks=[], yticks=[])
    return figure


def main(arguments: list[str] | None = None) -> None:
    shared = {"noise": 0.3, "seed": 0, "device": None}
    parser = argument_parser("experiments.ellipses", __doc__, run=Path("runs/ellipses"), **shared)
    parser.add_argument("--densities", nargs="+", default=["gaussians", "two_moons", "rings"])
    parser.add_argument("--steps", type=whole_number, default=6000)
    parser.add_argument("--points", type=whole_number, default=25)
    args = parser.parse_args(arguments)
    world = distributed.join(args.device)
    learned = {}
    for name in args.densities:
        changes = [f"data.density={name}", f"max_steps={args.steps}", "data.size=20000", "save_interval=1000"]
        file = configs.find("synthetic/plane.yml")
        config = configs.load(file, changes, runner="SyntheticRunner", noise=args.noise, seed=args.seed)
        folder = args.run / f"{name}_{args.noise:g}_{args.seed}"
        metrics = trained(config, folder, world)
        print(f"{name}: relative error of s2 {metrics['relative_s2_error']:.4g}", flush=True)
        learned[name] = models.load(folder).at(args.noise)
    print("written:", save_figure(args.results / "ellipses.png", picture(learned, args.points, args.seed)))


if __name__ == "__main__":
    run(main)
