"""Which objective learns the best posterior covariance: `python -m experiments.objectives`.

The same networks, data and number of steps for each objective; denoiser alone and its Jacobian as the
baseline. Metrics over the test set (those of the Jacobian over as many of its images as half a minute allows), mean ±
standard deviation over the seeds. A run that is already in the folder `--run` is not repeated, so an interrupted table
resumes where it stopped.
"""

from pathlib import Path

import torch

import configs
import evaluation
from configs import Config, UserError
from experiments.harness import (
    argument_parser,
    image_test_set,
    over_seeds,
    print_progress,
    run,
    save_table,
    table,
    trained,
)
from models import Scores
from runners.distributed import World, join

__all__ = ["COLUMNS", "METHODS", "jacobian_metrics", "metrics_of", "summarise"]

FREE, POSITIVE = "model.covariance=free", "model.covariance=positive"
METHODS = {
    "jacobian": ("UnetDSMRunner", ["loss=dsm", FREE]),
    "d2sm": ("LowRankHybridRunner", ["loss=dsm", FREE]),
    "d2sm_vr": ("LowRankHybridRunner", ["loss=dsm_vr", FREE]),
    "centered, free": ("LowRankHybridRunner", ["loss=centered", FREE]),
    "centered": ("LowRankHybridRunner", ["loss=centered", POSITIVE]),
    "centered_vr": ("LowRankHybridRunner", ["loss=centered_vr", POSITIVE]),
}
DATA = {"digits": "digits_low_rank.yml", "mnist": "mnist_low_rank_shared.yml"}
COLUMNS = ("mse", "captured_1", "captured_5", "captured_10", "trace_ratio", "negative_variances", "coverage_90")


def metrics_of(
    method: str, config_name: str, noise: float, seed: int, overrides: list[str], world: World, run: Path
) -> dict:
    """The metrics of one run, trained if its folder does not have them yet; those of `jacobian` are its own."""
    runner_name, changes = METHODS[method]
    folder = run / f"{config_name.removesuffix('.yml')}_{method.replace(', ', '_')}_{noise:g}_{seed}"
    file = configs.find(config_name)
    config = configs.load(file, [*overrides, *changes], runner=runner_name, noise=noise, seed=seed)
    if method == "jacobian":
        return trained(config, folder, world, lambda scores: jacobian_metrics(scores, config, world.device))
    return trained(config, folder, world)


def jacobian_metrics(scores: Scores, config: Config, device: torch.device) -> dict:
    """Those of `σ⁴∇s1 + σ²I`, on the test images of half a minute, and the denoiser's error over all.

    Raises:
        UserError: where half a minute is not enough for one image.
    """
    data = image_test_set(config, device)
    jacobian = evaluation.jacobian_predictions(scores, data, config.seed, seconds=30)
    if not jacobian.variances:
        raise UserError("the Jacobian of one image takes more than half a minute here; leave it out with --methods")
    return evaluation.denoising_metrics(scores, data, config.seed) | jacobian.metrics()


def summarise(rows: list[dict]) -> str:
    """The table: a line for each noise level and method, mean ± standard deviation over its rows."""
    columns = {"noise": "{:g}", "method": "{}"} | dict.fromkeys(COLUMNS, "{:.4f}")
    return table(over_seeds(rows, "noise", "method"), columns)


def main(arguments: list[str] | None = None) -> None:
    shared = {"noise": [0.3, 0.5], "seeds": [0, 1, 2], "set": [], "device": None}
    parser = argument_parser("experiments.objectives", __doc__, run=Path("runs/objectives"), **shared)
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=", ".join(METHODS))  # fmt: skip
    args = parser.parse_args(arguments)
    world = join(args.device)
    rows = []
    for noise in args.noise:
        for method in args.methods:
            for seed in args.seeds:
                metrics = metrics_of(method, DATA[args.data], noise, seed, args.overrides, world, args.run)
                rows.append({"noise": noise, "method": method, "seed": seed} | {key: metrics[key] for key in COLUMNS})
                print_progress(rows[-1])
    print(summarise(rows))
    settings = {"config": DATA[args.data], "overrides": " ".join(args.overrides)}
    print("written:", save_table(args.results / f"objectives_{args.data}.csv", rows, settings, world.device))


if __name__ == "__main__":
    run(main)
