"""How accurate the second-order score is: `python -m experiments.accuracy`, the paper's first table.

Densities whose noisy scores are known: a correlated normal in 100 dimensions (all of s2), mixtures of 20 logistics in
50 and 80 (the diagonal of s2). Each method trains the same MLP for the same number of network evaluations: a step that
needs the network at three points counts three batches, and so has a third of the steps. Learning rates are chosen for
each method, density and noise level by the error on validation points, with a seed that is not in the table. A run
that is already in the folder `--run` is not repeated.
"""

import argparse
import statistics
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import configs
import inference
from configs import Config
from datasets import DENSITIES, Mixture
from experiments.results import run, save_figure, save_table
from experiments.runs import figures_of, trained
from runners import world

__all__ = ["DATA", "METHODS", "error", "figures", "summarise"]

DATA = {"normal": "low_rank", "logistics_50": "diagonal", "logistics_80": "diagonal"}
"""Of each configuration under `configs/synthetic/`: the head, which is also the part of s2 that is compared."""

METHODS = {
    "jacobian of dsm": ("none", "dsm", 1),
    "jacobian of dsm_vr": ("none", "dsm_vr", 2),
    "d2sm": ("joint", "dsm", 2),
    "d2sm_vr": ("joint", "dsm_vr", 3),
    "centered": ("joint", "centered", 1),
    "centered_vr": ("joint", "centered_vr", 3),
    "jacobian matching": ("joint", "jacobian", 4),
}
"""Head, objective, and evaluations of the network for each point of a batch: at x₊, x and x₋, as the objective needs
them; a Jacobian-vector product counts two."""

BASELINE = "jacobian of dsm_vr"


def settings(data: str, method: str, noise: float, lr: float, seed: int, budget: int, overrides: list[str]) -> Config:
    """The run of one cell: the density's file, with what the method changes."""
    head, objective, evaluations = METHODS[method]
    changes = [
        f"model.head={DATA[data] if head == 'joint' else head}",
        f"model.trunk={'shared' if head == 'joint' else 'separate'}",
        *("model.ngf=128", "model.ema_rate=0.99", "checkpoint_epochs=1000", "save_interval=1000"),
        *(f"loss={objective}", f"lr={lr}", f"max_steps={budget // evaluations}"),
    ]
    given = {"runner": "SyntheticRunner", "noise": noise, "seed": seed}
    return configs.load(configs.find(f"synthetic/{data}.yml"), [*changes, *overrides], **given)


