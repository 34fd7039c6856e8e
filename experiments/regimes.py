"""Where learning s2 pays, and where the Jacobian of s1 is as good: `python -m experiments.regimes`.

The paper's table of mixtures over what it does not give: how many training points there are, how long is trained, with
which networks, and how different the scales of the mixture are. In each regime an s1 is trained by DSM-VR and
differentiated, and both orders by D2SM-VR, and their s2 are measured along the way, at equal numbers of points at
which networks were evaluated: two a step for DSM-VR, three for D2SM-VR, whose two networks count once. Beside them the
errors of two s2 that know no point: that of the normal distribution with the same variances, which is what a linear
score has, and the best constant one. Everything but what the regime names is that of the first: points drawn afresh,
Softplus, three hidden layers of 128, a network for each order, Adam with a rate of 0.001, batches of 128.

A curve is written as soon as it is there, and what the table has is not repeated.
"""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import configs
import models
import runners
from configs import Config, UserError
from experiments.accuracy import BASELINE, METHODS, error, evaluations, exact
from experiments.harness import (
    argument_parser,
    over_seeds,
    print_progress,
    rows_so_far,
    run,
    save_figure,
    save_table,
    table,
    training,
    whole_number,
)
from runners import distributed
from runners.distributed import World
from runners.runner import Runner

__all__ = ["OURS", "REGIMES", "curve", "marks", "picture", "ratios", "settings", "summarise"]

OURS = "d2sm_vr"
COMPARED = ("jacobian of dsm", BASELINE, OURS)
FIRST = 384  # evaluations, divisible by those of a step of every method
POINTS = 2000
FIELDS = (
    *("regime", "method", "seed", "evaluations", "steps", "error", "relative_error"),
    *("size", "linear", "constant"),
)
LOGISTICS = ["data.density=varied_logistics", "data.dimension=50", "model.head=diagonal"]
SHOWN = "scales as the paper's errors"
PAPER = {"independent normal": (43.8, 9.4, 7.0), SHOWN: (26.4, 18.4, 18.4)}
"""Of the paper's table, about: the errors of `COMPARED`, the first being next to ‖s2‖² itself."""

SIZES = {f"{size:,} points": [f"data.points={size}"] for size in (1000, 5000, 10_000, 50_000)}
REGIMES: dict[str, list[str]] = {
    "all fresh": [],
    **SIZES,
    "σ = 0.01": ["noise=0.01"],
    "σ = 0.01, 5,000 points": ["noise=0.01", "data.points=5000"],
    "SiLU": ["model.network=mlp"],
    "one trunk": ["model.trunk=shared"],
    "width 512": ["model.ngf=512"],
    "rate 0.0003": ["lr=0.0003"],
    "rate 0.003": ["lr=0.003"],
    "80 dimensions": ["data.dimension=80"],
    SHOWN: ["data.density=paper_logistics"],
    "scales 0.5 to 1": ["data.density=wide_logistics"],
    "scales 0.1 to 0.2": ["data.density=logistics"],
    "independent normal": ["data.density=independent_normal", "data.dimension=100"],
}
"""What each regime changes of the first."""


def marks(budget: int) -> list[int]:
    """Network evaluations at which s2 is measured: 384, and twice as many each time, up to the budget."""
    return [FIRST * 2**k for k in range(64) if FIRST * 2**k <= budget]


def settings(regime: str, method: str, seed: int) -> Config:
    """The run of one curve."""
    order, objective = METHODS[method]
    changes = [*LOGISTICS, "model.network=mlp_softplus", "model.ngf=128", "model.ema=false", "lr=0.001",
               "batch_size=128", "noise=0.1", *REGIMES[regime], f"loss={objective}"]  # fmt: skip
    if order == 1:
        changes += ["model.head=none", "model.trunk=separate"]
    return configs.load(configs.find("synthetic/logistics_50.yml"), changes, runner="SyntheticRunner", seed=seed)


