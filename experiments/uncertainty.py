"""The leading principal components of the posterior, five ways: `python -m experiments.uncertainty`.

On the same noisy test images and the same denoiser: the trained second order in one call of the network; the same
refined by one and two steps of subspace iteration; the full Jacobian of s1; and what needs no second order at all,
subspace iteration on the denoiser from a random start until it converges. What each catches of the residual
r = x − E[x|x̃], what trace it predicts, and what it costs for an image.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import configs
import datasets
import inference
import losses
import models
from experiments.results import run, save_table
from experiments.runs import trained
from runners import world

__all__ = ["compare", "trained_on_digits"]

COMPONENTS = 5
BATCH = 20


def trained_on_digits(run: Path, here: world.World, overrides: list[str]) -> Path:
    """A run of `digits_low_rank.yml` on a shared trunk, trained where `run` does not have it."""
    changes = ["model.trunk=shared", *overrides]
    config = configs.load(configs.find("digits_low_rank.yml"), changes, runner="LowRankHybridRunner", noise=0.5)
    return trained(config, run / "digits_low_rank_shared", here)


def compare(folder: Path, count: int, device: torch.device, seed: int = 0) -> list[dict]:
    """A row for each method.

    Args:
        folder: the run folder or checkpoint of a low-rank model; its data set must be at hand.
        count: of test images.
        device: where.
        seed: of the noise and the random start.

    Returns:
        rows with `images`, `method`, `captured_5`, `trace_ratio` (None where no trace is predicted), `calls` of the
        network, a product with its Jacobian counted as one, and `milliseconds`, an image both.
    """
    s1, s2, config = models.load(folder, device)
    sigma, data = config.noise, datasets.load(config, "test", device)
    generator = torch.Generator(device).manual_seed(seed)
    dimension = torch.Size(data.shape).numel()

    def ours(x: Tensor, refine: int = 0):
        found = inference.posterior(s1, s2, x, sigma)
        _, directions = found.principal_components(COMPONENTS, refine)
        return directions, found.covariance.trace(), torch.full((len(x),), 1 + refine * COMPONENTS, device=device)

    def refined(steps: int) -> Callable:
        def method(x: Tensor):
            directions, _, calls = ours(x, steps)
            return directions, None, calls

        return method

    def full_jacobian(x: Tensor):
        covariance = sigma**4 * inference.jacobian(s1, x, rows=8)  # of 20 images at a time: 2 GiB on MNIST
        covariance.diagonal(dim1=1, dim2=2).add_(sigma**2)
        _, vectors = torch.linalg.eigh(covariance)
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
        return vectors.flip(2)[:, :, :COMPONENTS], trace, torch.full((len(x),), dimension, device=device)

    def iterated(x: Tensor):
        _, directions, calls = inference.denoiser_components(s1, x, sigma, COMPONENTS, generator=generator)
        return directions, None, calls

    methods = {
        "ours": ours,
        "ours, refined once": refined(1),
        "ours, refined twice": refined(2),
        "Jacobian of s1": full_jacobian,
        "subspace iteration": iterated,
    }
    batches = []
    some = replace(data, images=data.images[:count])
    for p in inference.noisy_batches(some, sigma, seed, batch_size=BATCH):
        with torch.no_grad():
            batches.append((p.inputs, p.clean - losses.posterior_mean(s1(p.inputs), p.inputs, sigma)))
    energy = sum(float(residual.square().sum()) for _, residual in batches)
    images = len(some)
    rows = []
    for name, method in methods.items():
        method(batches[0][0][:2])  # what is done once is not counted
        start = time.perf_counter()
        found = [method(x) for x, _ in batches]
        calls = sum(float(called.sum()) for _, _, called in found)  # waits for a GPU
        seconds = time.perf_counter() - start
        caught = traces = 0.0
        for (directions, trace, _), (_, residual) in zip(found, batches, strict=True):
            caught += float((directions.mT @ residual[:, :, None]).square().sum())
            traces += 0.0 if trace is None else float(trace.sum())
        rows.append(
            {
                "images": images,
                "method": name,
                "captured_5": caught / energy,
                "trace_ratio": energy / traces if traces else None,
                "calls": calls / images,
                "milliseconds": 1e3 * seconds / images,
            }
        )
    return rows


def summarise(rows: list[dict]) -> str:
    """The table, the methods of each data set one below the other."""
    head = f"{'data':<8}{'images':>7}  {'method':<22}{'captured_5':>11}{'trace_ratio':>12}"
    lines = [head + f"{'calls':>8}{'ms':>9}{'faster':>9} (an image each; faster than subspace iteration)"]
    for row in rows:
        slow = next(
            other["milliseconds"]
            for other in rows
            if (other["data"], other["method"]) == (row["data"], "subspace iteration")
        )
        trace = "–" if row["trace_ratio"] is None else f"{row['trace_ratio']:.3f}"
        lines.append(
            f"{row['data']:<8}{row['images']:>7}  {row['method']:<22}{row['captured_5']:>11.3f}{trace:>12}"
            f"{row['calls']:>8.0f}{row['milliseconds']:>9.2f}{slow / row['milliseconds']:>8.1f}×"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.uncertainty", description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("checkpoints/mnist_low_rank"), help="run folder of MNIST")
    parser.add_argument("--data", nargs="+", choices=("digits", "mnist"), default=["digits", "mnist"])
    parser.add_argument("--images", type=int, default=20, help="test images of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
                        help="of the run on the digits")  # fmt: skip
    parser.add_argument("--device", default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/uncertainty"))
    args = parser.parse_args(arguments)
    here = world.join(args.device)
    rows = []
    for name in args.data:
        folder = trained_on_digits(args.run, here, args.overrides) if name == "digits" else args.mnist
        found = compare(folder, args.images, here.device, args.seed)
        rows += [{"data": name} | row for row in found]
    print(summarise(rows))
    settings = {"components": COMPONENTS, "batch": BATCH, "seed": args.seed, "mnist": args.mnist}
    print("written:", save_table("uncertainty", rows, settings, here.device))


if __name__ == "__main__":
    run(main)
