"""Which objective learns the best posterior covariance: `python -m experiments.objectives`.

The same networks, data and number of steps for each objective; denoiser alone and its Jacobian as the
baseline. Figures over the test set (those of the Jacobian over as many of its images as half a minute allows), mean ±
standard deviation over the seeds. A run that is already in the folder `--run` is not repeated, so an interrupted table
goes on where it stopped.
"""

import argparse
import json
import statistics
from pathlib import Path

import configs
import datasets
import inference
import models
from configs import UserError
from experiments.results import run, save_table
from experiments.runs import figures_of, trained
from runners import world

__all__ = ["METHODS", "figures", "summarise"]

FREE, POSITIVE = "model.covariance=free", "model.covariance=positive"
METHODS = {
    "jacobian": ("UnetDSMRunner", ["loss=dsm", FREE]),
    "d2sm": ("LowRankHybridRunner", ["loss=dsm", FREE]),
    "d2sm_vr": ("LowRankHybridRunner", ["loss=dsm_vr", FREE]),
    "centered, free": ("LowRankHybridRunner", ["loss=centered", FREE]),
    "centered": ("LowRankHybridRunner", ["loss=centered", POSITIVE]),
    "centered_vr": ("LowRankHybridRunner", ["loss=centered_vr", POSITIVE]),
}
DATA = {"digits": "digits_low_rank.yml", "mnist": "mnist_low_rank_shared.yml"}
COLUMNS = ("mse", "captured_1", "captured_5", "captured_10", "trace_ratio", "negative_variances", "coverage_90")


def figures(method: str, config_name: str, noise: float, seed: int, overrides: list[str], here: world.World, run: Path):
    """The figures of one run, trained if its folder does not have them yet.

    For `jacobian` they are those of `σ⁴∇s1 + σ²I`, s1 trained with DSM alone, on the test images of half a minute, and
    the denoiser's error over all.
    """
    runner_name, changes = METHODS[method]
    folder = run / f"{config_name.removesuffix('.yml')}_{method.replace(', ', '_')}_{noise:g}_{seed}"
    given = {"runner": runner_name, "noise": noise, "seed": seed}
    config = configs.load(configs.find(config_name), [*overrides, *changes], **given)
    found = figures_of(trained(config, folder, here))
    if method == "jacobian" and "captured_5" not in found:
        s1, _, _ = models.load(folder, here.device)
        data = datasets.load(config, "test", here.device)
        jacobian = inference.jacobian_predictions(s1, data, noise, seed, seconds=30)
        if not jacobian.variances:
            raise UserError("the Jacobian of one image takes more than half a minute here; leave it out with --methods")
        found |= jacobian.figures()
        (folder / "metrics.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def summarise(rows: list[dict]) -> str:
    """The table: a line for each noise level and method, mean ± standard deviation over its rows."""
    lines = [f"{'σ':<6}{'objective':<16}" + "".join(f"{column:>20}" for column in COLUMNS)]
    for noise, method in dict.fromkeys((row["noise"], row["method"]) for row in rows):
        own = [row for row in rows if (row["noise"], row["method"]) == (noise, method)]
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in own]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
        lines.append(f"{noise:<6g}{method:<16}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.objectives", description=__doc__)
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=", ".join(METHODS))  # fmt: skip
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--device", default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/objectives"))
    args = parser.parse_args(arguments)
    here = world.join(args.device)
    rows = []
    for noise in args.noise:
        for method in args.methods:
            for seed in args.seeds:
                found = figures(method, DATA[args.data], noise, seed, args.overrides, here, args.run)
                rows.append({"noise": noise, "method": method, "seed": seed} | {k: found[k] for k in COLUMNS})
                print(
                    ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                    flush=True,
                )
    print(summarise(rows))
    settings = {"config": DATA[args.data], "overrides": " ".join(args.overrides)}
    print("written:", save_table(f"objectives_{args.data}", rows, settings, here.device))


if __name__ == "__main__":
    run(main)
