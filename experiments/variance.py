"""s2 with and without variance reduction at small σ: `python -m experiments.variance`, a figure of the paper.

Joint training on a correlated normal with D2SM, D2SM-VR and our two objectives of small variance; the second-order loss
of each step (that of `centered_vr` with its weight, so that the scatter of a curve can be compared, not its height) and
the error against the exact s2 along the way.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import configs
from experiments.results import run, save_figure, save_table
from experiments.runs import trained
from runners import world

__all__ = ["OBJECTIVES", "curve", "picture"]

OBJECTIVES = {"d2sm": "dsm", "d2sm_vr": "dsm_vr", "centered_vr": "centered_vr", "jacobian matching": "jacobian"}


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
    parser = argparse.ArgumentParser(prog="python -m experiments.variance", description=__doc__)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/variance"))
    args = parser.parse_args(arguments)
    here = world.join(args.device)
    changes = [
        *("model.trunk=shared", "model.ngf=128", "model.ema_rate=0.99", "batch_size=128", "lr=0.003"),
        *("data.size=12800", "save_interval=3", "print_every=1", f"max_steps={args.steps}"),
    ]
    folders, rows = {}, []
    for name, loss in OBJECTIVES.items():
        given = {"runner": "SyntheticRunner", "noise": args.noise, "seed": args.seed}
        config = configs.load(configs.find("synthetic/normal.yml"), [*changes, f"loss={loss}"], **given)
        folder = args.run / f"{loss}_{args.noise:g}_{args.seed}"
        folders[name] = trained(config, folder, here, evaluate=lambda model: {})  # its curves have the errors
        steps, errors = curve(folders[name], "test/relative_s2_error")
        rows += [{"objective": name, "step": s, "relative_error": e} for s, e in zip(steps, errors, strict=True)]
        print(f"{name:<20} relative error of s2 after {steps[-1]} steps: {errors[-1]:.4g}", flush=True)
    used = {"noise": args.noise, "seed": args.seed, "overrides": " ".join(changes)}
    print("written:", save_table("variance", rows, used, here.device), save_figure("variance", picture(folders)))


if __name__ == "__main__":
    run(main)
