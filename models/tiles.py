"""A local network on a picture of any size, a tile at a time.

Of a network that looks no further than its reach, the middle of a crop's output is that of the whole picture, once the
crop has a margin of the reach around it. So the memory that the network needs is that of a tile.

A network may pad a picture, in a way that depends on how far its height and width are from multiples of a number, and
divide it into blocks from there. A crop is padded and divided in the same way where it begins at a multiple of that
number and differs by one from the picture in size: what is padded at a border of the picture is as it was, and what is
padded elsewhere lies in the margin.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TILE", "Box", "in_tiles", "with_margin"]

TILE = 256


class Box(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Those of the picture that it has."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Those of the picture that it has."""
        return slice(self.left, self.left + self.width)

    def within(self, other: "Box") -> "Box":
        """The same rectangle, its place counted from the corner of another."""
        return Box(self.top - other.top, self.left - other.left, self.height, self.width)


def with_margin(box: Box, size: tuple[int, int], reach: int, multiple: int = 1) -> Box:
    """The crop of a picture on which a local network's output in a box is that of the whole picture.

    Args:
        box: where the output is asked for.
        size: height and width of the picture.
        reach: how far an output looks, in pixels.
        multiple: the network pads pictures to multiples of it, or divides them into blocks of it.

    Returns:
        a box around the first, at most the whole picture.
    """
    top, height = _with_margin(box.top, box.height, size[0], reach, multiple)
    left, width = _with_margin(box.left, box.width, size[1], reach, multiple)
    return Box(top, left, height, width)


def _with_margin(first: int, length: int, size: int, reach: int, multiple: int) -> tuple[int, int]:
    start = max(0, first - reach) // multiple * multiple
    stop = first + length + reach
    stop += (size - stop) % multiple  # so that the crop and the picture leave the same rest
    return start, min(stop, size) - start


def in_tiles(
    network: Callable[[Tensor], Tensor], images: Tensor, reach: int, multiple: int = 1, tile: int = TILE
) -> Tensor:
    """`network(images)` of a local network, in the memory that it takes for a tile.

    Args:
        network: from images `(B, C, H, W)` to images `(B, n, H, W)`.
        images: of any size. What is no larger than a tile with its margins goes through in one piece.
        reach, multiple: see `with_margin`.
        tile: height and width of the part of the output that is made at a time.

    Returns:
        `(B, n, H, W)`, equal to `network(images)` to rounding.
    """
    height, width = images.shape[2:]
    longest = tile + 2 * (reach + multiple)
    if height <= longest and width <= longest:
        return network(images)
    rows = []
    for top, bottom in _parts(height, tile):
        row = []
        for left, right in _parts(width, tile):
            box = Box(top, left, bottom - top, right - left)
            crop = with_margin(box, (height, width), reach, multiple)
            inner = box.within(crop)
            row.append(network(images[:, :, crop.rows, crop.columns])[:, :, inner.rows, inner.columns])
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def _parts(size: int, tile: int) -> Iterator[tuple[int, int]]:
    """The ends of parts of nearly equal length, none longer than a tile."""
    count = -(-size // tile)
    return pairwise(size * number // count for number in range(count + 1))
