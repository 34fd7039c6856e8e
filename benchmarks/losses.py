"""Value and gradient of the second-order losses, structured against dense, and of the third order beside the second:
`python -m benchmarks.losses`.

Each in a process of its own. Beside the time of the structured loss stands what the machine would take for two parts of
it alone: its matrix products, at the rate of a batched product of the same shapes and at that of a large one, and
reading the heads once; all rates are measured in the same run, on as many threads. Only ratios between rows of the same
run carry over to another machine.
"""

import argparse
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import configs
from benchmarks.harness import in_own_process, measure, peak_memory
from benchmarks.training import step_time
from experiments.harness import (
    SECOND_ORDER,
    argument_parser,
    machine,
    print_progress,
    run,
    save_table,
    table,
    whole_number,
)
from linalg import DiagonalPlusLowRank, SymmetricCP
from losses import OBJECTIVES
from runners import distributed

__all__ = ["SIZES", "THIRD_SIZE", "Cost", "Rates", "loss_cost", "loss_row", "rates", "third_order_row"]

SIZES = [(40, 784, 50), (8, 3072, 0)]
"""Points, dimension, and columns of β: MNIST with a low-rank head, CIFAR-10 with a diagonal one."""

THIRD_SIZE = (40, 784, 32)
"""Those of the third order, with as many columns as the second's."""

COLUMNS = {
    "loss": "{}",
    **dict.fromkeys(("batch", "dimension", "rank"), "{:d}"),
    **{"dense_ms": "{:.3g}", "dense_mib": "{:.0f}", "ms": "{:.3g}", "mib": "{:.0f}"},
    **{"faster": "{:.0f}×", "smaller": "{:.0f}×"},
    **dict.fromkeys(("products_ms", "large_products_ms", "reading_ms"), "{:.3g}"),
    "times_limit": "{:.1f}",
}


@dataclass(frozen=True)
class Cost:
    """Of value and gradient of a loss.

    Attributes:
        seconds: of one call.
        memory: by how much a call raises the peak, in bytes.
        operations: multiplications and additions in its matrix products.
        heads: bytes of s1 and s2, which it must read.
    """

    seconds: float
    memory: int
    operations: int
    heads: int


@dataclass(frozen=True)
class Rates:
    """Of a machine.

    Attributes:
        batched: float32 operations a second in a batched matrix product of the shapes of a loss; None without columns.
        large: the same in the product of two large matrices.
        bandwidth: bytes a second, read and written, of a copy.
    """

    batched: float | None
    large: float
    bandwidth: float


def loss_cost(
    name: str, size: tuple[int, int, int], dense: bool, device_name: str, repeats: int, order: int = 2
) -> Cost:
    """The cost of the part of one objective that is of its highest order.

    Args:
        name: of the objective, in `OBJECTIVES[order]`.
        size: (B, D, r), r = 0 for a diagonal s2.
        dense: form the D×D matrices, the plain formula; of the second order alone.
        device_name: where.
        repeats: of the timing; the dense form is timed once.
        order: 2 or 3.
    """
    device = torch.device(device_name)
    batch, dimension, rank = size
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    objective = OBJECTIVES[order][name]
    if order == 3:
        objective = objective.on_frozen_orders()
    p = objective.perturb(normal(batch, dimension), 0.5, normal(batch, dimension))
    rows = objective.rows(p)
    shapes = [(len(p.inputs), dimension), (rows, dimension), (rows, dimension, rank)]
    heads = [normal(*shape).requires_grad_() for shape in shapes]
    needs: dict[str, Any] = {}
    if objective.probes:
        needs = {"probe": normal(batch, dimension), "product": normal(batch, dimension)}
    if order == 3:
        rows = objective.third_rows(p)
        heads += [normal(*shape).requires_grad_() for shape in ((rows, rank), (rows, dimension, rank), shapes[1])]
        third: dict[str, Any] = {"entries": normal(batch, dimension)} if objective.weighted else {}
        if objective.third_probes:
            probed = objective.third_probed(p)
            third |= {"probe": normal(probed, dimension), "product": normal(probed, dimension)}
            third |= {"along": normal(probed)} if objective.weighted else {}
        needs["third"] = third

    def call() -> None:
        s2 = DiagonalPlusLowRank(*heads[1:3])
        if order == 3:
            value = objective(p, heads[0], s2, s3=SymmetricCP(heads[3], heads[4], heads[5]), **needs)["loss"]
        else:
            value = objective(p, heads[0], s2.dense() if dense else s2, **needs)["second_order"]
        torch.autograd.grad(value, heads, allow_unused=True)

    with FlopCounterMode(display=False) as counter:
        memory = peak_memory(call, device)
    seconds = measure(call, device, 1 if dense else repeats)
    return Cost(seconds, memory, counter.get_total_flops(), sum(head.nbytes for head in heads))


def rates(size: tuple[int, int, int], device_name: str, repeats: int) -> Rates:
    """What the machine does in float32: products of the shapes of a loss `(B, D, r)`, large ones, and copies."""
    device = torch.device(device_name)

    def product_rate(batch: int, rows: int, inner: int) -> float:
        a = torch.randn(batch, rows, inner, device=device)
        return 2 * batch * rows**2 * inner / measure(lambda: a @ a.mT, device, repeats)

    batch, dimension, rank = size
    source = torch.randn(2**26, device=device)
    copy = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / measure(lambda: copy.copy_(source), device, repeats)
    return Rates(product_rate(batch, rank, dimension) if rank else None, product_rate(1, 2048, 2048), bandwidth)


