"""Langevin and Ozaki chains to look at: `python -m experiments.trajectories`, two figures of the paper.

In the plane, with exact scores: one chain of each at equal step sizes. On images, with learned scores: both samplers
from the same starts at equal step sizes, over the steps, as posterior means of the states.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import datasets
import evaluation
import inference
from experiments.harness import argument_parser, open_run, positive, run, save_figure, whole_number

__all__ = ["SAMPLERS", "in_the_plane", "on_images"]

SAMPLERS: dict[str, Callable[..., Any]] = {"langevin": inference.langevin, "ozaki": inference.ozaki}


def in_the_plane(step_sizes: list[float], steps: int, seed: int) -> Figure:
    """Chains upon a long, narrow Gaussian: a row for each sampler, a column for each step size."""
    normal = datasets.multivariate_normal([0.0, 0.0], [[0.505, 0.495], [0.495, 0.505]])
    side = torch.linspace(-2.5, 2.5, 100)
    density = normal.log_prob(torch.cartesian_prod(side, side)).exp().view(100, 100).T
    levels = density.max() * torch.tensor([3.0, 2.0, 1.0]).square().div(-2).exp()  # 3, 2 and 1 standard deviations
    start = torch.tensor([[-1.2, -1.6]])
    figure = Figure(figsize=(3.3 * len(step_sizes), 6.8), layout="constrained")
    rows = figure.subplots(len(SAMPLERS), len(step_sizes), squeeze=False)
    for row, (name, sampler) in zip(rows, SAMPLERS.items(), strict=True):
        for axis, step_size in zip(row, step_sizes, strict=True):
            axis.contour(side, side, density, levels=levels, colors="gray", linewidths=0.7)
            axis.set(title=f"{name}, ε = {step_size:g}", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
            axis.set(aspect="equal", xticks=[], yticks=[])
            try:
                options = {"seed": seed, "keep_every": 1, "progress": False}
                _, chain = sampler(normal.at(0.0), start, step_size, steps, **options)
            except inference.DivergedError:
                axis.text(0, 0, "diverged", ha="center", color="tab:red")
                continue
            axis.plot(*torch.cat([start[None], chain])[:, 0].T, ".-", ms=3, lw=0.6)
    return figure


@torch.no_grad()
def on_images(folder: Path, sigma: float, step_size: float, shown: list[int], images: int, seed: int) -> Figure:
    """Posterior means of the states after `shown` steps, a row each, of both samplers from noisy test images."""
    scores, config, data = open_run(folder, sigma=sigma)
    start = next(evaluation.noisy_batches(data, scores.sigma, seed, batch_size=images)).inputs
    rows = {"start": start}
    for name, sampler in SAMPLERS.items():
        states: dict[int, Tensor] = {}
        own = datasets.derived_seed(seed, 1)  # not the noise of the start again
        options: dict[str, Any] = {"seed": own, "progress": False, "callback": states.__setitem__}
        if name == "ozaki":
            options |= {"max_exponent": 0.0, "tolerance": 1e-3}
        try:
            sampler(scores, start, step_size, max(shown), **options)
        except inference.DivergedError as error:
            print(error)
        rows |= {f"{name}\n{step} steps": states[step] for step in shown if step in states}
    means = {label: inference.posterior_mean(scores.s1(x), x, scores.sigma) for label, x in rows.items()}
    pictures = {label: datasets.displayable(mean, data.shape, data.limits) for label, mean in means.items()}
    title = f"{config.data.dataset}, σ = {scores.sigma:g}, ε = {step_size:g}: E[x|x̃] of the states"
    return evaluation.image_rows(pictures, title)


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.trajectories", __doc__, seed=0, noise=0.5)
    parser.add_argument("--step-sizes", type=positive, nargs="+", default=[0.004, 0.015, 0.1, 0.5], help="in the plane")
    parser.add_argument("--steps", type=whole_number, default=60, help="in the plane")
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mnist"), help="run folder of images")
    parser.add_argument("--image-step-size", type=positive, default=0.2)
    parser.add_argument("--shown", type=whole_number, nargs="+", default=[1, 3, 10, 30, 100], help="steps on images")
    parser.add_argument("--images", type=whole_number, default=10)
    args = parser.parse_args(arguments)
    plane = in_the_plane(args.step_sizes, args.steps, args.seed)
    images = on_images(args.model, args.noise, args.image_step_size, args.shown, args.images, args.seed)
    written = save_figure(args.results / "trajectories.png", plane)
    print("written:", written, save_figure(args.results / "trajectories_images.png", images))


if __name__ == "__main__":
    run(main)
