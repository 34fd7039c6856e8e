"""Is a second order worth its training? `python -m experiments.cost`.

The same total time of training, by the time that the processor works on it, spent in three ways: on s1 alone, whose
posterior covariance is then asked for by products with its Jacobian (components by subspace iteration until it
converges, variances by Hutchinson's method from 64 products); on both orders at once; and half of it on s1, the other
half on s2, s1 frozen. What each knows of the residual of test images, and what an image costs then. Each training has a
schedule of its own that ends with its time.

A row is written as soon as it is there. What the table has is not repeated, nor a training that is in the folder
`--run`.
"""

from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import configs
import datasets
import models
import runners
from configs import Config
from experiments.harness import (
    argument_parser,
    check_same,
    image_test_set,
    positive,
    print_progress,
    rows_so_far,
    run,
    save_figure,
    save_table,
    table,
    whole_number,
)
from experiments.second_order import DATA, train
from experiments.uncertainty import Answer, by_head, by_iteration, by_probes, noisy_and_residual, quality, timed
from models import Scores
from runners import distributed, run_folder
from runners.distributed import World
from runners.runner import Runner

__all__ = ["WAYS", "measure", "picture", "summarise"]

WAYS = {
    "s1 alone": ["loss=dsm", "clip_grad=1"],
    "both at once": [],
    "s2 on a frozen s1": [],
}
"""What each changes of `mnist.yml`."""

MEASURED = ("mse", "captured_5", "trace_ratio", "log_score")
FIELDS = ("way", "minutes", *MEASURED, "non_positive", "calls", "milliseconds")


def settings(way: str, data: str, noise: float, seed: int, denoiser: Path | None, overrides: list[str]) -> Config:
    """The run of one training; `denoiser` is the folder of the frozen s1, where there is one."""
    changes = [*DATA[data], *WAYS[way], *([f"model.denoiser={denoiser}"] if denoiser else []), *overrides]
    runner = "UnetDSMRunner" if way == "s1 alone" else "LowRankHybridRunner"
    return configs.load(configs.find("mnist.yml"), changes, runner=runner, noise=noise, seed=seed)


def trained_for(minutes: float, config: Config, folder: Path, world: World) -> Path:
    """The run folder `folder`; trained for so long where it is not there yet.

    Raises:
        UserError: where it holds a run of another configuration.
    """
    check_same(config, folder)
    if not (folder / "ckpt" / "checkpoint.pth").exists():
        runner: Runner = runners.get(str(config.runner))(config, folder, world, folder / "images")
        state = train(runner, 60 * minutes)
        run_folder.create(folder, runner.config, folder / "images", ask=False, data=runner.fingerprints())
        state.save(folder / "ckpt")
    return folder


def by_products(scores: Scores, x: Tensor, generator: torch.Generator) -> Answer:
    """What s1 alone says of the posterior: components by iteration, variances by probes."""
    components, variances = by_iteration(scores, x, generator), by_probes(scores, x, generator)
    return replace(variances, calls=components.calls + variances.calls, directions=components.directions)


def measure(scores: Scores, data: datasets.ImageData, seed: int) -> dict[str, float | None]:
    """What the scores say of the posterior of noisy images, and the time of the answer.

    Returns:
        `mse` of the denoiser; `captured_5`, `trace_ratio`, `log_score` and `non_positive` as in
        `experiments.uncertainty`; and, of an image, `calls` of the network and `milliseconds`.
    """
    method = by_products if scores.s2 is None else by_head
    generator = datasets.generator_of(datasets.derived_seed(seed, 1), data.device)
    batches = noisy_and_residual(scores, data, seed)
    residuals = [residual for _, residual in batches]
    answers, costs = timed(method, scores, [x for x, _ in batches], generator)
    return {"mse": float(torch.cat(residuals).square().mean())} | quality(answers, residuals) | costs


def summarise(rows: list[dict]) -> str:
    """The table."""
    columns = {"way": "{}", "minutes": "{:g}", "mse": "{:.5f}", **dict.fromkeys(MEASURED[1:], "{:.3f}")}
    return table(rows, columns | {"calls": "{:.0f}", "milliseconds": "{:.1f}"})


def picture(rows: list[dict]) -> Figure:
    """The measures over the minutes of training, a line for each way."""
    figure = Figure(figsize=(3.4 * len(MEASURED), 3.2), layout="constrained")
    minutes = sorted({row["minutes"] for row in rows})
    for axis, key in zip(figure.subplots(1, len(MEASURED)), MEASURED, strict=True):
        for way in WAYS:
            own = [row for row in rows if row["way"] == way]
            axis.plot([row["minutes"] for row in own], [row[key] for row in own], "o-", label=way)
        axis.set(xscale="log", title=key, xlabel="minutes of training")
        axis.minorticks_off()
        axis.set_xticks(minutes, labels=[f"{number:g}" for number in minutes])
    axis.legend(fontsize=7)
    return figure


def main(arguments: list[str] | None = None) -> None:
    shared = {"seed": 0, "set": [], "device": "cpu", "noise": 0.5}
    parser = argument_parser("experiments.cost", __doc__, run=Path("runs/cost"), **shared)
    parser.add_argument("--data", choices=DATA, default="mnist")
    parser.add_argument("--minutes", type=positive, nargs="+", default=[2, 4, 8, 16], help="of training in all")
    parser.add_argument("--images", type=whole_number, default=60, help="test images")
    args = parser.parse_args(arguments)
    world = distributed.join(args.device)
    used = {key: getattr(args, key) for key in ("data", "noise", "seed", "images")}
    used["overrides"] = " ".join(args.overrides)
    path = args.results / f"cost_{args.data}.csv"
    rows = rows_so_far(path, used, FIELDS)

    def folder_of(way: str, minutes: float) -> Path:
        frozen = way == "s2 on a frozen s1"
        own = minutes / 2 if frozen else minutes
        denoiser = folder_of("s1 alone", own) if frozen else None
        config = settings(way, args.data, args.noise, args.seed, denoiser, args.overrides)
        folder: Path = args.run / f"{args.data}_{way}_{args.noise:g}_{minutes:g}_{args.seed}".replace(" ", "_")
        return trained_for(own, config, folder, world)

    for minutes in args.minutes:
        for way in WAYS:
            key = {"way": way, "minutes": minutes}
            if any(key.items() <= row.items() for row in rows):
                continue
            model = models.load(folder_of(way, minutes), world.device)
            assert model.config is not None  # what is loaded from a folder has one
            test = image_test_set(model.config, world.device, args.images)
            rows.append(key | measure(model.at(args.noise), test, args.seed))
            print_progress(rows[-1])
            save_table(path, rows, used, world.device)
    print(summarise(rows))
    print("written:", path, save_figure(args.results / f"cost_{args.data}.png", picture(rows)))


if __name__ == "__main__":
    run(main)
