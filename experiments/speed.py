"""How fast it is: `python -m experiments.speed loss | step | eval`.

`loss`: value and gradient of a second-order loss alone, structured against dense matrices. `step`: a whole
training step, against the published arrangement of it and in every precision. `eval`: s2 from a pair of networks
(with fresh weights), and what it is used for, against automatic differentiation of s1. Figures of one run on one
machine: only ratios between rows of the same run carry over to another.
"""

import argparse
import functools
import itertools
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

import configs
import datasets
import inference
import losses
import models
import runners
from configs import Config
from experiments.results import machine, run, save_table
from inference.jacobian import jacobian_rows
from models import DiagonalPlusLowRank
from runners import world
from runners.base import Runner
from runners.hybrid import HybridRunner

__all__ = ["eval_cost", "eval_tables", "loss_cost", "measure", "peak_memory", "published_losses", "step_time"]

SECOND_ORDER = ("d2sm", "d2sm_vr", "d2sm_centered", "d2sm_centered_vr")
LOSS_SIZES = {"(40, 784, 50)": (40, 784, 50), "(8, 3072, diagonal)": (8, 3072, 0)}
HYBRID_CONFIGS = {
    "unet_mnist.yml": ("LowRankHybridRunner", "mnist_low_rank_shared.yml"),
    "unet_cifar10.yml": ("DoubleDiagonalHybridRunner", "cifar10_diagonal_shared.yml"),
}
STEP_CONFIGS = {
    "digits_dsm.yml": "UnetDSMRunner",
    "dsm_mnist.yml": "UnetDSMRunner",
    "dsm_cifar10.yml": "UnetDSMRunner",
}
STEP_VARIANTS = {
    "fp32": {},
    "fp32, channels last": {"channels_last": True},
    "fp32, compiled": {"compile": True},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, compiled, channels last": {"precision": "bf16", "compile": True, "channels_last": True},
}


def measure(call, device: torch.device, repeats: int) -> float:
    """The median time of `call`, in seconds, after two calls that are not counted."""
    times = []
    for _ in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(call, device: torch.device) -> float:
    """By how much `call` raises the memory in use at its peak, in bytes: the allocator's count on a GPU, the
    resident set on the CPU, where `call` must be the first large thing that the process does."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def loss_cost(
    name: str, size: tuple[int, int, int], dense: bool, device_name: str, repeats: int
) -> tuple[float, float]:
    """Time (s) and peak memory (bytes) of value and gradient of one loss.

    Args:
        name: of the loss, in `losses`.
        size: (B, D, r), r = 0 for a diagonal s2.
        dense: form the D×D matrices, the plain formula.
        device_name: where.
        repeats: of the timing; the dense form is timed once.
    """
    device = torch.device(device_name)
    batch, dimension, rank = size
    points = 3 if name.endswith("_vr") else 1
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    p = losses.perturb(normal(batch, dimension), 0.5, antithetic=points == 3, noise=normal(batch, dimension))
    leaves = [normal(points * batch, dimension), normal(points * batch, dimension)]
    if rank:
        leaves.append(normal(points * batch, dimension, rank))
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def call() -> None:
        s2 = DiagonalPlusLowRank(*leaves[1:])
        value = getattr(losses, name)(leaves[0], s2.dense() if dense else s2, p)
        torch.autograd.grad(value, leaves, allow_unused=True)

    memory = peak_memory(call, device)
    return measure(call, device, 1 if dense else repeats), memory


def print_loss_table(device: torch.device, repeats: int) -> None:
    """Structured against dense, each in a process of its own so that their peaks of memory are apart."""
    print(f"second-order losses, value and gradient, on {machine(device)}")
    print(f"{'loss':<18}{'(B, D, r)':<22}{'dense':>16}{'structured':>18}{'faster':>9}{'memory':>9}")
    spawn = multiprocessing.get_context("spawn")
    for label, size in LOSS_SIZES.items():
        for name in SECOND_ORDER:
            costs = []
            for dense in (True, False):
                with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                    costs.append(pool.submit(loss_cost, name, size, dense, str(device), repeats).result())
            (slow, large), (fast, small) = costs
            absolute = f"{1e3 * slow:>8.1f} ms {large / 2**20:>5.0f}M{1e3 * fast:>11.2f} ms {small / 2**20:>4.0f}M"
            ratios = f"{slow / fast:>8.0f}×{large / max(small, 2**20):>8.0f}×"
            print(f"{name:<18}{label:<22}{absolute}{ratios}", flush=True)


def print_loss_share(device: torch.device, batch_size: int) -> None:
    """How much of a training step of `unet_mnist.yml` its second-order loss takes."""
    config = configs.load(configs.find("unet_mnist.yml"))
    size = (batch_size, config.data.channels * config.data.image_size**2, config.rank)
    seconds, _ = loss_cost("d2sm", size, False, str(device), repeats=10)
    step = step_time("unet_mnist.yml", "LowRankHybridRunner", device, repeats=3, batch_size=batch_size)
    times = f"{1e3 * seconds:.1f} ms of a step of {1e3 * step:.0f} ms"
    print(f"d2sm at {size}: {times}, {seconds / step:.1%} (unet_mnist.yml)")


def fresh_runner(config: Config, folder: Path, device: torch.device) -> tuple[Runner, torch.Tensor]:
    """A runner on random images of the configuration's shape, set up to train, and a batch of them."""
    size = config.data.image_size
    shape = (2 * config.batch_size, size, size, config.data.channels)
    np.savez(folder / "images.npz", images=np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8))
    data = config.data.model_copy(update={"dataset": "npz"})
    config = config.model_copy(update={"data": data, "data_dir": str(folder / "images.npz")})
    runner = runners.get(config.runner)(config, folder, world.World(device), folder)
    runner.set_up()
    return runner, next(datasets.batches(runner.train_data, torch.arange(config.batch_size)[None]))


