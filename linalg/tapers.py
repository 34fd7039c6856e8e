"""Gaussian tapers on the pixels of an image, `K(p, p') = exp(−d²/2ℓ²)`, not formed: `K = K_h ⊗ K_w`, with one factor
for the heights and one for the widths.

A taper is known by its precision t = 1/ℓ²; the entrywise product of two tapers is that of the sum of their precisions.
A product with K is one with each of its factors. So it is for large images too: on a CPU that stays ahead of an FFT,
which must be padded to twice the sides, up to hundreds of pixels a side, and is as exact.
"""

import math
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Run", "kernels", "root", "runs", "squared_norm"]

Run = tuple[slice, float]  # columns side by side with one taper, and its precision

LONGEST = 3  # columns of a run taken at a time: of their pairs nearly half are seen twice
CACHED_ENTRIES = 2**18  # of products of columns, worked on at a time on a CPU
ENTRIES = 2**26  # elsewhere


def runs(precision: Tensor) -> list[Run]:
    """Where neighbours in t, `(r,)`, are equal."""
    neighbours, start = [], 0
    for value, members in groupby(precision.tolist()):
        stop = start + len(list(members))
        neighbours.append((slice(start, stop), value))
        start = stop
    return neighbours


def kernels(size: int, precision: Tensor) -> Tensor:
    """`exp(−t (i − j)²/2)`, `(..., size, size)`, of precisions t, `(...)`; differentiable."""
    return (-0.5 * precision[..., None, None] * _squared_distances(size, precision)).exp()


def _squared_distances(size: int, like: Tensor) -> Tensor:
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    return (places[:, None] - places).square()


@lru_cache(maxsize=256)
def root(size: int, precision: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """R, `(size, m)`, with `R Rᵀ = exp(−t (i − j)²/2)` to the rounding of `dtype`: m falls as the taper grows wide."""
    with torch.inference_mode(False):
        values, vectors = torch.linalg.eigh(kernels(size, torch.tensor(precision, dtype=torch.float64)))
        kept = values > torch.finfo(dtype).eps * values[-1]
        return (vectors[:, kept] * values[kept].sqrt()).to(device, dtype)


class _SquaredNorm(torch.autograd.Function):
    """With `P_ij = (K_i∘K_j) q_ij` at hand the gradient to β_i, 4 times `G_i = α∘β_i + Σ_j P_ij∘β_j`, and the value
    `‖α‖² + Σ_i (α∘β_i + G_i)·β_i` come together."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, columns: Tensor, precision: Tensor, groups: list[Run]) -> Tensor:
        sums = alpha[:, None] * columns
        slopes = columns.new_zeros(columns.shape[:2]) if ctx.needs_input_grad[2] else None
        pieces = [
            slice(start, min(start + LONGEST, run.stop))
            for run, _ in groups
            for start in range(run.start, run.stop, LONGEST)
        ]
        firsts = precision.detach()[[piece.start for piece in pieces]]
        tapers = [kernels(size, firsts[:, None] + firsts) for size in columns.shape[3:]]
        entries = max((piece.stop - piece.start for piece in pieces), default=1) ** 2 * math.prod(columns.shape[3:])
        size = max(1, (CACHED_ENTRIES if columns.device.type == "cpu" else ENTRIES) // entries)
        work = columns.new_empty(2, min(size, len(columns)) * entries)
        for start in range(0, len(columns), size):
            rows = slice(start, start + size)
            of_rows = None if slopes is None else slopes[rows]
            for i, first in enumerate(pieces):
                for j, second in enumerate(pieces[i:], i):
                    taper = tapers[0][i, j], tapers[1][i, j]
                    _add_pairs(columns[rows], first, second, taper, sums[rows], of_rows, work)
        diagonal = columns.square().sum(1).add_(alpha)
        ctx.save_for_backward(diagonal, sums, slopes)
        return torch.linalg.vecdot(sums.flatten(1), columns.flatten(1)) + (alpha * diagonal).sum((1, 2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        diagonal, sums, slopes = ctx.saved_tensors
        each = gradient[:, None, None, None]
        to_ranges = None if slopes is None else gradient @ slopes
        return 2 * each * diagonal, (4 * each)[:, None] * sums, to_ranges, None


def _add_pairs(
    columns: Tensor,
    one: slice,
    other: slice,
    taper: tuple[Tensor, Tensor],
    sums: Tensor,
    slopes: Tensor | None,
    work: Tensor,
) -> None:
    """Adds to G, and to the slopes of the value along each precision, what the pairs of a column of one piece with one
    of another, or of the same, give to them; without new tensors, which would cost as much as the sums."""
    left, right = columns[:, one], columns[:, other]
    shape = len(columns), left.shape[1], right.shape[1], *columns.shape[3:]  # (B, n, m, H, W)
    overlap, across = (part[: math.prod(shape)].view(shape) for part in work)
    torch.mul(left[:, :, None, 0], right[:, None, :, 0], out=overlap)
    for channel in range(1, columns.shape[2]):
        overlap.addcmul_(left[:, :, None, channel], right[:, None, :, channel])
    if slopes is not None:
        each = _slopes(overlap, *taper) * (1 if one == other else 2)
        slopes[:, one] += each.sum(2)
        slopes[:, other] += each.sum(1)
    tall, wide = taper
    torch.mm(overlap.view(-1, shape[4]), wide, out=across.view(-1, shape[4]))
    images = -1, *shape[3:]
    torch.bmm(tall.expand(math.prod(shape[:3]), -1, -1), across.view(images), out=overlap.view(images))
    for j in range(right.shape[1]):
        sums[:, one].addcmul_(overlap[:, :, j, None], right[:, j, None])
    for i in range(left.shape[1] if one != other else 0):
        sums[:, other].addcmul_(overlap[:, i, :, None], left[:, i, None])


def _slopes(overlap: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """`⟨q, (dK/dt) q⟩ = −½ ⟨q, (d²∘K) q⟩`, d² the sum of that along the heights and that along the widths."""
    tall_slope = tall * _squared_distances(len(tall), tall)
    wide_slope = wide * _squared_distances(len(wide), wide)
    down = torch.linalg.vecdot(overlap.flatten(3), (tall_slope @ (overlap @ wide)).flatten(3))
    across = torch.linalg.vecdot((tall @ overlap).flatten(3), (overlap @ wide_slope).flatten(3))
    return -0.5 * (down + across)


def squared_norm(alpha: Tensor, columns: Tensor, precision: Tensor, groups: list[Run]) -> Tensor:
    """`‖diag(α) + Σ_i K_i∘β_iβ_iᵀ‖² = ‖α‖² + 2 Σ_i α·(β_i∘β_i) + Σ_ij ⟨q_ij, (K_i∘K_j) q_ij⟩`, with
    `q_ij(p) = Σ_c β_i(c, p) β_j(c, p)`, in pieces that stay in a cache.

    Args:
        alpha: α, `(B, C, H, W)`.
        columns: β, `(B, r, C, H, W)`.
        precision: t of each, `(r,)`.
        groups: their `runs`.

    Returns:
        `(B,)`; its gradient cannot be differentiated again.
    """
    return _SquaredNorm.apply(alpha, columns, precision, groups)
