"""The leading principal components of the posterior, five ways: `python -m experiments.uncertainty`.

On the same noisy test images and the same denoiser: the trained second order in one call of the network; the same
refined by one and two steps of subspace iteration; the full Jacobian of s1; and what needs no second order at all,
subspace iteration on the denoiser from a random start until it converges. What each catches of the residual
r = x − E[x|x̃], what trace it predicts, and what it costs for an image.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import configs
import evaluation
import inference
import linalg
from experiments.harness import argument_parser, open_run, run, save_table, table, trained
from models import Scores
from runners import distributed

__all__ = ["METHODS", "Leading", "compare", "summarise", "trained_on_digits"]

COMPONENTS = 5
QUICK = 0.05
BATCH = 20


@dataclass(frozen=True)
class Leading:
    """What a method says of the posterior at B noisy images.

    Attributes:
        directions: the leading principal components, `(B, D, COMPONENTS)`.
        calls: of the network for each image, a product with its Jacobian counted as one; `(B,)`.
        trace: of the covariance, `(B,)`; None where the method does not predict it.
    """

    directions: Tensor
    calls: Tensor
    trace: Tensor | None = None


def by_head(scores: Scores, x: Tensor, generator: torch.Generator, refine: int = 0) -> Leading:
    """The trained second order, refined by so many steps of subspace iteration."""
    posterior = inference.posterior(scores, x)
    _, directions = posterior.principal_components(COMPONENTS, refine, QUICK)
    calls = torch.full((len(x),), 1 + refine * COMPONENTS, device=x.device)
    return Leading(directions, calls, None if refine else posterior.covariance.trace())


def by_jacobian(scores: Scores, x: Tensor, generator: torch.Generator) -> Leading:
    """The whole Jacobian of s1."""
    covariance = scores.sigma**4 * linalg.jacobian(scores.s1, x, rows=8)  # of 20 images at a time: 2 GiB on MNIST
    covariance.diagonal(dim1=1, dim2=2).add_(scores.sigma**2)
    _, vectors = torch.linalg.eigh(covariance)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    return Leading(vectors.flip(2)[:, :, :COMPONENTS], torch.full((len(x),), x.shape[1], device=x.device), trace)


def by_iteration(scores: Scores, x: Tensor, generator: torch.Generator) -> Leading:
    """Subspace iteration on the denoiser, from a random start until it converges."""
    _, directions, calls = inference.denoiser_components(scores, x, COMPONENTS, generator=generator)
    return Leading(directions, calls)


METHODS: dict[str, Callable[[Scores, Tensor, torch.Generator], Leading]] = {
    "ours": by_head,
    "ours, refined once": partial(by_head, refine=1),
    "ours, refined twice": partial(by_head, refine=2),
    "Jacobian of s1": by_jacobian,
    "subspace iteration": by_iteration,
}


def trained_on_digits(run: Path, world: distributed.World, overrides: list[str]) -> Path:
    """The folder of a run of `digits_low_rank.yml` on a shared trunk, trained where `run` does not have it."""
    changes = ["model.trunk=shared", *overrides]
    config = configs.load(configs.find("digits_low_rank.yml"), changes, runner="LowRankHybridRunner", noise=0.5)
    folder = run / "digits_low_rank_shared"
    trained(config, folder, world)
    return folder


def compare(folder: Path, count: int, device: torch.device, seed: int = 0, sigma: float | None = None) -> list[dict]:
    """A row for each method.

    Args:
        folder: the run folder or checkpoint of a low-rank model; its data set must be at hand.
        count: of test images.
        device: where.
        seed: of the noise and the random start.
        sigma: of a model of several noise levels.

    Returns:
        rows with `images`, `method`, `captured_5`, `trace_ratio` (None where no trace is predicted), `calls` of the
        network, a product with its Jacobian counted as one, and `milliseconds`, an image both.
    """
    scores, _, data = open_run(folder, device, count, sigma)
    generator = torch.Generator(device).manual_seed(seed)
    batches = []
    for p in evaluation.noisy_batches(data, scores.sigma, seed, batch_size=BATCH):
        with torch.no_grad():
            mean = inference.posterior_mean(scores.s1(p.inputs), p.inputs, scores.sigma)
        batches.append((p.inputs, p.clean - mean))
    energy = sum(float(residual.square().sum()) for _, residual in batches)
    rows = []
    for name, method in METHODS.items():
        method(scores, batches[0][0][:2], generator)  # what is done once is not counted
        start = time.perf_counter()
        results = [method(scores, x, generator) for x, _ in batches]
        calls = sum(float(leading.calls.sum()) for leading in results)  # waits for a GPU
        seconds = time.perf_counter() - start
        captured = traces = 0.0
        for leading, (_, residual) in zip(results, batches, strict=True):
            captured += float((leading.directions.mT @ residual[:, :, None]).square().sum())
            traces += 0.0 if leading.trace is None else float(leading.trace.sum())
        rows.append(
            {
                "images": len(data),
                "noise": scores.sigma,
                "method": name,
                "captured_5": captured / energy,
                "trace_ratio": energy / traces if traces else None,
                "calls": calls / len(data),
                "milliseconds": 1e3 * seconds / len(data),
            }
        )
    return rows


def summarise(rows: list[dict]) -> str:
    """The table, the methods of each data set one below the other; calls and times for an image, and how many times
    faster than subspace iteration."""
    slowest = {
        (row["data"], row["noise"]): row["milliseconds"] for row in rows if row["method"] == "subspace iteration"
    }
    columns = {
        "data": "{}",
        "noise": "{:g}",
        "images": "{:d}",
        "method": "{}",
        "captured_5": "{:.3f}",
        "trace_ratio": "{:.3f}",
    }
    columns |= {"calls": "{:.0f}", "milliseconds": "{:.2f}", "faster": "{:.1f}×"}
    return table([row | {"faster": slowest[row["data"], row["noise"]] / row["milliseconds"]} for row in rows], columns)


def main(arguments: list[str] | None = None) -> None:
    shared = {"seed": 0, "set": [], "device": None, "noise": [0.5]}
    parser = argument_parser("experiments.uncertainty", __doc__, run=Path("runs/uncertainty"), **shared)
    parser.add_argument("--mnist", type=Path, default=Path("checkpoints/mnist"), help="run folder of MNIST")
    parser.add_argument("--data", nargs="+", choices=("digits", "mnist"), default=["digits", "mnist"])
    parser.add_argument("--images", type=int, default=20, help="test images of each")
    args = parser.parse_args(arguments)
    world = distributed.join(args.device)
    rows = []
    for name in args.data:
        folder = trained_on_digits(args.run, world, args.overrides) if name == "digits" else args.mnist
        for sigma in [0.5] if name == "digits" else args.noise:
            measured = compare(folder, args.images, world.device, args.seed, sigma)
            rows += [{"data": name} | row for row in measured]
    print(summarise(rows))
    settings = {"components": COMPONENTS, "batch": BATCH, "seed": args.seed, "mnist": args.mnist}
    print("written:", save_table(args.results / "uncertainty.csv", rows, settings, world.device))


if __name__ == "__main__":
    run(main)