def step_time(name: str, runner_name: str, device: torch.device, repeats: int, published=False, **changes) -> float:
    """The time of a training step of a configuration, everything in it but the reading of data, in seconds.

    Args:
        name: of the configuration.
        runner_name: of its runner.
        device: where.
        repeats: of the timing.
        published: arrange the losses as the published program does.
        changes: values in place of the configuration's own.
    """
    config = configs.load(configs.find(name), runner=runner_name).model_copy(update=changes)
    torch.compiler.reset()  # else it takes the sizes of another configuration for sizes that change from step to step
    with tempfile.TemporaryDirectory() as folder:
        runner, batch = fresh_runner(config, Path(folder), device)
        if published:
            runner.losses = functools.partial(published_losses, runner)

        def step() -> None:
            runner.take_step(batch)
            runner.unread.clear()

        return measure(step, device, repeats)


def published_losses(runner: HybridRunner, clean: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """The losses as the published program arranges them: each order draws noise of its own, every network is
    called at each point by itself, and ψ and its target are D×D matrices."""
    sigma, model = runner.config.noise, runner.model
    reduced = runner.config.loss == "dsm_vr"
    points = {"plus": 1, "minus": -1, "clean": 0} if reduced else {"plus": 1}

    first = losses.perturb(clean, sigma, with_clean=True)
    s1 = torch.cat([model.s1(x) for x in first.inputs.split(len(clean))])
    first_order = losses.dsm_vr(s1, first)

    second = losses.perturb(clean, sigma, antithetic=reduced)
    s1 = torch.cat([model.s1(clean + sign * sigma * second.noise) for sign in points.values()])
    s2 = torch.cat([model.s2(clean + sign * sigma * second.noise).dense() for sign in points.values()])
    second_order = (losses.d2sm_vr if reduced else losses.d2sm)(s1, s2, second)
    return {"loss": runner.first_order_weight * first_order / sigma**2 + second_order}


def print_step_table(device: torch.device, batch_size: int | None, repeats: int, only: str | None = None) -> None:
    """Images a second of each configuration in each variant, and the ratio to the first."""
    print(f"training step on {machine(device)}, median of {repeats}")
    print(f"{'config':<18}{'batch':>6}  {'variant':<40}{'images/s':>10}{'ratio':>8}")
    for name, (runner_name, variants) in step_tables().items():
        if only not in (None, name):
            continue
        slowest = None
        for label, (file, changes) in variants.items():
            changes = changes | ({"batch_size": batch_size} if batch_size else {})
            batch = changes.get("batch_size") or configs.load(configs.find(file)).batch_size
            seconds = step_time(file, runner_name, device, repeats, **changes)
            slowest = slowest or seconds
            print(f"{name:<18}{batch:>6}  {label:<40}{batch / seconds:>10.1f}{slowest / seconds:>8.2f}", flush=True)


def step_tables() -> dict[str, tuple[str, dict[str, tuple[str, dict]]]]:
    """For each configuration: its runner and its variants, each a file and the values to change in it."""
    tables = {
        name: (runner, {label: (name, changes) for label, changes in STEP_VARIANTS.items()})
        for name, runner in STEP_CONFIGS.items()
    }
    for name, (runner, shared) in HYBRID_CONFIGS.items():
        variants = {}
        for loss in ("dsm", "dsm_vr"):
            variants[f"{loss}, published arrangement"] = (name, {"published": True, "loss": loss})
            variants[loss] = (name, {"loss": loss})
        tables[name] = (
            runner,
            variants | {f"{shared.removesuffix('.yml')}, {k}": (shared, v) for k, v in STEP_VARIANTS.items()},
        )
    return tables


def eval_cost(
    config_name: str, runner_name: str, rank: int, use: str, batch: int, rows: int, device_name: str
) -> tuple[float, float]:
    """Time (s) and peak memory (bytes) of one way to have s2, or something made from it, at a batch of images.

    Args:
        config_name, runner_name, rank: of the networks, which have fresh weights.
        use: `"s2"`, `"product"`, `"diagonal"` or `"top 5"` from the second-order head; the same after `"jacobian "`
            from s1 alone.
        batch: images.
        rows: of `"jacobian s2"`: at least so many of its D rows, and the time of them all in proportion.
        device_name: where.
    """
    device = torch.device(device_name)
    config = configs.load(configs.find(config_name), runner=runner_name, noise=0.5, rank=rank)
    model = models.build_model(config).to(device).eval()
    dimension = config.data.channels * config.data.image_size**2
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, dimension, generator=generator).to(device)
    v = torch.randn(batch, dimension, 1, generator=generator).to(device)

    in_one = min(64, rows)
    blocks = math.ceil(min(rows, dimension) / in_one)

    def some_rows() -> None:
        for _ in itertools.islice(jacobian_rows(model.s1, x, in_one), blocks):
            pass

    calls = {
        "s2": lambda: model.s2(x),
        "product": lambda: model.s2(x) @ v,
        "diagonal": lambda: model.s2(x).full_diagonal(),
        "top 5": lambda: model.s2(x).affine(config.noise**4, config.noise**2).eigh_top(5),
        "jacobian s2": some_rows,
        "jacobian product": lambda: inference.jacobian_product(model.s1, x, v),
        "jacobian diagonal": lambda: inference.jacobian_diagonal(model.s1, x, 100),
        "jacobian top 5": lambda: inference.denoiser_components(model.s1, x, config.noise, 5, generator=None),
    }
    with torch.no_grad():
        memory = peak_memory(calls[use], device)
        if use != "jacobian s2":
            return measure(calls[use], device, 3), memory
        if device.type == "cpu":  # minutes: once is enough
            start = time.perf_counter()
            some_rows()
            seconds = time.perf_counter() - start
        else:
            seconds = measure(some_rows, device, 3)
        return seconds * dimension / min(blocks * in_one, dimension), memory


