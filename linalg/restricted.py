"""The rows and columns of a symmetric matrix at some places: the covariance of a few entries among many."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from linalg.dense import Dense
from linalg.diagonal_plus_low_rank import DiagonalPlusLowRank
from linalg.jacobians import iterated_eigenpairs
from linalg.matrix import SymmetricMatrix
from linalg.tapered import FACTORISED_UP_TO, TaperedLowRank

__all__ = ["Restricted", "restrict"]


@dataclass(frozen=True, eq=False)
class Restricted(SymmetricMatrix):
    """`P M Pᵀ`, n×n, by products with M: P takes the entries of a vector at n places.

    Attributes:
        whole: M, B of them, D×D.
        places: the n entries, no two alike, `(n,)`.
    """

    whole: SymmetricMatrix
    places: Tensor

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def dimension(self) -> int:
        return len(self.places)

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        return self.whole.device

    @property
    def products_only(self) -> bool:
        return self.whole.products_only

    def __getitem__(self, rows: Any) -> "Restricted":
        return replace(self, whole=self.whole[rows])

    def detach(self) -> "Restricted":
        return replace(self, whole=self.whole.detach())

    def to(self, *target: Any) -> "Restricted":
        whole = self.whole.to(*target)
        return Restricted(whole, self.places.to(whole.device))

    def __matmul__(self, v: Tensor) -> Tensor:
        zeros = v.new_zeros(len(v), self.whole.dimension, *v.shape[2:])
        return (self.whole @ zeros.index_copy(1, self.places, v)).index_select(1, self.places)

    def _scaled(self, scale: float | Tensor) -> "Restricted":
        return replace(self, whole=scale * self.whole)

    def _shifted(self, shift: float | Tensor) -> "Restricted":
        return replace(self, whole=self.whole + shift)

    def diagonal(self) -> Tensor:
        return super().diagonal() if self.products_only else self.whole.diagonal()[:, self.places]

    def dense(self) -> Tensor:
        """The matrices in full, `(B, n, n)`, by n products; of a Jacobian the symmetric part."""
        full = super().dense()
        return (full + full.mT) / 2

    def eigh_top(self, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k largest eigenpairs: of a Jacobian as `Jacobian.eigh_top` finds them, of other kinds as
        `SymmetricMatrix.eigh_top` does.

        Raises:
            ValueError: where k is not from 1 to n, or above n/16 for an n above 1024.
        """
        if self.products_only and 16 * k <= self.dimension:
            self._check_count(k)
            return iterated_eigenpairs(self, k, tolerance)
        return super().eigh_top(k, tolerance)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return super().draw(n, generator) if self.products_only else self.whole.draw(n, generator)[..., self.places]

    def solve(self, v: Tensor) -> Tensor:
        return self._full("M⁻¹ v").solve(v)

    def logdet(self) -> Tensor:
        return self._full("log det M").logdet()

    def whiten(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return self._full("A⁻¹ v of a root A").whiten(v)

    def clamp(self, floor: float) -> tuple[SymmetricMatrix, int]:
        """As the kind of M does it; see there."""
        if self.products_only:
            return self._full("a floor under the eigenvalues").clamp(floor)
        whole, _ = self.whole.clamp(floor)
        raised = (whole.diagonal() != self.whole.diagonal())[:, self.places]
        return replace(self, whole=whole), int(raised.sum())

    def _full(self, what: str) -> Dense:
        if self.dimension > FACTORISED_UP_TO:
            raise NotImplementedError(self._unavailable(what))
        return Dense(self.dense())


def restrict(matrix: SymmetricMatrix, places: Tensor) -> SymmetricMatrix:
    """The rows and columns of M at some places.

    Args:
        matrix: M, B of them.
        places: n entries, no two alike, `(n,)`.

    Returns:
        B matrices n×n, of M's own kind where it has a restriction: diagonal plus low rank and dense ones at any places,
        a tapered one on all channels of a rectangle of pixels, since a taper sees no more than distances; otherwise
        `Restricted`.
    """
    if isinstance(matrix, DiagonalPlusLowRank):
        return DiagonalPlusLowRank(matrix.alpha[:, places], matrix.beta[:, places])
    if isinstance(matrix, Dense):
        return Dense(matrix.matrix[:, places[:, None], places])
    if isinstance(matrix, TaperedLowRank):
        crop, inner = _around(matrix, places)
        everything = torch.arange(crop.dimension, device=inner.device)
        return crop if torch.equal(inner, everything) else Restricted(crop, inner)
    if isinstance(matrix, Restricted):
        return Restricted(matrix.whole, matrix.places[places])
    return Restricted(matrix, places)


def _around(matrix: TaperedLowRank, places: Tensor) -> tuple[TaperedLowRank, Tensor]:
    """A tapered matrix on the smallest rectangle that has all the places, and where they are in it."""
    channels, height, width = matrix.shape
    channel, pixel = places.div(height * width, rounding_mode="floor"), places % (height * width)
    row, column = pixel.div(width, rounding_mode="floor"), pixel % width
    (top, bottom), (left, right) = ([int(end) for end in part.aminmax()] for part in (row, column))
    tall, wide = bottom - top + 1, right - left + 1
    images = torch.cat([matrix.alpha[:, None], matrix.beta.mT], dim=1).unflatten(2, matrix.shape)
    kept = images[..., top : bottom + 1, left : right + 1].flatten(2)
    crop = TaperedLowRank(kept[:, 0], kept[:, 1:].mT, matrix.ranges, (channels, tall, wide))
    return crop, (channel * tall + row - top) * wide + column - left
