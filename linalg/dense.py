"""Symmetric matrices in full."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linalg.functions import apply_by_eigenvectors
from linalg.matrix import SymmetricMatrix

__all__ = ["Dense", "as_matrix"]


@dataclass(frozen=True, eq=False)
class Dense(SymmetricMatrix):
    """A batch of B symmetric matrices, D×D each, whose entries are all there.

    Attributes:
        matrix: M, `(B, D, D)`, symmetric: eigenpairs, solves and determinants look at the lower triangle alone.

    Raises:
        ValueError: where `matrix` is not `(B, D, D)`.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        if self.matrix.ndim != 3 or self.matrix.shape[1] != self.matrix.shape[2]:
            raise ValueError(f"a matrix {tuple(self.matrix.shape)}; (B, D, D) is expected")

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def dimension(self) -> int:
        return self.matrix.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def __getitem__(self, rows: Any) -> "Dense":
        return Dense(self.matrix[rows])

    def detach(self) -> "Dense":
        return Dense(self.matrix.detach())

    def to(self, *target: Any) -> "Dense":
        return Dense(self.matrix.to(*target))

    def __matmul__(self, v: Tensor) -> Tensor:
        return (self.matrix @ v[:, :, None])[:, :, 0] if v.ndim == 2 else self.matrix @ v

    def _scaled(self, scale: float | Tensor) -> "Dense":
        return Dense((scale[..., None] if isinstance(scale, Tensor) else scale) * self.matrix)

    def _shifted(self, shift: float | Tensor) -> "Dense":
        return Dense(self.matrix + torch.diag_embed(shift * torch.ones_like(self.diagonal())))

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal(dim1=1, dim2=2)

    def dense(self) -> Tensor:
        return self.matrix

    def eigh_top(self, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues `(B, k)`, descending, and their orthonormal eigenvectors `(B, D, k)`, by the dense
        problem at any D, differentiably, and exactly whatever the tolerance.

        Raises:
            ValueError: where k is not from 1 to D.
        """
        self._check_count(k)
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.flip(1)[:, :k], vectors.flip(2)[:, :, :k]

    def apply(self, function: Callable[[Tensor], Tensor], vectors: Tensor, tolerance: float = 1e-6) -> Tensor:
        if vectors.ndim == 2:
            return self.apply(function, vectors[:, :, None], tolerance)[:, :, 0]
        return apply_by_eigenvectors(self.matrix, function, vectors)

    def solve(self, v: Tensor) -> Tensor:
        solution = torch.cholesky_solve(v[:, :, None] if v.ndim == 2 else v, self._cholesky())
        return solution[:, :, 0] if v.ndim == 2 else solution

    def logdet(self) -> Tensor:
        return 2 * self._cholesky().diagonal(dim1=1, dim2=2).log().sum(1)

    def whiten(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """`A⁻¹ v` of the Cholesky factor A, and `log det M`; see `SymmetricMatrix.whiten`. Entry i of `A⁻¹ v` is the
        deviation of v_i from its mean given v_1 … v_{i−1}, in standard deviations."""
        root = self._cholesky()
        white = torch.linalg.solve_triangular(root, v[:, :, None], upper=False)[:, :, 0]
        return white, 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)

    def _cholesky(self) -> Tensor:
        root, failed = torch.linalg.cholesky_ex(self.matrix)
        if failed.any():
            raise ValueError("M has eigenvalues that are not positive: it is not positive definite")
        return root

    def clamp(self, floor: float) -> "tuple[Dense, int]":
        """The matrix with its eigenvalues below `floor` raised to it, and how many there were."""
        values, vectors = torch.linalg.eigh(self.matrix)
        below = int((values < floor).sum())
        return (Dense(vectors * values.clamp(min=floor)[:, None] @ vectors.mT) if below else self), below


def as_matrix(matrix: SymmetricMatrix | Tensor) -> SymmetricMatrix:
    """Tensors `(B, D, D)` as `Dense`; a matrix as it is.

    Raises:
        ValueError: where a tensor is not `(B, D, D)`.
    """
    return Dense(matrix) if isinstance(matrix, Tensor) else matrix
