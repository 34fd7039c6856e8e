"""How accurate the third-order score is: `python -m experiments.third_order`.

Densities whose noisy scores are known: two in the plane, and a mixture of logistics in 20 dimensions. Each objective
trains s1, s2 and s3 together, for the same number of steps on the same points. The error is that of `s3(v, v, ·)` along
random v ~ N(0, I), divided by the mean square of the exact one; beside the head's it is that of the derivative of s2 by
automatic differentiation, and of the second derivative of s1, of the same run. A run that is already in the folder
`--run` is not repeated.
"""

from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

import configs
from configs import Config, UserError
from datasets import DENSITIES, generator_of
from experiments.harness import (
    argument_parser,
    over_seeds,
    print_progress,
    run,
    save_table,
    table,
    trained,
    whole_number,
)
from linalg import MatrixDerivative, SecondDerivative
from losses import OBJECTIVES
from models import Scores
from runners import distributed

__all__ = ["DATA", "errors", "settings"]

DATA = {
    "two_moons": ["data.dimension=2", "rank=1", "model.third_rank=4"],
    "gaussians": ["data.dimension=2", "rank=1", "model.third_rank=4"],
    "logistics": ["data.dimension=20", "rank=10", "model.third_rank=20"],
}
"""Densities, and what their networks are."""


def settings(data: str, objective: str, noise: float, seed: int, steps: int, overrides: list[str]) -> Config:
    """The run of one cell: the file of the plane, with what the density and the objective change."""
    changes = [
        *(f"data.density={data}", *DATA[data], "model.order=3", f"loss={objective}"),
        *("model.ema_rate=0.995", "model.ema_ramp=true", "lr=0.003", "lr_schedule=cosine", "warmup_steps=50"),
        *("clip_grad=10", "checkpoint_epochs=1000", "save_interval=1000", f"max_steps={steps}"),
    ]
    file = configs.find("synthetic/plane.yml")
    return configs.load(file, [*changes, *overrides], runner="SyntheticRunner", noise=noise, seed=seed)


@cache
def exact(density: str, dimension: int, noise: float, points: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy points x, a random v for each, and `s3(v, v, ·)` there, `(points, D)` each."""
    mixture, generator = DENSITIES[density](dimension), generator_of(seed)
    clean = mixture.sample(points, generator)
    x, v = (torch.randn(clean.shape, generator=generator) for _ in range(2))
    x = clean + noise * x
    parts = zip(x.double().split(500), v.double().split(500), strict=True)
    return x, v, torch.cat([mixture.s3(some, noise).contract(along) for some, along in parts]).float()


@torch.no_grad()
def errors(scores: Scores, config: Config, points: int, seed: int) -> dict[str, float]:
    """Relative errors of `s3(v, v, ·)` on test points.

    Args:
        scores: of all three orders, on the CPU.
        config: says the density.
        points: how many.
        seed: of the points.

    Returns:
        `s3`, of the head; `derivative_of_s2` and `second_derivative_of_s1`, what a user without it would take; and
        `size`, the mean of `‖s3(v, v, ·)‖²`, in 1/units⁶.
    """
    x, v, truth = exact(config.data.density, config.data.dimension, scores.sigma, points, seed)
    assert scores.s2 is not None  # every run here has all three
    assert scores.s3 is not None
    learned = {
        "s3": scores.s3(x).contract(v),
        "derivative_of_s2": MatrixDerivative(scores.s2, x).contract(v),
        "second_derivative_of_s1": SecondDerivative(scores.s1, x).contract(v),
    }
    size = float(truth.square().sum(1).mean())
    return {name: float((wrong - truth).square().sum(1).mean()) / size for name, wrong in learned.items()} | {
        "size": size
    }


def main(arguments: list[str] | None = None) -> None:
    shared = {"seeds": [0], "noise": [0.2, 0.4, 0.8], "set": []}
    parser = argument_parser("experiments.third_order", __doc__, run=Path("runs/third_order"), **shared)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES[3], default=list(OBJECTIVES[3]))
    parser.add_argument("--steps", type=whole_number, default=3000, help="of each training")
    parser.add_argument("--points", type=whole_number, default=5000, help="test points")
    args = parser.parse_args(arguments)
    if fixed := [change for change in args.overrides if change.startswith(("data.density", "data.dimension", "loss="))]:
        raise UserError(f"--set {fixed[0]}: each row has its own; see --data and --objectives")
    world = distributed.join("cpu")
    rows = []
    for data in args.data:
        for noise in args.noise:
            for objective in args.objectives:
                for seed in args.seeds:
                    config = settings(data, objective, noise, seed, args.steps, args.overrides)
                    folder = args.run / f"{data}_{objective}_{noise:g}_{seed}"
                    measure = partial(errors, config=config, points=args.points, seed=2)
                    measured = trained(config, folder, world, measure, {"points": args.points})
                    rows.append({"data": data, "noise": noise, "objective": objective, "seed": seed, **measured})
                    print_progress(rows[-1])
    columns = {"data": "{}", "noise": "{:g}", "objective": "{}", "s3": "{:.3f}", "derivative_of_s2": "{:.3f}"}
    print(table(over_seeds(rows, "data", "noise", "objective"), columns | {"second_derivative_of_s1": "{:.3f}"}))
    used = {"steps": args.steps, "points": args.points, "overrides": " ".join(args.overrides)}
    print("written:", save_table(args.results / "third_order.csv", rows, used, world.device))


if __name__ == "__main__":
    run(main)
