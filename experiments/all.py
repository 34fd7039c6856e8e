"""Every table and figure, one after the other: `python -m experiments.all [--quick]`.

Without `--quick` with the settings of docs/reproduction.md, which take hours on a CPU and need MNIST and CIFAR-10. With
it in about ten minutes and from embedded data alone, to see that everything runs; its results go to `results/quick/`.
"""

import importlib
import time

import configs
import datasets
from experiments.harness import argument_parser, run

__all__ = ["FULL", "QUICK"]

FULL: dict[str, list[list[str]]] = {
    "accuracy": [[]],
    "regimes": [[]],
    "variance": [[]],
    "objectives": [["--data", "digits"]],
    "uncertainty": [[]],
    "second_order": [[]],
    "cost": [[]],
    "likelihood": [[]],
    "reverse": [[]],
    "measurements": [[]],
    "third_order": [[]],
    "skewness": [[]],
    "mixing": [["--share", "0.25", "--longest", "10", "--chains", "24", "--image-grid", "0.1", "1.0"]],
    "ellipses": [[]],
    "diagonals": [[]],
    "components": [[]],
    "trajectories": [[]],
    "benchmarks.losses": [[]],
    "benchmarks.evaluation": [[]],
    "benchmarks.training": [[]],
}
"""For each experiment and benchmark, the arguments of each call of it."""

NEEDED = {
    "mnist_low_rank_shared.yml": {
        *("uncertainty", "second_order", "cost", "likelihood", "reverse", "measurements", "skewness"),
        *("mixing", "diagonals", "components", "trajectories"),
    },
    "cifar10_diagonal_shared.yml": {"diagonals", "likelihood", "measurements"},
}
"""Configurations whose data the full settings need, and the experiments that need them."""

RUN = "runs/quick"
DIGITS = "checkpoints/digits"
QUICK: dict[str, list[list[str]]] = {
    "accuracy": [
        [
            *("--data", "normal", "logistics_50", "--budget", "420", "--points", "500", "--noise", "0.1"),
            *("--lrs", "0.003", "--seeds", "0", "--run", RUN, "--methods"),
            *("jacobian of dsm_vr", "d2sm_vr", "centered_vr", "jacobian matching"),
        ]
    ],
    "regimes": [["--regimes", "all fresh", "1,000 points", "--budget", "768", "--seeds", "0"]],
    "variance": [["--steps", "300", "--run", f"{RUN}/variance"]],
    "objectives": [
        [
            *("--noise", "0.5", "--seeds", "0", "--set", "max_steps=300", "--run", f"{RUN}/objectives"),
            *("--methods", "jacobian", "d2sm", "centered"),
        ]
    ],
    "uncertainty": [["--data", "digits"]],
    "second_order": [["--data", "digits", "--minutes", "0.03", "--run", f"{RUN}/second_order"]],
    "cost": [["--data", "digits", "--minutes", "0.05", "--images", "20", "--run", f"{RUN}/cost"]],
    "likelihood": [["--models", DIGITS, "--images", "20", "--slow", "5", "--bounded", "5"]],
    "reverse": [["--model", DIGITS, "--images", "20", "--points", "500", "--steps", "5", "10", "--samples", "50"]],
    "measurements": [["--models", DIGITS, "--images", "4", "--samples", "4", "--points", "300", "--mixtures", "1"]],
    "third_order": [
        ["--data", "gaussians", "--noise", "0.4", "--steps", "200", "--points", "500", "--run", f"{RUN}/third_order"]
    ],
    "skewness": [["--model", "checkpoints/digits_third", "--images", "100"]],
    "mixing": [
        [
            *("--targets", "normal_2", "normal_50", "gaussians", "images", "--images", DIGITS, "--share", "0.1"),
            *("--longest", "2", "--image-noise", "0.5", "--image-grid", "0.3", "1.0"),
        ]
    ],
    "ellipses": [["--steps", "1000", "--run", f"{RUN}/ellipses"]],
    "diagonals": [["--data", "digits", "--noise", "0.3", "1.0", "--steps", "400", "--run", f"{RUN}/diagonals"]],
    "components": [["--model", DIGITS]],
    "trajectories": [["--model", DIGITS]],
    "benchmarks.losses": [["--sizes", "8,784,20", "--third-size", "8,784,20", "--repeats", "3"]],
    "benchmarks.evaluation": [["--only", "digits_low_rank.yml"]],
    "benchmarks.training": [["--only", "digits_dsm.yml", "--variants", "fp32", "bf16", "--repeats", "3"]],
}


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.all", __doc__)
    parser.add_argument("--quick", action="store_true", help="small settings, embedded data; to quick/ in --results")
    parser.add_argument("--only", nargs="+", choices=FULL, default=list(FULL), metavar="NAME", help=", ".join(FULL))
    args = parser.parse_args(arguments)
    results = args.results / "quick" if args.quick else args.results
    if not args.quick:
        for file, users in NEEDED.items():
            if users & set(args.only):  # is downloaded or missed now, not after hours
                datasets.load(configs.load(configs.find(file)), "test")
    for name in args.only:
        module = name if "." in name else f"experiments.{name}"
        for call in (QUICK if args.quick else FULL)[name]:
            print(f"--- python -m {module} {' '.join(call)}", flush=True)
            start = time.monotonic()
            importlib.import_module(module).main([*call, "--results", str(results)])
            print(f"--- {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    run(main)
