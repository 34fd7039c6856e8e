"""Symmetric matrices known by their products: what every kind of them can do, from `M v` alone."""

import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from linalg.factors import per_item
from linalg.functions import apply_by_eigenvectors
from linalg.krylov import block_krylov, lanczos

__all__ = ["SymmetricMatrix"]

Self = TypeVar("Self", bound="SymmetricMatrix")

DENSE_UP_TO = 256  # dimension up to which the dense eigenproblem is the faster one
NEVER_DENSE_ABOVE = 1024
EIGENVECTORS_UP_TO = 48  # dimension up to which a function of the matrix is faster by eigenvectors than by Lanczos
COLUMNS = 64  # of the identity, multiplied at a time
DRAW_TOLERANCE = 1e-4


class SymmetricMatrix(ABC):
    """A batch of B symmetric D×D matrices M.

    `M @ v` multiplies vectors `(B, D)` or blocks `(B, D, k)`; `a * M + b` is the matrix `aM + bI`, with a and b floats
    or tensors of no dimension, `(B,)` or `(B, 1)`; `M[rows]` are the matrices of a slice, an index list, or a mask. A
    kind of matrix gives its products, its scaling and its shift; what it can do better than by products, it overrides.
    """

    __array_ufunc__ = None  # so that a number of numpy leaves `a * M` to M

    @abstractmethod
    def __len__(self) -> int:
        """B."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """D."""

    @property
    def products_only(self) -> bool:
        """Whether M is known by products alone, each of them a call of a network."""
        return False

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype: ...

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def __getitem__(self: Self, rows: Any) -> Self:
        """The matrices of a slice, an index list, or a mask of the batch."""

    @abstractmethod
    def detach(self: Self) -> Self:
        """The same matrices, outside the graph of gradients."""

    @abstractmethod
    def to(self: Self, *target: Any) -> Self:
        """The same matrices as another dtype or on another device: the arguments of `Tensor.to`."""

    @abstractmethod
    def __matmul__(self, v: Tensor) -> Tensor:
        """`M v` for vectors `(B, D)`, `M V` for a block `(B, D, k)` of them."""

    @abstractmethod
    def _scaled(self: Self, scale: float | Tensor) -> Self:
        """`scale·M`; scale is a number, or a tensor of no dimension or `(B, 1)`."""

    @abstractmethod
    def _shifted(self: Self, shift: float | Tensor) -> Self:
        """`M + shift·I`; shift is a number, or a tensor of no dimension or `(B, 1)`."""

    def __mul__(self: Self, scale: float | Tensor) -> Self:
        """`scale·M`."""
        return self._scaled(self._per_matrix(scale)) if isinstance(scale, numbers.Real | Tensor) else NotImplemented

    def __add__(self: Self, shift: float | Tensor) -> Self:
        """`M + shift·I`."""
        return self._shifted(self._per_matrix(shift)) if isinstance(shift, numbers.Real | Tensor) else NotImplemented

    def __sub__(self: Self, shift: float | Tensor) -> Self:
        """`M − shift·I`."""
        return self + -shift

    __rmul__ = __mul__
    __radd__ = __add__

    def _per_matrix(self, number: float | Tensor) -> float | Tensor:
        return per_item(number, len(self), "matrices")

    def matvec(self, v: Tensor) -> Tensor:
        """`M v` for vectors `(B, D)`."""
        return self @ v

    def quadratic(self, v: Tensor) -> Tensor:
        """`vᵀMv = ⟨M, vvᵀ⟩`, `(B,)` for vectors `(B, D)`, `(B, k)` for a block `(B, D, k)` of them."""
        return (v * (self @ v)).sum(1)

    def diagonal(self) -> Tensor:
        """The diagonal of M, `(B, D)`."""
        blocks = torch.eye(self.dimension, dtype=self.dtype, device=self.device).split(COLUMNS)
        return torch.cat([self.quadratic(block.mT.expand(len(self), -1, -1)) for block in blocks], dim=1)

    def trace(self) -> Tensor:
        """The trace of M, `(B,)`."""
        return self.diagonal().sum(1)

    def dense(self) -> Tensor:
        """The matrices in full, `(B, D, D)`."""
        blocks = torch.eye(self.dimension, dtype=self.dtype, device=self.device).split(COLUMNS)
        return torch.cat([self @ block.mT.expand(len(self), -1, -1) for block in blocks], dim=2)

    def inner(self, other: "SymmetricMatrix") -> Tensor:
        """The Frobenius inner product `⟨M, N⟩ = tr MᵀN`, `(B,)`.

        Raises:
            ValueError: where the two differ in B or in D.
        """
        self._check_size(other)
        return (self.dense() * other.dense()).sum((1, 2))

    def _check_size(self, other: "SymmetricMatrix") -> None:
        sizes = (len(self), self.dimension), (len(other), other.dimension)
        if sizes[0] != sizes[1]:
            raise ValueError(f"matrices of (B, D) {sizes[0]} and {sizes[1]}; the same are expected")

    def squared_norm(self) -> Tensor:
        """The squared Frobenius norm `‖M‖²`, `(B,)`."""
        return self.dense().square().sum((1, 2))

    def squared_norm_and_trace(self) -> tuple[Tensor, Tensor]:
        """Both, `(B,)` each, which the losses need together."""
        return self.squared_norm(), self.trace()

    def eigh_top(self, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues and their eigenvectors.

        Up to D = 256, and up to D = 1024 where k is above D/16, the dense problem is solved, differentiably; otherwise
        `block_krylov` on products with M alone, without gradients.

        Args:
            k: how many.
            tolerance: where products alone are used, until `‖Mv − λv‖` is below this share of the largest |λ|; by
                default √ε, ε the machine precision.

        Returns:
            values `(B, k)`, descending, and orthonormal vectors `(B, D, k)` (their signs are arbitrary).

        Raises:
            ValueError: where k is not from 1 to D, or above D/16 for a D above 1024.
        """
        self._check_count(k)
        many = 16 * k > self.dimension
        if many and self.dimension > NEVER_DENSE_ABOVE:
            size, limit = f"{self.dimension}×{self.dimension}", self.dimension // 16
            raise ValueError(f"{k} eigenpairs of a {size} matrix; up to {limit} can be had")
        if many or self.dimension <= DENSE_UP_TO:
            values, vectors = torch.linalg.eigh(self.dense())
            return values.flip(1)[:, :k], vectors.flip(2)[:, :, :k]
        return block_krylov(self, self._krylov_start(k + 4), k, tolerance)

    def _check_count(self, k: int) -> None:
        if not 1 <= k <= self.dimension:
            size = f"{self.dimension}×{self.dimension}"
            raise ValueError(f"{k} eigenpairs of a {size} matrix; from 1 to {self.dimension} can be had")

    def _krylov_start(self, width: int) -> Tensor:
        """A block `(B, D, w)`, w at least `width`, that no leading eigenvector is orthogonal to."""
        start = torch.randn(self.dimension, width, generator=torch.Generator().manual_seed(0))
        return start.to(self.device, self.dtype).expand(len(self), -1, -1)

    def apply(self, function: Callable[[Tensor], Tensor], vectors: Tensor, tolerance: float = 1e-6) -> Tensor:
        """`f(M) v`, by eigenvectors where D is small, else by Lanczos' method.

        Args:
            function: f, from eigenvalues `(B, n, m)` to values of the same shape, whatever m; it may differ along n.
            vectors: v, `(B, D)` (n = 1) or `(B, D, n)`.
            tolerance: of Lanczos' method, relative to the length of the result; see `linalg.lanczos`.

        Returns:
            of the shape of `vectors`.
        """
        if vectors.ndim == 2:
            return self.apply(function, vectors[:, :, None], tolerance)[:, :, 0]
        if self.dimension <= EIGENVECTORS_UP_TO:
            return apply_by_eigenvectors(self.dense(), function, vectors)
        return lanczos(self, vectors, function, tolerance)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws from N(0, M) for each matrix, `(n, B, D)`, as `M^{1/2} ξ`; negative eigenvalues are taken for 0."""
        shape = (n, len(self), self.dimension)
        noise = torch.randn(shape, generator=generator, dtype=self.dtype, device=self.device)
        draws = self.apply(lambda values: values.clamp(min=0).sqrt(), noise.permute(1, 2, 0), DRAW_TOLERANCE)
        return draws.permute(2, 0, 1)

    def solve(self, v: Tensor) -> Tensor:
        """`M⁻¹ v` for vectors `(B, D)` or a block `(B, D, k)`.

        Raises:
            NotImplementedError: where the kind of matrix is known by its products alone.
            ValueError: where M cannot be taken as positive definite.
        """
        raise NotImplementedError(self._unavailable("M⁻¹ v"))

    def logdet(self) -> Tensor:
        """`log det M`, `(B,)`.

        Raises:
            NotImplementedError: where the kind of matrix is known by its products alone.
            ValueError: where M cannot be taken as positive definite.
        """
        raise NotImplementedError(self._unavailable("log det M"))

    def whiten(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """`A⁻¹ v` of a root A of M, `M = A Aᵀ`, and `log det M`: vectors `v ~ N(0, M)` become `N(0, I)`, and the
        density of any v is that of `A⁻¹ v` over `√det M`.

        Args:
            v: `(B, D)`.

        Returns:
            `(B, D)` and `(B,)`. Which root it is depends on the kind of matrix.

        Raises:
            NotImplementedError: where the kind of matrix is known by its products alone.
            ValueError: where M cannot be taken as positive definite.
        """
        raise NotImplementedError(self._unavailable("A⁻¹ v of a root A"))

    def _unavailable(self, what: str) -> str:
        return f"{what} of a {type(self).__name__} cannot be had; where D is small, Dense(matrix.dense()) has it"

    @abstractmethod
    def clamp(self, floor: float) -> "tuple[SymmetricMatrix, int]":
        """The matrix with no eigenvalue below `floor` > 0, as far as its kind can say, and how many numbers were."""
