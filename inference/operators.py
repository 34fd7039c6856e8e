"""Linear measurements `y = A x + n` of points in the units of the data.

An operator takes flat points `(…, D)` to measurements `(…, m)`, whatever axes come before, and back by its transpose.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from inference.arguments import positive_number, whole_number

__all__ = ["Blur", "Dense", "Downsample", "Mask", "Operator"]

Shape = tuple[int, ...]


class Operator(ABC):
    """A, m×D.

    Attributes:
        shape: (m, D).
        measured_shape: of a measurement as a picture, `(C, H, W)`, or `(m,)`.
        disjoint: whether no two rows of A share a column, so that `A diag(v) Aᵀ` is diagonal.
    """

    shape: tuple[int, int]
    measured_shape: Shape
    disjoint: bool

    def __call__(self, x: Tensor) -> Tensor:
        """`A x`, `(…, m)` for `(…, D)`.

        Raises:
            ValueError: where x does not have D entries.
        """
        return self._product(_fitting(x, self.shape[1], "x"))

    def transposed(self, y: Tensor) -> Tensor:
        """`Aᵀ y`, `(…, D)` for `(…, m)`.

        Raises:
            ValueError: where y does not have m entries.
        """
        return self._transposed(_fitting(y, self.shape[0], "y"))

    def columns(self, block: Tensor) -> Tensor:
        """`A V`, `(B, m, k)` for a block `(B, D, k)`."""
        return self(block.mT).mT

    def transposed_columns(self, block: Tensor) -> Tensor:
        """`Aᵀ V`, `(B, D, k)` for a block `(B, m, k)`."""
        return self.transposed(block.mT).mT

    @abstractmethod
    def squares(self, v: Tensor) -> Tensor:
        """`(A ∘ A) v`, the diagonal of `A diag(v) Aᵀ`, `(…, m)` for `(…, D)`."""

    @abstractmethod
    def _product(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _transposed(self, y: Tensor) -> Tensor: ...


class Mask(Operator):
    """Some of the entries.

    Args:
        mask: which are measured, bool: `(H, W)` for all channels of an image, or of the shape of a point.
        shape: of a point, `(C, H, W)` or `(D,)`.

    Raises:
        ValueError: where the mask is of another type or shape, or measures nothing.
    """

    disjoint = True

    def __init__(self, mask: Tensor | np.ndarray, shape: Shape):
        whole = torch.as_tensor(mask)
        expected = {tuple(shape), tuple(shape[1:])} - {()}
        if whole.dtype != torch.bool or tuple(whole.shape) not in expected:
            sizes = " or ".join(map(str, sorted(expected, key=len)))
            raise ValueError(f"a mask {tuple(whole.shape)} of {whole.dtype}; bool, {sizes}, is expected")
        self.places = whole.expand(shape).flatten().nonzero()[:, 0]
        if not len(self.places):
            raise ValueError("the mask measures nothing; true entries are expected where something is known")
        self.shape = len(self.places), int(np.prod(shape))
        self.measured_shape = (self.shape[0],)

    def squares(self, v: Tensor) -> Tensor:
        return self(v)

    def _product(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.places.to(x.device))

    def _transposed(self, y: Tensor) -> Tensor:
        return y.new_zeros(*y.shape[:-1], self.shape[1]).index_copy(-1, self.places.to(y.device), y)


class Downsample(Operator):
    """The means of blocks of `factor`×`factor` pixels, channel by channel.

    Args:
        factor: from 1.
        shape: of an image, `(C, H, W)`.

    Raises:
        ValueError: where the factor is no whole number from 1, or the sides of the image are no multiples of it.
    """

    disjoint = True

    def __init__(self, factor: int, shape: Shape):
        channels, height, width = shape
        whole_number("factor", factor, least=1)
        if height % factor or width % factor:
            raise ValueError(f"images of {height}×{width} cannot be divided into blocks of {factor}×{factor} pixels")
        self.factor, self.image = int(factor), tuple(shape)
        self.measured_shape = channels, height // factor, width // factor
        self.shape = int(np.prod(self.measured_shape)), int(np.prod(shape))

    def squares(self, v: Tensor) -> Tensor:
        return self(v) / self.factor**2

    def _product(self, x: Tensor) -> Tensor:
        channels, height, width = self.measured_shape
        blocks = x.unflatten(-1, (channels, height, self.factor, width, self.factor))
        return blocks.mean((-3, -1)).flatten(-3)

    def _transposed(self, y: Tensor) -> Tensor:
        images = y.unflatten(-1, self.measured_shape) / self.factor**2
        return images.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1).flatten(-3)


class Blur(Operator):
    """Convolution with a Gaussian, channel by channel; at the border the weights of what lies in the image are scaled
    to a sum of one.

    Args:
        std: of the Gaussian, in pixels.
        shape: of an image, `(C, H, W)`.

    Raises:
        ValueError: where `std` is not positive.
    """

    disjoint = False

    def __init__(self, std: float, shape: Shape):
        positive_number("std", std)
        self.tall, self.wide = (_gaussian_weights(size, std) for size in shape[1:])
        self.measured_shape = tuple(shape)
        self.shape = int(np.prod(shape)), int(np.prod(shape))

    def squares(self, v: Tensor) -> Tensor:
        return self._separably(v, self.tall.square(), self.wide.square())

    def _product(self, x: Tensor) -> Tensor:
        return self._separably(x, self.tall, self.wide)

    def _transposed(self, y: Tensor) -> Tensor:
        return self._separably(y, self.tall.T, self.wide.T)

    def _separably(self, x: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
        return (tall.to(x) @ x.unflatten(-1, self.measured_shape) @ wide.to(x).T).flatten(-3)


class Dense(Operator):
    """A matrix in full.

    Args:
        matrix: A, `(m, D)`.

    Raises:
        ValueError: where it is not such a matrix.
    """

    def __init__(self, matrix: Tensor):
        if matrix.ndim != 2 or not matrix.is_floating_point():
            raise ValueError(f"a matrix {tuple(matrix.shape)} of {matrix.dtype}; floats (m, D) are expected")
        self.matrix = matrix
        self.shape = len(matrix), matrix.shape[1]
        self.measured_shape = (self.shape[0],)
        self.disjoint = bool(((matrix != 0).sum(0) <= 1).all())

    def squares(self, v: Tensor) -> Tensor:
        return v @ self.matrix.to(v).square().T

    def _product(self, x: Tensor) -> Tensor:
        return x @ self.matrix.to(x).T

    def _transposed(self, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y)


def _gaussian_weights(size: int, std: float) -> Tensor:
    """`(size, size)`, each row with the sum 1."""
    places = torch.arange(size, dtype=torch.float64)
    weights = (-(places[:, None] - places).square() / (2 * std**2)).exp()
    return weights / weights.sum(1, keepdim=True)


def _fitting(values: Tensor, size: int, name: str) -> Tensor:
    if values.shape[-1] != size:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; (…, {size}) is expected")
    return values