def loss_row(method: str, size: tuple[int, int, int], machine_rates: Rates, device: torch.device, repeats: int) -> dict:
    """The row of one loss: milliseconds and MiB of both forms; the milliseconds that the products of the structured one
    and the reading of its heads would take alone, and how many times the larger of the two it takes."""
    slow, fast = (
        in_own_process(loss_cost, SECOND_ORDER[method], size, dense, str(device), repeats) for dense in (True, False)
    )
    row: dict[str, Any] = {"loss": method, **dict(zip(("batch", "dimension", "rank"), size, strict=True))}
    row |= {"dense_ms": 1e3 * slow.seconds, "dense_mib": slow.memory / 2**20}
    row |= {"ms": 1e3 * fast.seconds, "mib": fast.memory / 2**20}
    row |= {"faster": slow.seconds / fast.seconds, "smaller": slow.memory / max(fast.memory, 2**20)}
    batched = machine_rates.batched
    row["products_ms"] = 1e3 * fast.operations / batched if batched else None
    row["large_products_ms"] = 1e3 * fast.operations / machine_rates.large
    row["reading_ms"] = 1e3 * fast.heads / machine_rates.bandwidth
    return row | {"times_limit": row["ms"] / max(row["products_ms"] or 0, row["reading_ms"])}


def third_order_row(name: str, size: tuple[int, int, int], device: torch.device, repeats: int) -> dict:
    """The row of one objective: milliseconds and MiB of its second and of its third order, whose tensors would have D³
    entries in full."""
    second, third = (in_own_process(loss_cost, name, size, False, str(device), repeats, order) for order in (2, 3))
    row: dict[str, Any] = {"loss": name, **dict(zip(("batch", "dimension", "rank"), size, strict=True))}
    for order, cost in (("second", second), ("third", third)):
        row |= {f"{order}_ms": 1e3 * cost.seconds, f"{order}_mib": cost.memory / 2**20}
    row["time_ratio"] = third.seconds / second.seconds
    return row | {"tensors_in_full_mib": 4 * size[0] * size[1] ** 3 / 2**20}


def print_share_of_step(device: torch.device, batch_size: int) -> None:
    """How much of a training step of `unet_mnist.yml` its second-order loss takes."""
    config = configs.load(configs.find("unet_mnist.yml"), runner="LowRankHybridRunner")
    size = (batch_size, math.prod(config.data.shape), config.rank)
    seconds = loss_cost(config.loss, size, False, str(device), repeats=10).seconds
    step = step_time("unet_mnist.yml", "LowRankHybridRunner", device, repeats=3, batch_size=batch_size)
    times = f"{1e3 * seconds:.1f} ms of a step of {1e3 * step:.0f} ms"
    print(f"loss {config.loss} at {size}: {times}, {seconds / step:.1%} (unet_mnist.yml)")


def size_of(text: str) -> tuple[int, int, int]:
    """`B,D,r` as numbers."""
    try:
        batch, dimension, rank = map(int, text.split(","))
        if not (batch > 0 and 0 <= rank <= dimension and dimension > 0):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: B,D,r is expected, as 40,784,50, r from 0 to D") from None
    return batch, dimension, rank


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("benchmarks.losses", __doc__, device=None)
    parser.add_argument("--sizes", nargs="+", type=size_of, default=SIZES, metavar="B,D,r", help="r = 0: diagonal s2")
    parser.add_argument("--third-size", type=size_of, default=THIRD_SIZE, metavar="B,D,r", help="of the third order")
    parser.add_argument("--batch-size", type=whole_number, default=8, help="of the step that a loss is compared to")
    parser.add_argument("--repeats", type=whole_number, default=10)
    args = parser.parse_args(arguments)
    device = distributed.join(args.device).device
    print(f"second-order losses, value and gradient, on {machine(device)}")
    rows = []
    for size in args.sizes:
        machine_rates = in_own_process(rates, size, str(device), args.repeats)
        batched = "" if machine_rates.batched is None else f"batched products {machine_rates.batched / 1e9:.0f}, "
        large = f"large ones {machine_rates.large / 1e9:.0f} GFLOP/s"
        print(f"{size}: {batched}{large}, copies {machine_rates.bandwidth / 1e9:.1f} GB/s", flush=True)
        for method in SECOND_ORDER:
            rows.append(loss_row(method, size, machine_rates, device, args.repeats))
            print_progress(rows[-1])
    print(table(rows, COLUMNS))
    third = [
        third_order_row(name, args.third_size, device, args.repeats) for name in OBJECTIVES[3] if name in OBJECTIVES[2]
    ]
    columns = {"loss": "{}"} | {name: "{:.3g}" for name in third[0] if name != "loss"}
    print(table(third, columns))
    print_share_of_step(device, args.batch_size)
    used = {"repeats": args.repeats}
    written = save_table(args.results / "benchmark_losses.csv", rows, used, device)
    print("written:", written, save_table(args.results / "benchmark_third_order.csv", third, used, device))


if __name__ == "__main__":
    run(main)
