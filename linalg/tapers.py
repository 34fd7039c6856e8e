"""Gaussian tapers on the pixels of an image, `K(p, p') = exp(−d²/2ℓ²)`, not formed: `K = K_h ⊗ K_w`, with one factor
for the heights and one for the widths.

A taper is known by its precision t = 1/ℓ²; the entrywise product of two tapers is that of the sum of their precisions.
A product with K is two products with its small dense factors, or with thinner ones where K is smooth. So it is for
large images too: on a CPU that stays ahead of an FFT, which must be padded to twice the sides, up to hundreds of pixels
a side, and is as exact.
"""

from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Run", "kernels", "root", "runs", "smooth", "squared_overlap"]

Run = tuple[slice, float]  # columns side by side with one taper, and its precision

CACHED_ENTRIES = 2**18  # of products of columns, worked on at a time on a CPU
ENTRIES = 2**26  # elsewhere


def runs(precision: Tensor) -> list[Run]:
    """Where neighbours in t, `(r,)`, are equal."""
    found, start = [], 0
    for value, members in groupby(precision.tolist()):
        stop = start + len(list(members))
        found.append((slice(start, stop), value))
        start = stop
    return found


def kernels(size: int, precision: Tensor) -> Tensor:
    """`exp(−t (i − j)²/2)`, `(n, size, size)`, of precisions t, `(n,)`; differentiable."""
    return (-0.5 * precision[:, None, None] * _squared_distances(size, precision.dtype, precision.device)).exp()


