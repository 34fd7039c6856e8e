"""s2 and what it is used for, by the trained heads and by differentiation of s1: `python -m benchmarks.evaluation`.

At the same images, from networks with fresh weights, each way in a process of its own. Only ratios between rows of the
same run carry over to another machine.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import configs
import inference
import linalg
import models
from benchmarks.harness import in_own_process, measure, peak_memory
from experiments.harness import argument_parser, machine, print_progress, run, save_table, table, whole_number
from linalg import SymmetricMatrix
from models import Scores
from runners import distributed

__all__ = ["USES", "WAYS", "Way", "cost", "jacobian_cost", "ways"]

PROBES = 100
MOMENTS = ["data.mean=0.1", "data.std=0.3"]  # of images that are not loaded
COMPONENTS = 5


def s2_of(scores: Scores, x: Tensor) -> SymmetricMatrix:
    """The second order alone, of scores that have one."""
    assert scores.s2 is not None
    return scores.s2(x)


USES: dict[str, Callable[[Scores, Tensor, Tensor], object]] = {
    "s2": lambda scores, x, v: s2_of(scores, x),
    "product": lambda scores, x, v: s2_of(scores, x) @ v,
    "diagonal": lambda scores, x, v: s2_of(scores, x).diagonal(),
    "top 5": lambda scores, x, v: inference.posterior_covariance(s2_of(scores, x), scores.sigma).eigh_top(COMPONENTS),
    "jacobian product": lambda scores, x, v: linalg.jacobian_product(scores.s1, x, v),
    "jacobian diagonal": lambda scores, x, v: linalg.hutchinson_diagonal(linalg.Jacobian(scores.s1, x), PROBES),
    "jacobian top 5": lambda scores, x, v: inference.denoiser_components(scores, x, COMPONENTS),
}
"""What is computed at points x `(B, D)` with a vector v `(B, D, 1)` for each: from s2, and from s1 alone. The whole
Jacobian of s1, `"jacobian s2"`, is timed by `jacobian_cost`."""


@dataclass(frozen=True)
class Way:
    """One way to have s2, or something made from it.

    Attributes:
        config: of the networks.
        runner: of the configuration, which says the head.
        rank: columns of β.
        of: what it is that it gives.
        use: the key of `USES`, or `"jacobian s2"`.
        by: the way in words.
    """

    config: str
    runner: str
    rank: int
    of: str
    use: str
    by: str


def ways(config: str, dimension: int, ranks: tuple[int, ...]) -> list[Way]:
    """Those of a configuration with a low-rank head; s2 alone for each of several ranks."""
    heads = [("s2", "s2", f"low-rank head, rank {rank}", rank) for rank in ranks]
    rank = ranks[0]
    rows = [
        ("s2", "jacobian s2", f"{dimension} vector-Jacobian products of s1", rank),
        *heads,
        ("product", "jacobian product", "a Jacobian-vector product of s1", rank),
        ("product", "product", f"rank {rank}", rank),
        ("diagonal", "jacobian diagonal", f"{PROBES} Jacobian-vector products", rank),
        ("diagonal", "diagonal", f"rank {rank}", rank),
        ("top 5", "jacobian top 5", "subspace iteration on the denoiser", rank),
        ("top 5", "top 5", f"rank {rank}", rank),
    ]
    return [Way(config, "LowRankHybridRunner", rank, of, use, by) for of, use, by, rank in rows]


DIAGONAL = ("unet_cifar10.yml", "DoubleDiagonalHybridRunner", 1, "s2")
WAYS = [
    *ways("digits_low_rank.yml", 64, (16,)),
    *ways("unet_mnist.yml", 784, (50, 20, 200, 1000)),
    *ways("mnist.yml", 784, (16,)),
    Way(*DIAGONAL, "jacobian s2", "3072 vector-Jacobian products of s1"),
    Way(*DIAGONAL, "s2", "diagonal head"),
]


@torch.no_grad()
def cost(way: Way, batch: int, rows: int, device_name: str) -> tuple[float, int]:
    """Time (s) and peak memory (bytes) of one way at a batch of images.

    Args:
        way: the networks, which have fresh weights, and what is computed.
        batch: images.
        rows: of the whole Jacobian; see `jacobian_cost`.
        device_name: where.
    """
    device = torch.device(device_name)
    config = configs.load(configs.find(way.config), MOMENTS, runner=way.runner, noise=0.5, rank=way.rank)
    shape = config.data.shape
    network = models.build(config, shape).to(device).eval()
    scores = models.score_model(network, config, shape).at(config.sigmas[0])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, math.prod(shape), generator=generator).to(device)
    v = torch.randn(batch, math.prod(shape), 1, generator=generator).to(device)
    if way.use == "jacobian s2":
        return jacobian_cost(scores, x, rows)

    def call() -> object:
        return USES[way.use](scores, x, v)

    memory = peak_memory(call, device)
    return measure(call, device, 3), memory


def jacobian_cost(scores: Scores, x: Tensor, rows: int) -> tuple[float, int]:
    """Time (s) and peak memory (bytes) of the whole Jacobian of s1 at x `(B, D)`: of at least `rows` of its D rows, and
    of the time all in proportion."""
    dimension = x.shape[1]
    in_one = min(64, rows)
    blocks = math.ceil(min(rows, dimension) / in_one)

    def some_rows() -> None:
        for _ in itertools.islice(linalg.jacobian_rows(scores.s1, x, in_one), blocks):
            pass

    memory = peak_memory(some_rows, x.device)
    if x.device.type == "cpu":  # minutes: once is enough
        start = time.perf_counter()
        some_rows()
        seconds = time.perf_counter() - start
    else:
        seconds = measure(some_rows, x.device, 3)
    return seconds * dimension / min(blocks * in_one, dimension), memory


def main(arguments: list[str] | None = None) -> None:
    names = list(dict.fromkeys(way.config for way in WAYS))
    parser = argument_parser("benchmarks.evaluation", __doc__, device=None)
    parser.add_argument("--batch-size", type=whole_number, default=2)
    parser.add_argument("--rows", type=whole_number, default=10_000,
                        help="time so many rows of the Jacobian, and take the others to be alike")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CONFIG", help=", ".join(names))
    args = parser.parse_args(arguments)
    device = distributed.join(args.device).device
    print(f"s2 at a batch of {args.batch_size} images on {machine(device)}, fresh weights")
    rows: list[dict] = []
    baselines: dict[tuple[str, str], float] = {}
    for way in WAYS:
        if way.config not in args.only:
            continue
        seconds, memory = in_own_process(cost, way, args.batch_size, args.rows, str(device))
        row = {"config": way.config, "of": way.of, "by": way.by, "seconds": seconds, "mib": memory / 2**20}
        rows.append(row | {"faster": baselines.setdefault((way.config, way.of), seconds) / seconds})
        print_progress(rows[-1])
    columns = {"config": "{}", "of": "{}", "by": "{}", "seconds": "{:.3g}", "mib": "{:.0f}", "faster": "{:.1f}×"}
    print(table(rows, columns))
    settings = {"batch": args.batch_size, "rows": args.rows}
    print("written:", save_table(args.results / "benchmark_evaluation.csv", rows, settings, device))


if __name__ == "__main__":
    run(main)