@cache
def exact(density: str, dimension: int, noise: float, points: int, seed: int, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Noisy points `(points, D)` and the exact s2 there, its diagonal alone where that is compared."""
    law: Mixture = DENSITIES[density](dimension)
    generator = torch.Generator().manual_seed(seed)
    clean = law.sample(points, generator)
    x = clean + noise * torch.randn(clean.shape, generator=generator)
    parts = [law.s2(part.double(), noise).float() for part in x.split(250)]
    return x, torch.cat([part.diagonal(dim1=1, dim2=2).clone() if diagonal else part for part in parts])


@torch.no_grad()
def error(model, config: Config, points: int, seed: int, diagonal: bool) -> dict[str, float]:
    """Mean squared Frobenius error of s2, or of the Jacobian of s1 where the model has no second order, on test points.

    Args:
        model: of `models`.
        config: of its run, for density and noise level.
        points: how many.
        seed: of the points.
        diagonal: compare the diagonals alone.

    Returns:
        `error`, in units of 1/σ⁴, and `relative_error`, divided by the mean of ‖s2‖².
    """
    x, truth = exact(config.data.density, config.data.dimension, config.noise, points, seed, diagonal)
    device = next(model.parameters()).device
    made = size = 0.0
    for some, target in zip(x.split(500), truth.split(500), strict=True):
        _, s2 = model(some.to(device))
        if s2 is None:
            learned = inference.jacobian(model.s1, some.to(device), rows=10)
            learned = learned.diagonal(dim1=1, dim2=2) if diagonal else learned
        else:
            learned = s2.full_diagonal() if diagonal else s2.dense()
        made += float((learned.cpu() - target).square().sum(dtype=torch.float64))
        size += float(target.square().sum(dtype=torch.float64))
    return {"error": made / len(x), "relative_error": made / size}


def figures(data: str, method: str, noise: float, seeds: list[int], args: argparse.Namespace, here: world.World):
    """A row for each seed, trained with the learning rate that is best on validation points."""

    def found(lr: float, seed: int, points: int, points_seed: int) -> dict:
        config = settings(data, method, noise, lr, seed, args.budget, args.overrides)
        folder = args.run / f"{data}_{method}_{noise:g}_{lr:g}_{seed}".replace(" ", "_")
        diagonal = DATA[data] == "diagonal"
        tested = {"points": points, "points_seed": points_seed}
        return figures_of(
            trained(config, folder, here, lambda m: error(m, config, points, points_seed, diagonal), tested)
        )

    validated = {lr: found(lr, 100, min(2000, args.points), 1)["error"] for lr in args.lrs}
    lr = min(validated, key=validated.get)
    for seed in seeds:
        row = {"data": data, "noise": noise, "method": method, "lr": lr, "seed": seed}
        yield row | found(lr, seed, args.points, 2)


def summarise(rows: list[dict]) -> str:
    """The table: relative errors, mean ± standard deviation over the seeds, and as a ratio to the baseline's."""
    lines = [f"{'data':<14}{'σ':<6}{'method':<22}{'lr':>8}{'error':>12}{'relative error':>20}{'of baseline':>14}"]
    for data, noise in dict.fromkeys((row["data"], row["noise"]) for row in rows):
        cell = [row for row in rows if (row["data"], row["noise"]) == (data, noise)]
        means = {}
        for method in dict.fromkeys(row["method"] for row in cell):
            own = [row["relative_error"] for row in cell if row["method"] == method]
            means[method] = statistics.mean(own), statistics.stdev(own) if len(own) > 1 else 0.0
        for method, (mean, spread) in means.items():
            own = [row for row in cell if row["method"] == method]
            ratio = f"{mean / means[BASELINE][0]:.2f}" if BASELINE in means else "–"
            absolute = statistics.mean(row["error"] for row in own)
            lines.append(
                f"{data:<14}{noise:<6g}{method:<22}{own[0]['lr']:>8g}{absolute:>12.4g}"
                f"{f'{mean:.4f} ± {spread:.4f}':>20}{ratio:>14}"
            )
    return "\n".join(lines)


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
    parser = argparse.ArgumentParser(prog="python -m experiments.accuracy", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=", ".join(METHODS))  # fmt: skip
    parser.add_argument("--lrs", type=float, nargs="+", default=[2e-3, 5e-3], help="learning rates to choose from")
    parser.add_argument("--budget", type=int, default=6000, help="batches through the network, in each training")
    parser.add_argument("--points", type=int, default=5000, help="test points")
    parser.add_argument("--set", action="append", default=["batch_size=128"], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--device", default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/accuracy"))
    args = parser.parse_args(arguments)
    here = world.join(args.device)
    rows = []
    for data in args.data:
        for noise in args.noise:
            for method in args.methods:
                rows += figures(data, method, noise, args.seeds, args, here)
                own = [f"{row['relative_error']:.4f}" for row in rows[-len(args.seeds) :]]
                print(f"{data}, σ = {noise:g}, {method}: lr {rows[-1]['lr']:g}, relative errors", *own, flush=True)
    print(summarise(rows))
    used = {"budget": args.budget, "points": args.points, "overrides": " ".join(args.overrides)}
    print("written:", save_table("accuracy", rows, used, here.device), save_figure("accuracy", picture(rows)))


if __name__ == "__main__":
    run(main)
