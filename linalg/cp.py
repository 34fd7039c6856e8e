"""Symmetric tensors as sums of powers of vectors, of any order from 2 on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from linalg.matrix import SymmetricMatrix
from linalg.tensors import SymmetricTensor

__all__ = ["SymmetricCP"]


@dataclass(frozen=True, eq=False)
class SymmetricCP(SymmetricTensor):
    """A batch of B symmetric tensors `T = diag(γ) + Σ_i w_i u_i^{⊗k}`, never formed but by `dense`: everything costs
    O(B·D·r) or, for `inner`, O(B·D·r²) time, and O(B·(D + r)·r) memory, by `⟨u^{⊗k}, v^{⊗k}⟩ = (u·v)^k`.

    With k = 2 and weights of one it is the matrix `linalg.DiagonalPlusLowRank(γ, u)`.

    Args:
        weights: w, `(B, r)`, of either sign.
        vectors: u, `(B, D, r)`.
        diagonal_part: γ, the entries `(B, D)` of a tensor that is zero off its diagonal.
        order: k, 2 or more.

    Raises:
        ValueError: where they are not of these shapes, or the order is below 2.

    Source: Comon, Golub, Lim, Mourrain, *Symmetric tensors and symmetric tensor rank*, SIAM J. Matrix Anal. 2008; Meng
        et al. 2021, section 3 for k = 2.
    """

    weights: Tensor
    vectors: Tensor
    diagonal_part: Tensor
    order: int = 3

    def __post_init__(self) -> None:
        batch, dimension, rank = self.vectors.shape if self.vectors.ndim == 3 else (-1, -1, -1)
        if self.weights.shape != (batch, rank) or self.diagonal_part.shape != (batch, dimension):
            shapes = f"weights {tuple(self.weights.shape)}, vectors {tuple(self.vectors.shape)}"
            raise ValueError(
                f"{shapes}, diagonal {tuple(self.diagonal_part.shape)}; (B, r), (B, D, r), (B, D) are expected"
            )
        if not isinstance(self.order, int) or self.order < 2:
            raise ValueError(f"order is {self.order!r}; a whole number, 2 or more, is expected")

    @classmethod
    def diagonal_only(cls, diagonal: Tensor, order: int = 3) -> "SymmetricCP":
        """`diag(γ)`, from `(B, D)`."""
        none = diagonal.new_zeros(*diagonal.shape, 0)
        return cls(none[:, 0], none, diagonal, order)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    @property
    def rank(self) -> int:
        """r."""
        return self.vectors.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        return self.vectors.dtype

    @property
    def device(self) -> torch.device:
        return self.vectors.device

    def _with(self, function: Callable[[Tensor], Tensor]) -> "SymmetricCP":
        parts = function(self.weights), function(self.vectors), function(self.diagonal_part)
        return SymmetricCP(*parts, order=self.order)

    def __getitem__(self, rows: Any) -> "SymmetricCP":
        return self._with(lambda part: part[rows])

    def detach(self) -> "SymmetricCP":
        """The same tensors, outside the graph of gradients."""
        return self._with(Tensor.detach)

    def to(self, *target: Any) -> "SymmetricCP":
        """The same tensors as another dtype or on another device: the arguments of `Tensor.to`."""
        return self._with(lambda part: part.to(*target))

    @classmethod
    def cat(cls, parts: "Sequence[SymmetricCP]") -> "SymmetricCP":
        """One batch of several.

        Raises:
            ValueError: where there is none, or they differ in D, in rank or in order.
        """
        sizes = {(part.dimension, part.rank, part.order) for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"tensors of (D, rank, order) {sorted(sizes)}; one size is expected")
        return cls(
            torch.cat([part.weights for part in parts]),
            torch.cat([part.vectors for part in parts]),
            torch.cat([part.diagonal_part for part in parts]),
            parts[0].order,
        )

    def _scaled(self, scale: float | Tensor) -> "SymmetricCP":
        return replace(self, weights=scale * self.weights, diagonal_part=scale * self.diagonal_part)

    def contract(self, v: Tensor) -> Tensor:
        """`γ∘v^{k−1} + Σ_i w_i (u_i·v)^{k−1} u_i`, see `SymmetricTensor.contract`."""
        if v.ndim == 2:
            return self.contract(v[:, :, None])[:, :, 0]
        along = self.weights[:, :, None] * (self.vectors.mT @ v) ** (self.order - 1)
        return self.diagonal_part[:, :, None] * v ** (self.order - 1) + self.vectors @ along

    def form(self, v: Tensor) -> Tensor:
        """`γ·v^k + Σ_i w_i (u_i·v)^k`, see `SymmetricTensor.form`."""
        if v.ndim == 2:
            return self.form(v[:, :, None])[:, 0]
        low_rank = self.weights[:, None, :] @ (self.vectors.mT @ v) ** self.order
        return (low_rank + self.diagonal_part[:, None, :] @ v**self.order)[:, 0]

    def restricted(self, places: Tensor) -> "SymmetricCP":
        """The entries at n places, no two alike, `(n,)`: tensors of dimension n."""
        return replace(self, vectors=self.vectors[:, places], diagonal_part=self.diagonal_part[:, places])

    def slice(self, v: Tensor) -> "SymmetricCP":
        """`T(v, ·, …, ·)`, one place filled, of order k − 1 ≥ 2, for vectors `(B, D)`.

        Raises:
            ValueError: where k = 2, see `contract`.
        """
        if self.order == 2:
            raise ValueError("a slice of a tensor of order 2 is a vector: contract gives it")
        along = (self.vectors.mT @ v[:, :, None])[:, :, 0]
        return SymmetricCP(self.weights * along, self.vectors, self.diagonal_part * v, self.order - 1)

    def diagonal(self) -> Tensor:
        """`γ + Σ_i w_i u_i^k`, entry by entry, `(B, D)`."""
        return self.diagonal_part + (self.vectors**self.order @ self.weights[:, :, None])[:, :, 0]

    def trace(self) -> Tensor:
        """`Σ_d T_dd`, `(B,)`, of a tensor of order 2.

        Raises:
            ValueError: where k is not 2; `T.slice(v).trace()` is `T(I, v)` of one of order 3.
        """
        if self.order != 2:
            raise ValueError(f"trace of a tensor of order {self.order}; order 2 is expected")
        return self.diagonal().sum(1)

    def inner(self, other: "SymmetricCP | SymmetricMatrix") -> Tensor:
        """The Frobenius inner product `⟨T, S⟩`, `(B,)`: of two tensors by `(u_i·v_j)^k`; of one of order 2 and a matrix
        M by `γ·diag(M) + Σ_i w_i u_iᵀMu_i`.

        Raises:
            ValueError: where the two differ in B, D or order.
        """
        order = 2 if isinstance(other, SymmetricMatrix) else other.order
        sizes = (len(self), self.dimension, self.order), (len(other), other.dimension, order)
        if sizes[0] != sizes[1]:
            raise ValueError(f"tensors of (B, D, order) {sizes[0]} and {sizes[1]}; the same are expected")
        if isinstance(other, SymmetricMatrix):
            on_vectors = (self.weights * other.quadratic(self.vectors)).sum(1)
            return on_vectors + (self.diagonal_part * other.diagonal()).sum(1)
        gram = (self.vectors.mT @ other.vectors) ** self.order
        low_rank = (self.weights * (gram @ other.weights[:, :, None])[:, :, 0]).sum(1)
        off = replace(other, diagonal_part=torch.zeros_like(other.diagonal_part)).diagonal()
        return low_rank + (self.diagonal_part * off + self.diagonal() * other.diagonal_part).sum(1)

    def squared_norm(self) -> Tensor:
        """The squared Frobenius norm `‖T‖² = ‖γ‖² + 2 Σ_i w_i γ·u_i^k + Σ_ij w_i w_j (u_i·u_j)^k`, `(B,)`."""
        return self.inner(self)

    def dense(self) -> Tensor:
        letters = "cdefghijklmn"[: self.order]
        factors = ",".join(f"b{letter}r" for letter in letters)
        total = torch.einsum(f"br,{factors}->b{letters}", self.weights, *[self.vectors] * self.order)
        step = sum(self.dimension**place for place in range(self.order))
        places = step * torch.arange(self.dimension, device=self.device)
        return total.flatten(1).index_add(1, places, self.diagonal_part).view(total.shape)
