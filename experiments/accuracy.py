"""How accurate the second-order score is: `python -m experiments.accuracy`, the paper's first table.

Densities whose noisy scores are known: a correlated normal in 100 dimensions (all of s2), mixtures of 20 logistics in
50 and 80 (the diagonal of s2). Each method trains the same MLP for the same number of network evaluations: a step that
needs the network at three points counts three batches, and so has a third of the steps. Learning rates are chosen for
each method, density and noise level by the error on validation points, with a seed that is not in the table. A run
that is already in the folder `--run` is not repeated.
"""

import argparse
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import configs
import linalg
from configs import Config, UserError
from datasets import DENSITIES, generator_of
from experiments.harness import (
    SECOND_ORDER,
    argument_parser,
    over_seeds,
    positive,
    run,
    save_figure,
    save_table,
    table,
    trained,
    whole_number,
)
from losses import OBJECTIVES
from models import Scores
from runners import distributed

__all__ = ["BASELINE", "DATA", "METHODS", "error", "evaluations", "measured_rows", "settings", "summarise"]

DATA = {"normal": "low_rank", "logistics_50": "diagonal", "logistics_80": "diagonal"}
"""Of each configuration under `configs/synthetic/`: the head, which is also the part of s2 that is compared."""

METHODS = {f"jacobian of {name}": (1, name) for name in OBJECTIVES[1]} | {
    method: (2, name) for method, name in SECOND_ORDER.items()
}
"""Of each method: the highest order that it learns, and its objective."""

BASELINE = "jacobian of dsm_vr"


def evaluations(method: str) -> int:
    """Of the network, for each point of a batch."""
    order, objective = METHODS[method]
    return OBJECTIVES[order][objective].evaluations


def settings(data: str, method: str, noise: float, lr: float, seed: int, budget: int, overrides: list[str]) -> Config:
    """The run of one cell: the density's file, with what the method changes."""
    order, objective = METHODS[method]
    changes = [
        f"model.head={DATA[data] if order == 2 else 'none'}",
        f"model.trunk={'shared' if order == 2 else 'separate'}",
        *("model.ngf=128", "model.ema_rate=0.99", "checkpoint_epochs=1000", "save_interval=1000"),
        *(f"loss={objective}", f"lr={lr}", f"max_steps={budget // evaluations(method)}"),
    ]
    file = configs.find(f"synthetic/{data}.yml")
    return configs.load(file, [*changes, *overrides], runner="SyntheticRunner", noise=noise, seed=seed)


