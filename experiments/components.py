"""In which directions an image may differ: `python -m experiments.components`, a figure of the paper.

Noisy images of a trained low-rank model, their posterior mean, standard deviation and leading principal components; and
walks along them from the mean of some of the images.
"""

import argparse
from pathlib import Path

import torch

import datasets
import inference
import models
from experiments.results import run, save_figure

__all__ = ["main"]


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.components", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mnist_low_rank"), help="run folder")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--refine", type=int, default=2, help="steps of subspace iteration")
    parser.add_argument("--walk", type=int, default=0, help="which image the walks start from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    s1, s2, config = models.load(args.model)
    data = datasets.load(config, "test")
    p = next(inference.noisy_batches(data, config.noise, args.seed, batch_size=args.images))
    found = inference.posterior(s1, s2, p.inputs, config.noise)
    title = f"{config.data.dataset}, σ = {config.noise:g}"
    figures = {
        "components": inference.posterior_figure(found, data.shape, p.clean, args.components, title),
        "components_refined": inference.posterior_figure(
            found, data.shape, p.clean, args.components, f"{title}, {args.refine} steps of refinement", args.refine
        ),
        "walks": inference.walk_figure(found, data.shape, args.walk, args.components, refine=args.refine),
    }
    print("written:", *(save_figure(name, figure) for name, figure in figures.items()))


if __name__ == "__main__":
    run(main)
