"""Standard deviations of images at several noise levels: `python -m experiments.diagonals`, a figure of the paper.

For MNIST and CIFAR-10, a diagonal model for each σ, all trained alike: noisy and denoised images and √diag Cov[x|x̃],
and whether the predicted variance is right on average.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

import configs
import datasets
import inference
import models
from configs import Config
from experiments.results import run, save_figure, save_table
from experiments.runs import figures_of, trained
from models import ScoreModel, SharedScoreModel
from runners import world

__all__ = ["DATA", "figures", "picture"]

SHAPE_OF_MNIST = ["data.dataset=MNIST", "data.image_size=28", "data.channels=1", "data.random_flip=false"]
DATA = {
    "digits": ("digits_diagonal.yml", []),
    "mnist": ("cifar10_diagonal_shared.yml", [*SHAPE_OF_MNIST, "data_dir=data/mnist"]),
    "cifar10": ("cifar10_diagonal_shared.yml", []),
}
SMALL = ["model.ngf=16", "batch_size=32", "lr=0.001", "model.ema_rate=0.99", "precision=bf16"]


def figures(model: ScoreModel | SharedScoreModel, config: Config, count: int) -> dict[str, float]:
    """Those of `inference.denoise_error` and `inference.Predictions`, over the first `count` test images."""
    data = datasets.load(config, "test", next(model.parameters()).device)
    some = replace(data, images=data.images[:count])
    given = model.s1, some, config.noise, config.seed
    return inference.denoise_error(*given) | inference.predictions(model, *given[1:]).figures()


@torch.no_grad()
def picture(folders: dict[float, Path], images: int, seed: int) -> Figure:
    """The same images at each noise level: noisy, denoised, standard deviation."""
    rows, scales = {}, {}
    for noise, folder in folders.items():
        s1, s2, config = models.load(folder)
        data = datasets.load(config, "test")
        p = next(inference.noisy_batches(data, noise, seed, batch_size=images))
        found = inference.posterior(s1, s2, p.inputs, noise)
        std = found.std().unflatten(1, data.shape).mean(1, keepdim=True).cpu()
        rows.setdefault("clean", inference.displayable(p.clean, data.shape))
        rows[f"σ = {noise:g}"] = inference.displayable(p.inputs, data.shape)
        rows[f"denoised, {noise:g}"] = inference.displayable(found.mean, data.shape)
        rows[f"std, {noise:g}"] = std
        scales[f"std, {noise:g}"] = ("magma", 0.0, float(std.max()))
    return inference.image_rows(rows, scales=scales)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.diagonals", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=["mnist", "cifar10"])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 0.5, 0.8, 1.0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--images", type=int, default=10, help="in the figure")
    parser.add_argument("--tested", type=int, default=2000, help="test images of the figures")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/diagonals"))
    args = parser.parse_args(arguments)
    here = world.join(args.device)
    rows, written = [], []
    for name in args.data:
        file, changes = DATA[name]
        small = [] if name == "digits" else SMALL
        folders = {}
        for noise in args.noise:
            given = {"runner": "DoubleDiagonalHybridRunner", "noise": noise, "seed": args.seed}
            overrides = [*changes, *small, f"max_steps={args.steps}", *args.overrides]
            config = configs.load(configs.find(file), overrides, **given)
            folder = args.run / f"{name}_{noise:g}_{args.seed}"
            folders[noise] = trained(
                config,
                folder,
                here,
                lambda model, config=config: figures(model, config, args.tested),
                {"tested": args.tested},
            )
            found = figures_of(folders[noise])
            keys = ("mse", "psnr_gain", "trace_ratio", "negative_variances", "coverage_90")
            rows.append({"data": name, "noise": noise} | {key: found[key] for key in keys})
            print(
                ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
        written.append(save_figure(f"diagonals_{name}", picture(folders, args.images, args.seed)))
    used = {
        "steps": args.steps,
        "tested": args.tested,
        "seed": args.seed,
        "overrides": " ".join([*SMALL, *args.overrides]),
    }
    print("written:", save_table("diagonals", rows, used, here.device), *written)


if __name__ == "__main__":
    run(main)
