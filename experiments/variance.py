"""s2 with and without variance reduction at small σ: `python -m experiments.variance`, a figure of the paper.

Joint training on a correlated normal with D2SM, D2SM-VR and our two objectives of small variance; the second-order loss
of each step (that of `centered_vr` with its weight, so that the scatter of a curve can be compared, not its height) and
the error against the exact s2 along the way.
"""

from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import configs
from experiments.harness import SECOND_ORDER, argument_parser, run, save_figure, save_table, trained, whole_number
from runners import distributed

__all__ = ["METHODS", "curve", "picture"]

METHODS = ("d2sm", "d2sm_vr", "centered_vr", "jacobian matching")


def curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a scalar that a run has logged."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    scalars = events.Scalars(name)
    return [event.step for event in scalars], [event.value for event in scalars]


def picture(folders: dict[str, Path]) -> Figure:
    """The second-order loss and the relative error of s2 over the steps."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, folder in folders.items():
        left.plot(*curve(folder, "train/second_order"), linewidth=0.4, label=name)
        right.plot(*curve(folder, "test/relative_s2_error"), "o-", ms=3, label=name)
    left.set(xlabel="step", ylabel="second-order loss", yscale="symlog")
    right.set(xlabel="step", ylabel="squared error of s2, relative", yscale="log")
    right.legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    shared = {"noise": 0.01, "seed": 0, "device": None}
    parser = argument_parser("experiments.variance", __doc__, run=Path("runs/variance"), **shared)
    parser.add_argument("--steps", type=whole_number, default=3000)
    args = parser.parse_args(arguments)
    world = distributed.join(args.device)
    changes = [
        *("model.trunk=shared", "model.ngf=128", "model.ema_rate=0.99", "batch_size=128", "lr=0.003"),
        *("data.size=12800", "save_interval=3", "print_every=1", f"max_steps={args.steps}"),
    ]
    file = configs.find("synthetic/normal.yml")
    folders, rows = {}, []
    for name in METHODS:
        loss = SECOND_ORDER[name]
        overrides = [*changes, f"loss={loss}"]
        config = configs.load(file, overrides, runner="SyntheticRunner", noise=args.noise, seed=args.seed)
        folders[name] = args.run / f"{loss}_{args.noise:g}_{args.seed}"
        trained(config, folders[name], world, measure=lambda scores: {})  # its curves have the errors
        steps, errors = curve(folders[name], "test/relative_s2_error")
        rows += [{"objective": name, "step": s, "relative_error": e} for s, e in zip(steps, errors, strict=True)]
        print(f"{name:<20} relative error of s2 after {steps[-1]} steps: {errors[-1]:.4g}", flush=True)
    used = {"noise": args.noise, "seed": args.seed, "overrides": " ".join(changes)}
    written = save_table(args.results / "variance.csv", rows, used, world.device)
    print("written:", written, save_figure(args.results / "variance.png", picture(folders)))


if __name__ == "__main__":
    run(main)