def eval_tables() -> dict[tuple[str, str], dict[str, list[tuple[str, str, int]]]]:
    """For each configuration and runner, what is wanted and the ways to it: label, `use` of `eval_cost`, rank."""

    def uses(dimension: int, ranks: tuple[int, ...]) -> dict[str, list[tuple[str, str, int]]]:
        rank = ranks[0]
        heads = [(f"low-rank head, rank {rank}", "s2", rank) for rank in ranks]
        return {
            "s2": [(f"{dimension} vector-Jacobian products of s1", "jacobian s2", rank), *heads],
            "product": [
                ("a Jacobian-vector product of s1", "jacobian product", rank),
                (f"rank {rank}", "product", rank),
            ],
            "diagonal": [
                ("100 Jacobian-vector products", "jacobian diagonal", rank),
                (f"rank {rank}", "diagonal", rank),
            ],
            "top 5": [("subspace iteration on the denoiser", "jacobian top 5", rank), (f"rank {rank}", "top 5", rank)],
        }

    return {
        ("digits_low_rank.yml", "LowRankHybridRunner"): uses(64, (16,)),
        ("unet_mnist.yml", "LowRankHybridRunner"): uses(784, (50, 20, 200, 1000)),
        ("unet_cifar10.yml", "DoubleDiagonalHybridRunner"): {
            "s2": [("3072 vector-Jacobian products of s1", "jacobian s2", 1), ("diagonal head", "s2", 1)],
        },
    }


