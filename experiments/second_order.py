"""What a second-order network learns in a given time, arranged, trained and shaped in different ways:
`python -m experiments.second_order`.

On the same trained denoiser each variant is trained for as long, by the time that the processor works on it, so that
other programs beside it do not count: where its network begins and what it reads (`begun`, `fresh`, `features`,
`shared`), on which targets, in which form. The learning rate falls to its end as that time does. Metrics over the first
test images; as the rival subspace iteration on the denoiser, which needs no training and a hundred calls an image.

A row is written as soon as it is there, and what the table has is not repeated.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import configs
import evaluation
import inference
import models
import runners
from configs import Config
from datasets import ImageData
from experiments.harness import (
    argument_parser,
    image_test_set,
    positive,
    print_progress,
    rows_so_far,
    run,
    save_table,
    table,
    trained,
    training,
    whole_number,
)
from losses import centered_and_jacobian
from models import Scores
from runners import distributed
from runners.distributed import World
from runners.runner import Runner
from runners.state import TrainingState

__all__ = ["RIVAL", "VARIANTS", "Variant", "measure", "summarise", "train"]

RIVAL = "subspace iteration"
RIVAL_IMAGES = 100
DENOISER_STEPS = 200
COMPONENTS = 5
COLUMNS = ("captured_1", "captured_5", "captured_10", "trace_ratio", "correlation_by_image", "coverage_90")
FIELDS = ("variant", "noise", "minutes", "seed", "test_images", "steps", "images", *COLUMNS, "wall_minutes")
DATA = {
    "mnist": [],
    "digits": [
        *("data.dataset=Digits", "data.image_size=8", "data_dir=data", "model.unet.widths=[16, 32]"),
        *("batch_size=128", "warmup_steps=20", "precision=fp32"),
    ],
}
"""What each data set changes of `mnist.yml`."""


@dataclass(frozen=True)
class Variant:
    """What a variant changes of `mnist.yml` with `loss=centered`.

    Attributes:
        changes: of the configuration.
        jacobian_weight: of the probes' part in `centered_jacobian`; its own where it is None.
    """

    changes: tuple[str, ...] = ()
    jacobian_weight: float | None = None


VARIANTS = {
    "begun": Variant(),
    "fresh": Variant(("model.second_order=fresh",)),
    "features": Variant(("model.second_order=features",)),
    "shared": Variant(("model.trunk=shared",)),
    "probes: predicted": Variant(("loss=jacobian_predicted",)),
    "probes: signs": Variant(("loss=jacobian",)),
    "probes: residual": Variant(("loss=jacobian_residual",)),
    "both targets, 3": Variant(("loss=centered_jacobian",), 3.0),
    "both targets, 10": Variant(("loss=centered_jacobian",), 10.0),
    "both targets, 30": Variant(("loss=centered_jacobian",), 30.0),
    "nppc": Variant(("loss=nppc", "model.taper=null", "model.orthogonal=true")),
    "no taper": Variant(("model.taper=null",)),
    "learned tapers": Variant(("model.taper_learned=true",)),
    "rank 8": Variant(("rank=8", "model.taper={2: 2, 4: 3, 8: 2, .inf: 1}")),
    "rank 32": Variant(("rank=32", "model.taper={2: 8, 4: 12, 8: 6, .inf: 6}")),
    "no positions": Variant(("model.covariance_positions=false",)),
}


def denoiser_of_digits(run: Path, world: World) -> Path:
    """The folder of a denoiser of the digits, trained where `run` does not have it."""
    changes = [*DATA["digits"], "loss=dsm", f"max_steps={DENOISER_STEPS}"]
    folder = run / "digits_denoiser"
    trained(configs.load(configs.find("mnist.yml"), changes, runner="UnetDSMRunner", noise=0.5), folder, world)
    return folder


def train(runner: Runner, seconds: float) -> TrainingState:
    """Trains for so many seconds of this process's own time; the schedule of the learning rate ends with them."""
    steps = training(runner)
    state = next(steps)  # the first one loads what is needed and is not counted
    start = time.process_time()
    for state in steps:
        elapsed = time.process_time() - start
        if elapsed >= seconds:
            break
        total = max(state.step + 1, round(state.step * seconds / elapsed))
        state.config = runner.config.model_copy(update={"max_steps": total})
    return state


def runner_of(variant: Variant, config: Config, world: World) -> Runner:
    """What trains the variant, without a run folder."""
    runner: Runner = runners.get(str(config.runner))(config, Path(), world, Path())
    if variant.jacobian_weight is not None:
        second_order: Callable[..., Tensor] = partial(centered_and_jacobian, jacobian_weight=variant.jacobian_weight)
        runner.objective = replace(runner.objective, second_order=second_order)
    return runner


