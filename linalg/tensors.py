"""Symmetric tensors known by their contractions with vectors: what every kind of them can do."""

import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from linalg.factors import per_item
from linalg.matrix import COLUMNS

__all__ = ["SymmetricTensor"]

Self = TypeVar("Self", bound="SymmetricTensor")


class SymmetricTensor(ABC):
    """A batch of B symmetric tensors T of D^k entries, k the `order`, 2 or more.

    `a * T` is the tensor aT, a a float or a tensor of no dimension, `(B,)` or `(B, 1)`; `T[rows]` are the tensors of a
    slice, an index list, or a mask. A kind of tensor gives `contract`; what it can do better, it overrides.
    """

    order: int
    __array_ufunc__ = None  # so that a number of numpy leaves `a * T` to T

    @abstractmethod
    def __len__(self) -> int:
        """B."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """D."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype: ...

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def __getitem__(self: Self, rows: Any) -> Self:
        """The tensors of a slice, an index list, or a mask of the batch."""

    @abstractmethod
    def contract(self, v: Tensor) -> Tensor:
        """`T(v, …, v, ·)`, all places but one filled: `(B, D)` for vectors `(B, D)`, `(B, D, n)` for a block
        `(B, D, n)` of them."""

    @abstractmethod
    def _scaled(self: Self, scale: float | Tensor) -> Self:
        """`scale·T`; scale is a number, or a tensor of no dimension or `(B, 1)`."""

    def __mul__(self: Self, scale: float | Tensor) -> Self:
        """`scale·T`."""
        if not isinstance(scale, numbers.Real | Tensor):
            return NotImplemented
        return self._scaled(per_item(scale, len(self), "tensors"))

    __rmul__ = __mul__

    def restricted(self, places: Tensor) -> "SymmetricTensor":
        """The entries at n places, no two alike, `(n,)`: tensors of dimension n."""
        return RestrictedTensor(self, places)

    def form(self, v: Tensor) -> Tensor:
        """`T(v, …, v)`, `(B,)` for vectors `(B, D)`, `(B, n)` for a block `(B, D, n)`."""
        return (v * self.contract(v)).sum(1)

    def diagonal(self) -> Tensor:
        """The entries `T_d…d`, `(B, D)`."""
        blocks = torch.eye(self.dimension, dtype=self.dtype, device=self.device).split(COLUMNS)
        return torch.cat([self.form(block.mT.expand(len(self), -1, -1)) for block in blocks], dim=1)

    def dense(self) -> Tensor:
        """The tensors in full, `(B, D, …, D)`: for tests, and small D.

        Raises:
            NotImplementedError: where k is not 3, unless the kind of tensor has them anyhow.
        """
        if self.order != 3:
            raise NotImplementedError(
                f"a {type(self).__name__} of order {self.order} in full; of order 3 it can be had"
            )
        axes = torch.eye(self.dimension, dtype=self.dtype, device=self.device).expand(len(self), -1, -1)
        pairs = [self.contract(axes + axis) - self.contract(axes - axis) for axis in axes.unsqueeze(3).unbind(2)]
        return torch.stack(pairs, dim=1) / 4


@dataclass(frozen=True, eq=False)
class RestrictedTensor(SymmetricTensor):
    """The entries of tensors at n places, by contractions of the whole.

    Attributes:
        whole: T, B of them.
        places: no two alike, `(n,)`.
    """

    whole: SymmetricTensor
    places: Tensor

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.whole.order

    @property
    def dimension(self) -> int:
        return len(self.places)

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        return self.whole.device

    def __getitem__(self, rows: Any) -> "RestrictedTensor":
        return replace(self, whole=self.whole[rows])

    def _scaled(self, scale: float | Tensor) -> "RestrictedTensor":
        return replace(self, whole=scale * self.whole)

    def contract(self, v: Tensor) -> Tensor:
        zeros = v.new_zeros(len(v), self.whole.dimension, *v.shape[2:])
        return self.whole.contract(zeros.index_copy(1, self.places, v))[:, self.places]
