"""Gaussian tapers on the pixels of an image, `K(p, p') = exp(−d²/2ℓ²)`, not formed: `K = K_h ⊗ K_w`, with one factor for
the heights and one for the widths.

A taper is known by its precision t = 1/ℓ², and a product of two tapers is the one of the sum of their precisions. A
product with K is two products with small dense factors, also for large images: on a CPU these stay ahead of an FFT
padded against wrapping round up to a thousand pixels a side, and they are as exact.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["kernels", "root", "runs", "smooth", "squared_overlap"]

Run = tuple[slice, float]  # columns side by side that share a taper, and its precision
AT_A_TIME = {"cpu": 2**17}  # entries of products of columns that stay in a cache
AT_A_TIME_ELSEWHERE = 2**26


def runs(precisions: Sequence[float], whole: bool = True) -> list[Run]:
    """Where neighbours are equal, as slices; `whole` false makes each a run of its own."""
    found, start = [], 0
    for (precision, _), members in groupby(zip(precisions, range(len(precisions)), strict=True), lambda one: (one[0], whole or one[1])):
        stop = start + len(list(members))
        found.append((slice(start, stop), precision))
        start = stop
    return found
