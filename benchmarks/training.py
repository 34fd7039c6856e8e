"""A whole training step of each configuration: `python -m benchmarks.training`.

Everything in a step but the reading of data, in every precision, and against the published arrangement of the losses.
Only ratios between rows of the same run carry over to another machine.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import configs
import datasets
import losses
import runners
from benchmarks.harness import measure
from configs import Config
from experiments.harness import argument_parser, machine, print_progress, run, save_table, table, whole_number
from runners import distributed
from runners.runner import Runner
from runners.state import TrainingState
from runners.training import take_step

__all__ = ["STEPS", "Step", "fresh_runner", "published_losses", "published_step", "step_time"]

FIRST_ORDER = ("digits_dsm.yml", "dsm_mnist.yml", "dsm_cifar10.yml")
HYBRID = {
    "unet_mnist.yml": ("LowRankHybridRunner", "mnist_low_rank_shared.yml"),
    "unet_cifar10.yml": ("DoubleDiagonalHybridRunner", "cifar10_diagonal_shared.yml"),
}
UNETS = {
    "dsm_mnist.yml": "mnist.yml",
    "dsm_cifar10.yml": "cifar10.yml",
    "unet_mnist.yml": "mnist.yml",
    "unet_cifar10.yml": "cifar10.yml",
}
"""The configuration of the same images by a U-Net."""
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, channels last": {"channels_last": True},
    "fp32, compiled": {"compile": True},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, compiled, channels last": {"precision": "bf16", "compile": True, "channels_last": True},
}


@dataclass(frozen=True)
class Step:
    """What is timed.

    Attributes:
        config: the configuration whose steps are compared.
        variant: of it, in words.
        runner: that takes the step.
        file: the configuration that is loaded.
        changes: arguments of `step_time`.
    """

    config: str
    variant: str
    runner: str
    file: str
    changes: dict[str, Any]


def _steps() -> Iterator[Step]:
    for name in FIRST_ORDER:
        for variant, changes in VARIANTS.items():
            yield Step(name, variant, "UnetDSMRunner", name, changes)
        yield from _unet_steps(name, "UnetDSMRunner", "dsm")
    for name, (runner, shared) in HYBRID.items():
        for loss, objective in losses.OBJECTIVES[2].items():
            if objective.published:
                changes = {"published": True, "loss": loss}
                yield Step(name, f"{loss}, published arrangement", runner, name, changes)
                yield Step(name, loss, runner, name, {"loss": loss})
        for variant, changes in VARIANTS.items():
            yield Step(name, f"{Path(shared).stem}, {variant}", runner, shared, changes)
        yield from _unet_steps(name, "LowRankHybridRunner", "centered_jacobian")


def _unet_steps(name: str, runner: str, loss: str) -> Iterator[Step]:
    if name in UNETS:
        for precision in ("fp32", "bf16"):
            changes = {"loss": loss, "precision": precision}
            yield Step(name, f"U-Net, {precision}", runner, UNETS[name], changes)


STEPS = list(_steps())


def fresh_runner(config: Config, folder: Path, device: torch.device) -> tuple[Runner, TrainingState, Tensor]:
    """A runner on random images of the configuration's shape, the state at the start of its training, and a batch."""
    shape = (max(20, 2 * config.batch_size), *config.data.shape)  # a tenth are test images
    np.savez(folder / "images.npz", images=np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8))
    data = config.data.model_copy(update={"dataset": "npz"})
    config = config.model_copy(update={"data": data, "data_dir": str(folder / "images.npz")})
    world = distributed.World(device)
    assert config.runner is not None
    runner = runners.get(config.runner)(config, folder, world, folder)
    runner.load_data()
    batch = next(datasets.batches(runner.train_data, torch.arange(config.batch_size)[None]))
    return runner, TrainingState(runner.config, runner.train_data.shape, world), batch


def step_time(
    name: str, runner_name: str, device: torch.device, repeats: int, published: bool = False, **changes: Any
) -> float:
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
    step: Callable[..., object] = published_step if published else take_step
    with tempfile.TemporaryDirectory() as folder:
        runner, state, batch = fresh_runner(config, Path(folder), device)
        return measure(lambda: step(runner, state, batch), device, repeats)


def published_step(runner: Runner, state: TrainingState, clean: Tensor) -> None:
    """A training step with `published_losses`."""
    published_losses(runner, state, clean).backward()
    state.update()


def published_losses(runner: Runner, state: TrainingState, clean: Tensor) -> Tensor:
    """The loss as the published program arranges it: each order draws noise of its own, every network is called at
    each point by itself, and ψ and its target are D×D matrices."""
    sigma, network = runner.config.sigmas[0], state.network
    objective = losses.OBJECTIVES[2][runner.config.loss]

    first = losses.perturb(clean, sigma, with_clean=True)
    s1 = torch.cat([network.first_order(x, sigma) for x in first.inputs.split(len(clean))])
    first_order = losses.dsm_vr(s1, first)

    second = losses.perturb(clean, sigma, antithetic="minus" in objective.s2_points)
    inputs = second.inputs.split(len(clean))
    s1 = torch.cat([network.first_order(x, sigma) for x in inputs])
    s2 = torch.cat([network.second_order(x, sigma).dense() for x in inputs])
    assert objective.second_order is not None
    second_order = objective.second_order(s1, s2, second)
    return runner.first_order_weight * first_order / sigma**2 + second_order


def main(arguments: list[str] | None = None) -> None:
    names = list(dict.fromkeys(step.config for step in STEPS))
    parser = argument_parser("benchmarks.training", __doc__, device=None)
    parser.add_argument("--batch-size", type=whole_number, help="in place of the configurations' own")
    parser.add_argument("--repeats", type=whole_number, default=10)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CONFIG", help=", ".join(names))
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", help="only these, as the table names them")
    args = parser.parse_args(arguments)
    device = distributed.join(args.device).device
    print(f"training step on {machine(device)}, median of {args.repeats}")
    rows: list[dict] = []
    baselines: dict[str, float] = {}
    for step in STEPS:
        if step.config not in args.only or step.variant not in (args.variants or [step.variant]):
            continue
        batch = args.batch_size or configs.load(configs.find(step.file)).batch_size
        seconds = step_time(step.file, step.runner, device, args.repeats, batch_size=batch, **step.changes)
        row = {"config": step.config, "batch": batch, "variant": step.variant, "images_per_second": batch / seconds}
        rows.append(row | {"ratio": baselines.setdefault(step.config, seconds) / seconds})
        print_progress(rows[-1])
    columns = {"config": "{}", "batch": "{:d}", "variant": "{}", "images_per_second": "{:.1f}", "ratio": "{:.2f}"}
    print(table(rows, columns))
    print("written:", save_table(args.results / "benchmark_training.csv", rows, {"repeats": args.repeats}, device))


if __name__ == "__main__":
    run(main)
