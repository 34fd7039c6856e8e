"""A region of a picture: what is known of its pixels, given the whole picture."""

import numbers
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from linalg import SymmetricMatrix, SymmetricTensor, restrict
from models import Scores
from models.tiles import Box, with_margin

__all__ = ["Where", "entries_of", "region_of", "restricted_scores"]

Shape = tuple[int, int, int]
Where = Sequence[int] | np.ndarray | Tensor


def region_of(where: Where, shape: Shape) -> tuple[Box, Tensor | None]:
    """The box of a region, and its pixels in it where they are not all.

    Args:
        where: (top, left, height, width), or a mask `(H, W)`.
        shape: of the picture, `(C, H, W)`.

    Raises:
        ValueError: where it is neither, is empty, or leads out of the picture.
    """
    _, height, width = shape
    where = torch.from_numpy(where) if isinstance(where, np.ndarray) and where.dtype == bool else where
    if isinstance(where, Tensor):
        if where.dtype != torch.bool or where.shape != (height, width) or not where.any():
            given = f"{tuple(where.shape)} of {where.dtype} with {int(where.sum())} pixels"
            raise ValueError(f"a region {given}; a mask ({height}, {width}) of some pixels, of type bool, is expected")
        rows, columns = where.any(1).nonzero().flatten(), where.any(0).nonzero().flatten()
        top, left = int(rows[0]), int(columns[0])
        box = Box(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)
        mask = where[box.rows, box.columns]
        return box, None if mask.all() else mask
    if len(where) != 4 or not all(isinstance(number, numbers.Integral) for number in where):
        raise ValueError(f"a region {tuple(where)}; four whole numbers are expected, (top, left, height, width)")
    box = Box(*(int(number) for number in where))
    inside = min(box.top, box.left) >= 0 and box.top + box.height <= height and box.left + box.width <= width
    if not inside or min(box.height, box.width) < 1:
        region = f"a region of {box.height}×{box.width} pixels from ({box.top}, {box.left}) on"
        raise ValueError(f"{region} does not lie in a picture of {height}×{width}")
    return box, None


def entries_of(box: Box, mask: Tensor | None, shape: Shape) -> Tensor:
    """The numbers of a region's entries among those of a picture, in its order."""
    places = torch.arange(shape[0] * shape[1] * shape[2]).view(shape)[:, box.rows, box.columns]
    return places.flatten() if mask is None else places[:, mask.cpu()].flatten()


def restricted_scores(scores: Scores, noisy: Tensor, box: Box, mask: Tensor | None, shape: Shape) -> Scores:
    """The scores of a region's entries, as functions of them alone, the rest of the picture as it is.

    The Jacobian of s1 is that of the region's rows and columns. Where s1 is local, it is computed from what surrounds
    it.

    Args:
        scores: of pictures of `shape`.
        noisy: the picture, `(1, D)`.
        box, mask: see `region_of`.
        shape: of the picture, `(C, H, W)`.
    """
    around, s1 = Box(0, 0, *shape[1:]), scores.s1
    if scores.locality is not None:
        around = with_margin(box, shape[1:], scores.locality.reach, scores.locality.multiple)
        s1 = scores.locality.s1((shape[0], around.height, around.width))
    part = noisy.view(1, *shape)[:, :, around.rows, around.columns]
    entries = entries_of(box.within(around), mask, (shape[0], around.height, around.width)).to(noisy.device)
    fixed = part.flatten(1)

    def of_region(x: Tensor) -> Tensor:
        return s1(fixed.expand(len(x), -1).index_copy(1, entries, x))[:, entries]

    places = entries_of(box, mask, shape).to(noisy.device)

    def whole(x: Tensor) -> Tensor:
        return noisy.expand(len(x), -1).index_copy(1, places, x)

    def s2(x: Tensor) -> SymmetricMatrix:
        assert scores.s2 is not None
        return restrict(scores.s2(whole(x)), places)

    def s3(x: Tensor) -> SymmetricTensor:
        assert scores.s3 is not None
        return scores.s3(whole(x)).restricted(places)

    size = (shape[0], box.height, box.width) if mask is None else (len(entries),)
    return Scores(
        scores.sigma,
        of_region,
        s2 if scores.s2 is not None else None,
        shape=size,
        like=noisy,
        values=scores.values,
        s3=s3 if scores.s3 is not None else None,
    )
