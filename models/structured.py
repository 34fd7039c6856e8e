"""Symmetric matrices `diag(α) + ββᵀ`, not formed: everything costs O(B·D·r²) time and O(B·D·r) memory. (Alone
`dense`, and the eigenpairs where D is a few hundred at most and that is faster, have D×D entries.)"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DiagonalPlusLowRank"]

DENSE_UP_TO = 256  # dimension up to which the dense eigenproblem is the faster one
NEVER_DENSE_ABOVE = 1024


@dataclass(frozen=True)
class DiagonalPlusLowRank:
    """A batch of B matrices `M = diag(α) + ββᵀ`, D×D each, of any dtype, on any device.

    Attributes:
        diagonal: α, shape `(B, D)`.
        factor: β, shape `(B, D, r)`, or None for a diagonal matrix.
    """

    diagonal: Tensor
    factor: Tensor | None = None

    def __post_init__(self):
        if self.factor is not None and self.factor.shape[:-1] != self.diagonal.shape:
            raise ValueError(
                f"a factor {tuple(self.factor.shape)} does not fit a diagonal {tuple(self.diagonal.shape)}"
            )

    @classmethod
    def from_dense(cls, matrix: Tensor) -> "DiagonalPlusLowRank":
        """Symmetric matrices `(B, D, D)` as `λI + ββᵀ`, λ the smallest eigenvalue of each and β of rank D: exact, for
        matrices small enough to be dense."""
        values, vectors = torch.linalg.eigh(matrix)
        lowest = values[:, :1]
        return cls(lowest.expand_as(values), vectors * (values - lowest).clamp(min=0).sqrt()[:, None])

    @classmethod
    def cat(cls, parts: "Sequence[DiagonalPlusLowRank]") -> "DiagonalPlusLowRank":
        """One batch of several, all diagonal or all of the same rank."""
        factors = [part.factor for part in parts]
        diagonal = torch.cat([part.diagonal for part in parts])
        return cls(diagonal, None if factors[0] is None else torch.cat(factors))

    def __len__(self) -> int:
        return len(self.diagonal)

    def __getitem__(self, rows) -> "DiagonalPlusLowRank":
        """The matrices of a slice or an index of the batch."""
        return DiagonalPlusLowRank(self.diagonal[rows], None if self.factor is None else self.factor[rows])

    def dense(self) -> Tensor:
        """The matrices in full, `(B, D, D)`."""
        dense = torch.diag_embed(self.diagonal)
        return dense if self.factor is None else dense + self.factor @ self.factor.mT

    def detach(self) -> "DiagonalPlusLowRank":
        """The same matrices, outside the graph of gradients."""
        return DiagonalPlusLowRank(self.diagonal.detach(), None if self.factor is None else self.factor.detach())

    def to(self, *target) -> "DiagonalPlusLowRank":
        """The same matrices as another dtype or on another device: the arguments of `Tensor.to`."""
        return DiagonalPlusLowRank(self.diagonal.to(*target), None if self.factor is None else self.factor.to(*target))

    def __matmul__(self, v: Tensor) -> Tensor:
        """`M v` for vectors `(B, D)`, `M V` for a block `(B, D, k)` of them."""
        if v.ndim == 2:
            return self.matvec(v)
        product = self.diagonal[:, :, None] * v
        return product if self.factor is None else product + self.factor @ (self.factor.mT @ v)

    def matvec(self, v: Tensor) -> Tensor:
        """`M v` for vectors `(B, D)`."""
        return (self @ v[:, :, None])[:, :, 0]

    def trace(self) -> Tensor:
        """`Σα + Σβ²`, `(B,)`."""
        return self.full_diagonal().sum(1)

    def full_diagonal(self) -> Tensor:
        """The diagonal of M itself, `α + Σ_i β_i²`, `(B, D)`."""
        return self.diagonal if self.factor is None else self.diagonal + self.factor.square().sum(2)

    def quadratic(self, v: Tensor) -> Tensor:
        """`vᵀMv = ⟨M, vvᵀ⟩` for vectors `(B, D)`; shape `(B,)`."""
        value = (self.diagonal * v.square()).sum(1)
        return value if self.factor is None else value + (self.factor.mT @ v[:, :, None]).square().sum((1, 2))

    def inner(self, other: "DiagonalPlusLowRank") -> Tensor:
        """The Frobenius inner product `⟨M, N⟩ = tr MᵀN`, `(B,)`."""
        value = (self.diagonal * other.diagonal).sum(1)
        if self.factor is not None:
            value = value + (other.diagonal[:, :, None] * self.factor.square()).sum((1, 2))
        if other.factor is not None:
            value = value + (self.diagonal[:, :, None] * other.factor.square()).sum((1, 2))
        if self.factor is not None and other.factor is not None:
            value = value + (self.factor.mT @ other.factor).square().sum((1, 2))
        return value

    def squared_norm(self) -> Tensor:
        """The squared Frobenius norm `‖M‖²`, `(B,)`."""
        return self.inner(self)

    def plus_rank_one(self, u: Tensor) -> "DiagonalPlusLowRank":
        """`M + uuᵀ` for vectors `(B, D)`."""
        column = u[:, :, None]
        return DiagonalPlusLowRank(
            self.diagonal, column if self.factor is None else torch.cat([self.factor, column], dim=2)
        )

    def affine(self, scale: float | Tensor, shift: float | Tensor) -> "DiagonalPlusLowRank":
        """`scale·M + shift·I`; the posterior covariance is `s2.affine(σ⁴, σ²)`.

        Args:
            scale: at least 0; a float, or a `(B, 1)` tensor.
            shift: a float, or a `(B, 1)` tensor.

        Raises:
            ValueError: where scale is negative: −ββᵀ is not a matrix of this kind.
        """
        if (scale < 0).any() if isinstance(scale, Tensor) else scale < 0:
            raise ValueError("scale is negative, and −ββᵀ has no factor")
        factor = self.factor
        if factor is not None:
            factor = factor * (scale.sqrt()[..., None] if isinstance(scale, Tensor) else scale**0.5)
        return DiagonalPlusLowRank(scale * self.diagonal + shift, factor)

    def logdet(self) -> Tensor:
        """`log det M`, `(B,)`, by the matrix determinant lemma.

        Raises:
            ValueError: where an entry of α is not positive.
        """
        value = self._positive_diagonal().log().sum(1)
        return value if self.factor is None else value + 2 * self._capacitance().diagonal(dim1=1, dim2=2).log().sum(1)

    def solve(self, v: Tensor) -> Tensor:
        """`M⁻¹ v` for vectors `(B, D)`, by Woodbury's identity.

        Raises:
            ValueError: where an entry of α is not positive.
        """
        scaled = v / self._positive_diagonal()
        if self.factor is None:
            return scaled
        inner = torch.cholesky_solve(self.factor.mT @ scaled[:, :, None], self._capacitance())
        return scaled - (self.factor @ inner)[:, :, 0] / self.diagonal

    def _positive_diagonal(self) -> Tensor:
        if not (self.diagonal > 0).all():
            raise ValueError("α has entries that are not positive: M cannot be taken as positive definite")
        return self.diagonal

    def _capacitance(self) -> Tensor:
        """The Cholesky factor of `I + βᵀ diag(α)⁻¹ β`, `(B, r, r)`."""
        gram = self.factor.mT @ (self.factor / self.diagonal[:, :, None])
        return torch.linalg.cholesky(gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))

    def eigh_top(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues and their eigenvectors.

        A diagonal matrix has its largest entries and their axes. Up to D = 256, and up to D = 1024 where k is
        above D/16, the dense problem is solved, differentiably; otherwise a restarted block Krylov method on
        products with M alone, without gradients, until `‖Mv − λv‖` is below `√ε·max|λ|` with ε the machine
        precision. It warns (`RuntimeWarning`) where it does not get there.

        Returns:
            values `(B, k)`, descending, and orthonormal vectors `(B, D, k)` (their signs are arbitrary).

        Raises:
            ValueError: where k is not from 1 to D, or above D/16 for a D above 1024.
        """
        dimension = self.diagonal.shape[1]
        if not 1 <= k <= dimension:
            raise ValueError(f"{k} eigenpairs of a {dimension}×{dimension} matrix; from 1 to {dimension} can be had")
        if self.factor is None:
            values, places = self.diagonal.topk(k, dim=1)
            axes = torch.zeros(len(self), dimension, k, dtype=values.dtype, device=values.device)
            return values, axes.scatter(1, places[:, None, :], 1)
        many = 16 * k > dimension
        if many and dimension > NEVER_DENSE_ABOVE:
            raise ValueError(f"{k} eigenpairs of a {dimension}×{dimension} matrix; up to {dimension // 16} can be had")
        if many or dimension <= DENSE_UP_TO:
            values, vectors = torch.linalg.eigh(self.dense())
            return values.flip(1)[:, :k], vectors.flip(2)[:, :, :k]
        return self._krylov_top(k)

    @torch.no_grad()
    def _krylov_top(self, k: int, restarts: int = 60) -> tuple[Tensor, Tensor]:
        batch, dimension = self.diagonal.shape
        width = k + 4
        # The start: β's left singular vectors, the axes of the largest α, which β may not reach at all, and
        # random vectors, so that no eigenvector is orthogonal to it.
        _, mixing = torch.linalg.eigh(self.factor.mT @ self.factor)
        leading = self.factor @ mixing[:, :, -width:]
        axes = torch.zeros(batch, dimension, width, dtype=leading.dtype, device=leading.device)
        axes.scatter_(1, self.diagonal.topk(width, dim=1).indices[:, None, :], 1)
        random = torch.randn(dimension, 4, generator=torch.Generator().manual_seed(0)).to(leading)
        block = torch.cat([leading, axes, random.expand(batch, -1, -1)], dim=2)
        tolerance = torch.finfo(self.diagonal.dtype).eps ** 0.5
        for _ in range(restarts):
            basis = newest = torch.linalg.qr(block).Q
            for _ in range(max(1, min(8 * width, dimension // 2) // block.shape[2] - 1)):
                newest = self @ newest
                for _ in range(2):  # once is not orthogonal enough in floating point
                    newest = newest - basis @ (basis.mT @ newest)
                newest = torch.linalg.qr(newest).Q
                basis = torch.cat([basis, newest], dim=2)
            basis = torch.linalg.qr(basis).Q
            image = self @ basis
            values, mixing = torch.linalg.eigh(basis.mT @ image)
            top = mixing[:, :, -width:].flip(2)
            block, largest = basis @ top, values[:, -width:].flip(1)
            residual = (image @ top - block * largest[:, None, :])[:, :, :k].norm(dim=1)
            error = (residual / values.abs().amax(1, keepdim=True)).max()
            if not error > tolerance:
                break
        else:
            warnings.warn(f"eigenpairs to {error:.1e} of the largest, not to {tolerance:.1e}", RuntimeWarning, 4)
        return largest[:, :k], block[:, :, :k]