@cache
def exact(density: str, dimension: int, noise: float, points: int, seed: int, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Noisy points `(points, D)` and the exact s2 there, its diagonal alone where that is compared."""
    mixture = DENSITIES[density](dimension)
    generator = generator_of(seed)
    clean = mixture.sample(points, generator)
    x = clean + noise * torch.randn(clean.shape, generator=generator)
    parts = [mixture.s2(part.double(), noise).float() for part in x.split(250)]
    return x, torch.cat([part.diagonal(dim1=1, dim2=2).clone() if diagonal else part for part in parts])


@torch.no_grad()
def error(
    scores: Scores, config: Config, points: int, seed: int, diagonal: bool, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Mean squared Frobenius error of s2, or of the Jacobian of s1 where there is no s2, on test points.

    Args:
        scores: of points.
        config: says the density.
        points: how many.
        seed: of the points.
        diagonal: compare the diagonals alone.
        device: of the scores.

    Returns:
        `error`, in units of 1/σ⁴, and `relative_error`, divided by the mean of ‖s2‖².
    """
    x, truth = exact(config.data.density, config.data.dimension, scores.sigma, points, seed, diagonal)
    wrong = size = 0.0
    for some, target in zip(x.split(500), truth.split(500), strict=True):
        noisy = some.to(device)
        s2 = linalg.as_matrix(linalg.jacobian(scores.s1, noisy, rows=10)) if scores.s2 is None else scores.s2(noisy)
        learned = s2.diagonal() if diagonal else s2.dense()
        wrong += float((learned.cpu() - target).square().sum(dtype=torch.float64))
        size += float(target.square().sum(dtype=torch.float64))
    return {"error": wrong / len(x), "relative_error": wrong / size}


def measured_rows(
    data: str, method: str, noise: float, args: argparse.Namespace, world: distributed.World
) -> Iterator[dict]:
    """A row for each seed, trained with the learning rate that is best on validation points."""

    def metrics(lr: float, seed: int, points: int, points_seed: int) -> dict:
        config = settings(data, method, noise, lr, seed, args.budget, args.overrides)
        folder = args.run / f"{data}_{method}_{noise:g}_{lr:g}_{seed}".replace(" ", "_")
        diagonal = DATA[data] == "diagonal"

        def measure(scores: Scores) -> dict[str, float]:
            return error(scores, config, points, points_seed, diagonal, world.device)

        return trained(config, folder, world, measure, {"points": points, "points_seed": points_seed})

    validated = {lr: metrics(lr, 100, min(2000, args.points), 1)["error"] for lr in args.lrs}
    lr = min(validated, key=lambda value: validated[value])
    for seed in args.seeds:
        row = {"data": data, "noise": noise, "method": method, "lr": lr, "seed": seed}
        yield row | metrics(lr, seed, args.points, 2)


def summarise(rows: list[dict]) -> str:
    """The table: errors, mean ± standard deviation over the seeds, and the mean relative to the baseline's."""
    cells = over_seeds(rows, "data", "noise", "method", "lr")
    means = {(cell["data"], cell["noise"], cell["method"]): statistics.mean(cell["relative_error"]) for cell in cells}
    for cell in cells:
        data, noise = cell["data"], cell["noise"]
        if baseline := means.get((data, noise, BASELINE)):
            cell["of_baseline"] = means[data, noise, cell["method"]] / baseline
    columns = {"data": "{}", "noise": "{:g}", "method": "{}", "lr": "{:g}", "error": "{:.4g}"}
    return table(cells, columns | {"relative_error": "{:.4f}", "of_baseline": "{:.2f}"})


def picture(rows: list[dict]) -> Figure:
    """Relative errors over σ, a panel for each density, a line for each method."""
    densities = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(4 * len(densities), 3.6), layout="constrained")
    axes = figure.subplots(1, len(densities), squeeze=False)[0]
    for axis, data in zip(axes, densities, strict=True):
        for method in METHODS:
            own = [row for row in rows if (row["data"], row["method"]) == (data, method)]
            noises = sorted({row["noise"] for row in own})
            values = [[row["relative_error"] for row in own if row["noise"] == noise] for noise in noises]
            if values:
                axis.plot(noises, [statistics.mean(v) for v in values], "o-", ms=4, label=method)
                axis.fill_between(noises, [min(v) for v in values], [max(v) for v in values], alpha=0.2)
        axis.set(xscale="log", yscale="log", title=data, xlabel="σ")
    axes[0].set_ylabel("squared error of s2, relative to ‖s2‖²")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def main(arguments: list[str] | None = None) -> None:
    shared = {"seeds": [0, 1, 2], "noise": [0.01, 0.05, 0.1], "set": ["batch_size=128"], "device": None}
    parser = argument_parser("experiments.accuracy", __doc__, run=Path("runs/accuracy"), **shared)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=", ".join(METHODS))  # fmt: skip
    parser.add_argument("--lrs", type=positive, nargs="+", default=[2e-3, 5e-3], help="learning rates to choose from")
    parser.add_argument("--budget", type=whole_number, default=6000, help="batches through the network, each training")
    parser.add_argument("--points", type=whole_number, default=5000, help="test points")
    args = parser.parse_args(arguments)
    if args.budget < (least := max(map(evaluations, args.methods))):
        raise UserError(f"--budget: {args.budget}; {least} or more is expected")
    world = distributed.join(args.device)
    rows: list[dict] = []
    for data in args.data:
        for noise in args.noise:
            for method in args.methods:
                rows += measured_rows(data, method, noise, args, world)
                own = [f"{row['relative_error']:.4f}" for row in rows[-len(args.seeds) :]]
                print(f"{data}, σ = {noise:g}, {method}: lr {rows[-1]['lr']:g}, relative errors", *own, flush=True)
    print(summarise(rows))
    used = {"budget": args.budget, "points": args.points, "overrides": " ".join(args.overrides)}
    written = save_table(args.results / "accuracy.csv", rows, used, world.device)
    print("written:", written, save_figure(args.results / "accuracy.png", picture(rows)))


if __name__ == "__main__":
    run(main)