def without_points(config: Config) -> dict[str, float]:
    """`size`, the mean of ‖diag(s2)‖², and over it the errors of two diagonals that are the same everywhere: `linear`,
    of the normal distribution with the variances of the noisy points, and `constant`, the best one."""
    x, truth = exact(config.data.density, config.data.dimension, config.sigmas[0], POINTS, 2, True)
    size = float(truth.square().sum(1).mean())
    same = {"linear": -1 / x.var(0), "constant": truth.mean(0)}
    return {"size": size} | {name: float((truth - s2).square().sum(1).mean()) / size for name, s2 in same.items()}


def curve(regime: str, method: str, seed: int, budget: int, world: World) -> Iterator[dict]:
    """A row at each mark of one training.

    Yields:
        rows with `evaluations` of the network for each point of a batch, `steps`, `error` of the diagonal of s2,
        squared, in 1/units⁴, and `relative_error`, over `size`; and what `without_points` gives.
    """
    config = settings(regime, method, seed)
    dimension, sigma = config.data.dimension, config.sigmas[0]
    known = without_points(config)
    runner: Runner = runners.get("SyntheticRunner")(config, Path(), world, Path())
    due, each = marks(budget), evaluations(method)
    for state in training(runner):
        if state.step * each < due[0]:
            continue
        row = {"regime": regime, "method": method, "seed": seed, "evaluations": due.pop(0), "steps": state.step}
        scores = models.score_model(state.averaged, config, (dimension,)).at(sigma)
        yield row | error(scores, config, POINTS, 2, True, world.device) | known
        if not due:
            return