def print_eval_table(device: torch.device, batch: int, rows: int, only: str | None = None) -> list[dict]:
    """s2 and its uses by the heads, against automatic differentiation of s1 at the same images, each in a process of
    its own; `rows` as of `eval_cost`."""
    print(f"s2 at a batch of {batch} images on {machine(device)}, fresh weights")
    print(f"{'config':<22}{'of':<10}{'by':<38}{'time':>12}{'memory':>9}{'faster':>9}")
    spawn = multiprocessing.get_context("spawn")
    table = []
    for (name, runner), uses in eval_tables().items():
        if only not in (None, name):
            continue
        for what, ways in uses.items():
            slowest = None
            for label, use, rank in ways:
                with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                    cost = pool.submit(eval_cost, name, runner, rank, use, batch, rows, str(device))
                    seconds, memory = cost.result()
                slowest = slowest or seconds
                cells = f"{seconds:>10.3f} s{memory / 2**20:>8.0f}M{slowest / seconds:>8.1f}×"
                print(f"{name:<22}{what:<10}{label:<38}{cells}", flush=True)
                table.append({"config": name, "of": what, "by": label, "seconds": seconds, "bytes": memory})
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__)
    parser.add_argument("what", choices=("loss", "step", "eval"))
    parser.add_argument("--device", default=world.best_device())
    parser.add_argument("--batch-size", type=int, help="of a step, in place of the configurations' own; of eval, 2")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rows", type=int, default=10_000,
                        help="of eval: time so many rows of the Jacobian, and take the others to be alike")  # fmt: skip
    parser.add_argument("--only", metavar="CONFIG", help="of a step or eval: only the rows of this configuration")
    args = parser.parse_args(arguments)
    names = {"loss": set(), "step": step_tables().keys(), "eval": {name for name, _ in eval_tables()}}[args.what]
    if args.only is not None and args.only not in names:
        parser.error(f"argument --only: {args.what} has no {args.only}; one of {', '.join(sorted(names))}")
    device = world.join(args.device).device
    if args.what == "loss":
        print_loss_table(device, args.repeats)
        print_loss_share(device, args.batch_size or 8)
    elif args.what == "eval":
        batch = args.batch_size or 2
        table = print_eval_table(device, batch, args.rows, args.only)
        print("written:", save_table("speed_eval", table, {"batch": batch, "rows": args.rows}, device))
    else:
        print_step_table(device, args.batch_size, args.repeats, args.only)


if __name__ == "__main__":
    run(main)