def _squared_distances(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    places = torch.arange(size, dtype=dtype, device=device)
    return (places[:, None] - places).square()


@lru_cache(maxsize=1024)
def _kernel(size: int, precision: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return kernels(size, torch.tensor([precision], dtype=torch.float64)).to(device, dtype)[0]


@lru_cache(maxsize=1024)
def root(size: int, precision: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """R, `(size, m)`, with `R Rᵀ = exp(−t (i − j)²/2)` to the rounding of `dtype`: m falls as the taper grows wide."""
    with torch.inference_mode(False):
        kernel = _kernel(size, precision, torch.float64, torch.device("cpu"))
        values, vectors = torch.linalg.eigh(kernel)
        kept = values > torch.finfo(dtype).eps * values[-1]
        return (vectors[:, kept] * values[kept].sqrt()).to(device, dtype)


def _multiply(fields: Tensor, precision: float) -> Tensor:
    """`K u` of fields u, `(..., H, W)`."""
    *_, height, width = fields.shape
    options = precision, fields.dtype, fields.device
    flat = fields.reshape(-1, height, width)
    tall, wide = root(height, *options), root(width, *options)
    if 2 * tall.shape[1] <= height and 2 * wide.shape[1] <= width:
        inner = (tall.mT @ flat).view(-1, width) @ wide
        return (tall @ (inner @ wide.mT).view(len(flat), -1, width)).view(fields.shape)
    across = (flat.view(-1, width) @ _kernel(width, *options)).view(flat.shape)
    return (_kernel(height, *options) @ across).view(fields.shape)


def _multiply_and_slope(fields: Tensor, precision: float) -> tuple[Tensor, Tensor]:
    """`K u` and `(dK/dt) u = −½ (d²∘K) u`, with d² the sum of that along the heights and that along the widths."""
    *_, height, width = fields.shape
    options = precision, fields.dtype, fields.device
    tall, wide = _kernel(height, *options), _kernel(width, *options)
    tall_slope = tall * _squared_distances(height, *options[1:])
    wide_slope = wide * _squared_distances(width, *options[1:])
    across = fields @ wide
    return tall @ across, -0.5 * (tall_slope @ across + tall @ (fields @ wide_slope))


class _Smooth(torch.autograd.Function):
    """`K u`, with gradients to u and to the precision of each column, though the columns' precisions be equal."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor, precision: Tensor, value: float) -> Tensor:
        ctx.value = value
        ctx.save_for_backward(*[fields] if ctx.needs_input_grad[1] else [])
        return _multiply(fields, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        if not ctx.needs_input_grad[1]:
            return _multiply(gradient, ctx.value), None, None
        product, slope = _multiply_and_slope(gradient, ctx.value)
        return product, (slope * ctx.saved_tensors[0]).sum((0, 2, 3, 4)), None


def smooth(fields: Tensor, precision: Tensor, value: float) -> Tensor:
    """`K u`: the fields of n columns that share a taper, each multiplied by it; zero beyond the borders.

    Args:
        fields: u, `(B, n, k, H, W)`.
        precision: t of each column, `(n,)`, all `value`; gradients reach it.
        value: t.

    Returns:
        of the shape of u; its gradient cannot be differentiated again.
    """
    return _Smooth.apply(fields, precision, value)


class _SquaredOverlap(torch.autograd.Function):
    """Its gradient is found along with it: with `P_ij = K_iK_j q_ij` at hand that is `4 Σ_j P_ij∘β_j`."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, precision: Tensor, groups: list[Run]) -> Tensor:
        needs = ctx.needs_input_grad
        values = columns.new_zeros(len(columns))
        gradient = torch.zeros_like(columns) if needs[0] or needs[1] else None
        slopes = columns.new_zeros(columns.shape[:2]) if needs[1] else None
        widest = max((run.stop - run.start for run, _ in groups), default=1)
        entries = CACHED_ENTRIES if columns.device.type == "cpu" else ENTRIES
        size = max(1, entries // (widest**2 * columns[0, 0, 0].numel()))
        for start in range(0, len(columns), size):
            rows = slice(start, start + size)
            sums = [part if part is None else part[rows] for part in (gradient, slopes)]
            for place, first in enumerate(groups):
                for second in groups[place:]:
                    _add_pairs(columns[rows], first, second, values[rows], *sums)
        ctx.save_for_backward(*[part for part in (gradient, slopes) if part is not None])
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        columns, *slopes = ctx.saved_tensors
        return gradient[:, None, None, None, None] * columns, gradient @ slopes[0] if slopes else None, None


def _add_pairs(
    columns: Tensor, first: Run, second: Run, values: Tensor, gradient: Tensor | None, slopes: Tensor | None
) -> None:
    """Adds what the pairs of a column of one run with a column of another, or of the same, give to the three."""
    (one, precision), (other, other_precision) = first, second
    precision = precision + other_precision
    left, right = columns[:, one, None], columns[:, None, other]
    overlap = left[:, :, :, 0] * right[:, :, :, 0]  # (B, n, m, H, W)
    for channel in range(1, columns.shape[2]):
        overlap.addcmul_(left[:, :, :, channel], right[:, :, :, channel])
    twice = 1 if one == other else 2  # (i, j) and (j, i)
    if slopes is None:
        product = _multiply(overlap, precision)
    else:
        product, slope = _multiply_and_slope(overlap, precision)
        each = twice * (slope * overlap).sum((3, 4))
        slopes[:, one] += each.sum(2)
        slopes[:, other] += each.sum(1)
    values += twice * torch.linalg.vecdot(overlap.flatten(1), product.flatten(1))
    if gradient is not None:
        for channel in range(columns.shape[2]):
            gradient[:, one, channel].add_((product * right[:, :, :, channel]).sum(2), alpha=4)
            if one != other:
                gradient[:, other, channel].add_((product * left[:, :, :, channel]).sum(1), alpha=4)


def squared_overlap(columns: Tensor, precision: Tensor, groups: list[Run]) -> Tensor:
    """`‖Σ_i K_i∘β_iβ_iᵀ‖² = Σ_ij ⟨q_ij, (K_i∘K_j) q_ij⟩`, with `q_ij(p) = Σ_c β_i(c, p) β_j(c, p)`, in pieces that stay
    in a cache.

    Args:
        columns: β, `(B, r, C, H, W)`.
        precision: t of each, `(r,)`.
        groups: their `runs`.

    Returns:
        `(B,)`; its gradient cannot be differentiated again.
    """
    return _SquaredOverlap.apply(columns, precision, groups)