def measure(scores: Scores, data: ImageData, seed: int) -> dict[str, float | list[float]]:
    """The metrics of a second order, `COLUMNS`."""
    metrics = evaluation.predictions(scores, data, seed).metrics()
    return {key: metrics[key] for key in COLUMNS if key in metrics}


def measure_rival(scores: Scores, data: ImageData, seed: int) -> dict[str, float]:
    """What the leading components by subspace iteration on the denoiser capture."""
    captured, energy = torch.zeros(COMPONENTS), 0.0
    for p in evaluation.noisy_batches(data, scores.sigma, seed, batch_size=20):
        _, directions, _ = inference.denoiser_components(scores, p.inputs, COMPONENTS)
        with torch.no_grad():
            residual = p.clean - inference.posterior_mean(scores.s1(p.inputs), p.inputs, scores.sigma)
        captured += (directions.mT @ residual[:, :, None]).square().sum((0, 2)).cpu()
        energy += float(residual.square().sum())
    return {f"captured_{k}": float(captured[:k].sum()) / energy for k in (1, COMPONENTS)}


def row_of(name: str, config: Config, denoiser: Path, minutes: float, count: int, world: World) -> dict:
    """The row of one variant, trained and measured now, or that of the rival.

    Args:
        name: of the variant, or `RIVAL`.
        config: of the run.
        denoiser: run folder of the denoiser.
        minutes: of training.
        count: of test images; the rival's are `RIVAL_IMAGES` at most.
        world: the device.
    """
    start = time.perf_counter()
    row: dict = {"variant": name, "noise": config.noise, "minutes": minutes, "seed": config.seed}
    row |= dict.fromkeys(("test_images", "steps", "images", *COLUMNS, "wall_minutes"))
    sigma = config.sigmas[0]
    if name == RIVAL:
        data = image_test_set(config, world.device, min(count, RIVAL_IMAGES))
        row |= measure_rival(models.load(denoiser, world.device).at(sigma), data, config.seed)
    else:
        runner = runner_of(VARIANTS[name], config, world)
        state = train(runner, 60 * minutes)
        data = image_test_set(config, world.device, count)
        scores = models.score_model(state.averaged.eval(), runner.config, data.shape).at(sigma)
        row |= {"steps": state.step, "images": state.step * config.batch_size} | measure(scores, data, config.seed)
    return row | {"test_images": len(data), "wall_minutes": round((time.perf_counter() - start) / 60, 2)}


def summarise(rows: list[dict]) -> str:
    """The table."""
    columns = {"variant": "{}", "noise": "{:g}", "minutes": "{:g}", "images": "{:d}"}
    return table(rows, columns | dict.fromkeys(COLUMNS, "{:.3f}"))


def main(arguments: list[str] | None = None) -> None:
    names = [*VARIANTS, RIVAL]
    shared = {"seed": 0, "set": [], "device": "cpu", "noise": 0.5}
    parser = argument_parser("experiments.second_order", __doc__, run=Path("runs/second_order"), **shared)
    parser.add_argument("--data", choices=DATA, default="mnist")
    parser.add_argument("--denoiser", type=Path, default=Path("checkpoints/mnist"), help="run folder of MNIST's")
    parser.add_argument("--minutes", type=positive, default=4.0, help="of training, each variant")
    parser.add_argument("--images", type=whole_number, default=500, help="test images")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args(arguments)
    world = distributed.join(args.device)
    denoiser = denoiser_of_digits(args.run, world) if args.data == "digits" else args.denoiser
    path = args.results / f"second_order_{args.data}.csv"
    settings = {"denoiser": denoiser, "images": args.images, "overrides": " ".join(args.overrides)}
    rows = rows_so_far(path, settings, FIELDS)
    for name in args.only:
        own = VARIANTS.get(name, Variant()).changes
        changes = ["loss=centered", *DATA[args.data], f"model.denoiser={denoiser}", *own, *args.overrides]
        file = configs.find("mnist.yml")
        config = configs.load(file, changes, runner="LowRankHybridRunner", noise=args.noise, seed=args.seed)
        key = {"variant": name, "noise": args.noise, "minutes": args.minutes, "seed": args.seed}
        if not any(key.items() <= row.items() for row in rows):
            rows.append(row_of(name, config, denoiser, args.minutes, args.images, world))
            print_progress(rows[-1])
            save_table(path, rows, settings, world.device)
    print(summarise(rows))
    print("written:", path)


if __name__ == "__main__":
    run(main)
