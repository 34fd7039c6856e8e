"""Standard deviations of images at several noise levels: `python -m experiments.diagonals`, a figure of the paper.

For MNIST and CIFAR-10, a diagonal model for each σ, all trained alike: noisy and denoised images and √diag Cov[x|x̃],
and whether the predicted variance is right on average.
"""

from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import configs
import datasets
import evaluation
import inference
from configs import Config
from experiments.harness import (
    argument_parser,
    image_test_set,
    open_run,
    print_progress,
    run,
    save_figure,
    save_table,
    trained,
    whole_number,
)
from models import Scores
from runners import distributed

__all__ = ["COLUMNS", "DATA", "metrics_on", "picture", "settings"]

SHAPE_OF_MNIST = ["data.dataset=MNIST", "data.image_size=28", "data.channels=1", "data.random_flip=false"]
DATA = {
    "digits": ("digits_diagonal.yml", []),
    "mnist": ("cifar10_diagonal_shared.yml", [*SHAPE_OF_MNIST, "data_dir=data/mnist"]),
    "cifar10": ("cifar10_diagonal_shared.yml", []),
}
SMALL = ["model.ngf=16", "batch_size=32", "lr=0.001", "model.ema_rate=0.99", "precision=auto"]


COLUMNS = ("mse", "psnr_gain", "trace_ratio", "negative_variances", "coverage_90")


def settings(name: str, noise: float, seed: int, steps: int, overrides: list[str]) -> Config:
    """The run of a data set at one noise level."""
    file, changes = DATA[name]
    small = [] if name == "digits" else SMALL
    overrides = [*changes, *small, f"max_steps={steps}", *overrides]
    return configs.load(configs.find(file), overrides, runner="DoubleDiagonalHybridRunner", noise=noise, seed=seed)


def metrics_on(scores: Scores, config: Config, count: int, device: torch.device) -> dict:
    """Those of `evaluation.denoising_metrics` and `evaluation.Predictions`, over the first `count` test images."""
    data = image_test_set(config, device, count)
    denoising = evaluation.denoising_metrics(scores, data, config.seed)
    return denoising | evaluation.predictions(scores, data, config.seed).metrics()


@torch.no_grad()
def picture(folders: dict[float, Path], images: int, seed: int) -> Figure:
    """The same images at each noise level: noisy, denoised, standard deviation."""
    rows: dict[str, Tensor] = {}
    scales = {}
    for noise, folder in folders.items():
        scores, _, data = open_run(folder)
        p = next(evaluation.noisy_batches(data, noise, seed, batch_size=images))
        posterior = inference.posterior(scores, p.inputs)
        std = posterior.std().unflatten(1, data.shape).mean(1, keepdim=True)
        rows.setdefault("clean", datasets.displayable(p.clean, data.shape, data.limits))
        rows[f"σ = {noise:g}"] = datasets.displayable(p.inputs, data.shape, data.limits)
        rows[f"denoised, {noise:g}"] = datasets.displayable(posterior.mean, data.shape, data.limits)
        rows[f"std, {noise:g}"] = std
        scales[f"std, {noise:g}"] = ("magma", 0.0, float(std.max()))
    return evaluation.image_rows(rows, scales=scales)


def main(arguments: list[str] | None = None) -> None:
    shared = {"noise": [0.3, 0.5, 0.8, 1.0], "seed": 0, "set": [], "device": None}
    parser = argument_parser("experiments.diagonals", __doc__, run=Path("runs/diagonals"), **shared)
    parser.add_argument("--data", nargs="+", choices=DATA, default=["mnist", "cifar10"])
    parser.add_argument("--steps", type=whole_number, default=400)
    parser.add_argument("--images", type=whole_number, default=10, help="in the picture")
    parser.add_argument("--tested", type=whole_number, default=2000, help="test images of the metrics")
    args = parser.parse_args(arguments)
    world = distributed.join(args.device)
    rows, written = [], []
    for name in args.data:
        folders = {}
        for noise in args.noise:
            config = settings(name, noise, args.seed, args.steps, args.overrides)
            folders[noise] = args.run / f"{name}_{noise:g}_{args.seed}"
            measure = partial(metrics_on, config=config, count=args.tested, device=world.device)
            metrics = trained(config, folders[noise], world, measure, {"tested": args.tested})
            rows.append({"data": name, "noise": noise} | {key: metrics[key] for key in COLUMNS})
            print_progress(rows[-1])
        path = args.results / f"diagonals_{name}.png"
        written.append(save_figure(path, picture(folders, args.images, args.seed)))
    used = {"steps": args.steps, "tested": args.tested, "seed": args.seed}
    used |= {"overrides": " ".join([*SMALL, *args.overrides])}
    print("written:", save_table(args.results / "diagonals.csv", rows, used, world.device), *written)


if __name__ == "__main__":
    run(main)