def ratios(rows: list[dict]) -> list[dict]:
    """Of each regime and number of evaluations the mean relative errors of `COMPARED`, and the ratio of ours to the
    baseline's, over the seeds that both have; and a row of the least errors along the way, chosen on the test points,
    `evaluations` None: what stopping in time would give at best."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        seeds.setdefault((row["regime"], row["method"]), set()).add(row["seed"])
    compared = [key for key in seeds if key[1] in (BASELINE, OURS)]
    rows = [row for row in rows if all(row["seed"] in seeds[key] for key in compared if key[0] == row["regime"])]
    means: dict[str, dict[int, dict[str, float]]] = {}
    for cell in over_seeds(rows, "regime", "evaluations", "method"):
        at = means.setdefault(cell["regime"], {}).setdefault(cell["evaluations"], {})
        at[cell["method"]] = sum(cell["relative_error"]) / len(cell["relative_error"])
    result = []
    for regime, by_evaluations in means.items():
        known = next({key: row[key] for key in ("linear", "constant")} for row in rows if row["regime"] == regime)
        least = {method: min(at[method] for at in by_evaluations.values() if method in at)
                 for method in COMPARED if any(method in at for at in by_evaluations.values())}  # fmt: skip
        for count, at in [*by_evaluations.items(), (None, least)]:
            row = {"regime": regime, "evaluations": count, **known, **at}
            if BASELINE in at and OURS in at:
                row["ratio"] = at[OURS] / at[BASELINE]
            result.append(row)
    return result


def summarise(rows: list[dict]) -> str:
    """The table; the line of a regime without evaluations has the least error of each method."""
    columns = {"regime": "{}", "evaluations": "{:d}", **dict.fromkeys(("linear", "constant", *COMPARED), "{:.3f}")}
    return table(ratios(rows), columns | {"ratio": "{:.2f}"})


def picture(rows: list[dict]) -> Figure:
    """Errors and ratios over the evaluations, and over the number of training points."""
    figure = Figure(figsize=(10.5, 7.2), layout="constrained")
    errors, sizes, others, stopped = figure.subplots(2, 2).flat
    cells = ratios(rows)
    along = [cell for cell in cells if cell["evaluations"] is not None]

    def ratio_lines(axis: Axes, regimes: list[str], title: str) -> None:
        for regime in regimes:
            own = [cell for cell in along if cell["regime"] == regime and "ratio" in cell]
            if own:
                axis.plot([c["evaluations"] for c in own], [c["ratio"] for c in own], "o-", ms=3, label=regime)
        axis.axhline(1, color="gray", linewidth=1)
        axis.set(xscale="log", yscale="log", title=title, xlabel="evaluations", ylabel=f"{OURS} / Jacobian")
        axis.legend(fontsize=7)

    shown = SHOWN if any(cell["regime"] == SHOWN for cell in along) else along[0]["regime"]
    first = [cell for cell in along if cell["regime"] == shown]
    for method in COMPARED:
        own = [cell for cell in first if method in cell]
        errors.plot([cell["evaluations"] for cell in own], [cell[method] for cell in own], "o-", ms=3, label=method)
    for name, style in (("linear", "--"), ("constant", "-.")):
        errors.axhline(first[0][name], color="gray", linestyle=style, linewidth=1, label=name)
    if shown in PAPER:
        size, *last = PAPER[shown]
        for value in set(last):
            errors.axhline(value / size, color="black", linestyle=":", label="the paper's last two")
    errors.set(xscale="log", title=shown, xlabel="evaluations", ylabel="squared error over ‖diag(s2)‖²")
    errors.set_ylim(bottom=0)
    errors.legend(fontsize=7, loc="lower left")
    finite = [name for name in REGIMES if "points" in name]
    ratio_lines(sizes, ["all fresh", *finite], "by the number of training points")
    ratio_lines(others, [name for name in REGIMES if name not in finite], "by everything else")
    least = {cell["regime"]: cell for cell in cells if cell["evaluations"] is None}
    numbers = {int(name.split()[0].replace(",", "")): least[name] for name in SIZES if name in least}
    for method in (BASELINE, OURS):
        known = [number for number, cell in numbers.items() if method in cell]
        stopped.plot(known, [numbers[number][method] for number in known], "o-", ms=3, label=method)
        if method in least.get("all fresh", {}):
            stopped.axhline(least["all fresh"][method], linestyle="--", linewidth=1,
                            color=stopped.lines[-1].get_color(), label=f"{method}, all fresh")  # fmt: skip
    stopped.set(xscale="log" if numbers else "linear", title="the least error along the way")
    stopped.set(xlabel="training points", ylabel="squared error over ‖diag(s2)‖²")
    stopped.set_ylim(bottom=0)
    stopped.legend(fontsize=7, loc="lower left")
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.regimes", __doc__, seeds=[0, 1, 2], device="cpu")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES), metavar="NAME",
                        help=", ".join(REGIMES))  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=COMPARED, default=COMPARED, metavar="METHOD",
                        help=", ".join(COMPARED))  # fmt: skip
    parser.add_argument(
        "--budget", type=whole_number, default=64 * FIRST, help="batches through the network, each training"
    )
    args = parser.parse_args(arguments)
    if args.budget < FIRST:
        raise UserError(f"--budget: {args.budget}; {FIRST} or more is expected")
    world = distributed.join(args.device)
    used = {"points": POINTS}
    path = args.results / "regimes.csv"
    rows = rows_so_far(path, used, FIELDS)
    for seed in args.seeds:
        for regime in args.regimes:
            for method in args.methods:
                key = {"regime": regime, "method": method, "seed": seed}
                done = [row["evaluations"] for row in rows if key.items() <= row.items()]
                if done and max(done) >= marks(args.budget)[-1]:
                    continue
                rows = [row for row in rows if not key.items() <= row.items()]
                rows += curve(regime, method, seed, args.budget, world)
                print_progress(rows[-1])
                save_table(path, rows, used, world.device)
    print(summarise(rows))
    print("written:", path, save_figure(args.results / "regimes.png", picture(rows)))


if __name__ == "__main__":
    run(main)
