"""Symmetric matrices `diag(α) + ββᵀ`, not formed: everything costs O(B·D·r²) time and O(B·D·r) memory. (Alone
`dense`, and eigenpairs and functions of the matrix where D is small and that is faster, have D×D entries.)"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linalg.matrix import SymmetricMatrix

__all__ = ["DiagonalPlusLowRank"]


class _Gram(torch.autograd.Function):
    """`βᵀβ` and the row sums of β∘β. Its gradient `β (Ġ + Ġᵀ) + 2 diag(ρ̇) β` is one product and one pass over β, where
    autograd takes two of each and temporaries of the size of β."""

    @staticmethod
    def forward(ctx: Any, beta: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(beta)
        return beta.mT @ beta, beta.square().sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gram_gradient: Tensor, rows_gradient: Tensor) -> Tensor:
        (beta,) = ctx.saved_tensors
        symmetric = gram_gradient + gram_gradient.mT
        if beta.stride(1) < beta.stride(2):  # columns one after the other, as a network gives them: keep that
            return (symmetric @ beta.mT).addcmul_(beta.mT, rows_gradient[:, None, :], value=2).mT
        return (beta @ symmetric).addcmul_(beta, rows_gradient[:, :, None], value=2)


@dataclass(frozen=True, eq=False)
class DiagonalPlusLowRank(SymmetricMatrix):
    """A batch of B matrices `M = diag(α) + ββᵀ`, D×D each, of any dtype, on any device.

    Args:
        alpha: α, `(B, D)`.
        beta: β, `(B, D, r)`; by default r = 0, a diagonal matrix.

    Raises:
        ValueError: where the two are not of these shapes.
    """

    alpha: Tensor
    beta: Tensor = None  # type: ignore[assignment]  # always a tensor once made

    def __post_init__(self) -> None:
        if self.beta is None:
            object.__setattr__(self, "beta", self.alpha.new_zeros(*self.alpha.shape, 0))
        if self.alpha.ndim != 2 or self.beta.ndim != 3 or self.beta.shape[:2] != self.alpha.shape:
            shapes = f"beta {tuple(self.beta.shape)} does not fit alpha {tuple(self.alpha.shape)}"
            raise ValueError(f"{shapes}; (B, D, r) and (B, D) are expected")

    @classmethod
    def cat(cls, parts: "Sequence[DiagonalPlusLowRank]") -> "DiagonalPlusLowRank":
        """One batch of several.

        Raises:
            ValueError: where there is none, or they differ in D or in rank.
        """
        sizes = {(part.dimension, part.rank) for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"matrices of (D, rank) {sorted(sizes)}; one size is expected")
        return cls(torch.cat([part.alpha for part in parts]), torch.cat([part.beta for part in parts]))

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def dimension(self) -> int:
        return self.alpha.shape[1]

    @property
    def rank(self) -> int:
        """r."""
        return self.beta.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        return self.alpha.dtype

    @property
    def device(self) -> torch.device:
        return self.alpha.device

    def __getitem__(self, rows: Any) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(self.alpha[rows], self.beta[rows])

    def detach(self) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(self.alpha.detach(), self.beta.detach())

    def to(self, *target: Any) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(self.alpha.to(*target), self.beta.to(*target))

    def __matmul__(self, v: Tensor) -> Tensor:
        if v.ndim == 2:
            return (self @ v[:, :, None])[:, :, 0]
        return self.alpha[:, :, None] * v + self.beta @ (self.beta.mT @ v)

    def _scaled(self, scale: float | Tensor) -> "DiagonalPlusLowRank":
        """`scale·M`.

        Raises:
            ValueError: where scale is negative and r > 0: −ββᵀ is not a matrix of this kind.
        """
        if not self.rank:
            return DiagonalPlusLowRank(scale * self.alpha)
        if (scale < 0).any() if isinstance(scale, Tensor) else scale < 0:
            raise ValueError("scale is negative, and −ββᵀ has no factor; at least 0 is expected")
        root = scale.sqrt()[..., None] if isinstance(scale, Tensor) else scale**0.5
        return DiagonalPlusLowRank(scale * self.alpha, self.beta * root)

    def _shifted(self, shift: float | Tensor) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(self.alpha + shift, self.beta)

    def diagonal(self) -> Tensor:
        """The diagonal of M, `α + Σ_i β_i²`, `(B, D)`."""
        return self.alpha + self.beta.square().sum(2)

    def dense(self) -> Tensor:
        return torch.diag_embed(self.alpha) + self.beta @ self.beta.mT

    def quadratic(self, v: Tensor) -> Tensor:
        """`vᵀMv = ⟨M, vvᵀ⟩ = α·(v∘v) + Σ_i (β_i·v)²`, `(B,)` for vectors `(B, D)`, `(B, k)` for a block `(B, D, k)`."""
        if v.ndim == 2:
            return self.quadratic(v[:, :, None])[:, 0]
        return (self.alpha[:, None, :] @ v.square())[:, 0] + (self.beta.mT @ v).square().sum(1)

    def inner(self, other: SymmetricMatrix) -> Tensor:
        """The Frobenius inner product `⟨M, N⟩ = tr MᵀN = α·diag(N) + Σ_i β_iᵀNβ_i`, `(B,)`.

        Raises:
            ValueError: where the two differ in B or in D.
        """
        self._check_size(other)
        return (self.alpha * other.diagonal()).sum(1) + other.quadratic(self.beta).sum(1)

    def squared_norm(self) -> Tensor:
        """The squared Frobenius norm `‖M‖² = ‖α‖² + 2 Σ_i α·(β_i∘β_i) + ‖βᵀβ‖²`, `(B,)`."""
        gram, squared_rows = self.beta.mT @ self.beta, self.beta.square().sum(2)
        return (self.alpha * (self.alpha + 2 * squared_rows)).sum(1) + gram.square().sum((1, 2))

    def squared_norm_and_trace(self) -> tuple[Tensor, Tensor]:
        """Both in one pass over β, and their gradients in one; these cannot be differentiated again, nor by
        `torch.func`."""
        gram, squared_rows = _Gram.apply(self.beta)
        squared_norm = (self.alpha * (self.alpha + 2 * squared_rows)).sum(1) + gram.square().sum((1, 2))
        return squared_norm, (self.alpha + squared_rows).sum(1)

    def logdet(self) -> Tensor:
        """`log det M = Σ log α + log det(I + βᵀ diag(α)⁻¹ β)`, `(B,)`.

        Raises:
            ValueError: where an entry of α is not positive.

        Source: the matrix determinant lemma; Hager, *Updating the inverse of a matrix*, SIAM Review 1989.
        """
        return self._positive_alpha().log().sum(1) + 2 * self._capacitance().diagonal(dim1=1, dim2=2).log().sum(1)

    def solve(self, v: Tensor) -> Tensor:
        """`M⁻¹ v` for vectors `(B, D)` or a block `(B, D, k)`.

        Raises:
            ValueError: where an entry of α is not positive.

        Source: Woodbury's identity; Hager, *Updating the inverse of a matrix*, SIAM Review 1989.
        """
        if v.ndim == 2:
            return self.solve(v[:, :, None])[:, :, 0]
        alpha = self._positive_alpha()[:, :, None]
        scaled = v / alpha
        return scaled - self.beta @ torch.cholesky_solve(self.beta.mT @ scaled, self._capacitance()) / alpha

    def whiten(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """`A⁻¹ v` and `log det M`, see `SymmetricMatrix.whiten`, of the root `A = diag(√α) (I + γγᵀ)^½` with
        `γ = diag(α)^{−½} β`: exactly, in O(D·r²). By γ = USVᵀ, `(I + γγᵀ)^{−½} = I − U (I − (I + S²)^{−½}) Uᵀ`,
        which keeps its digits where α is tiny."""
        alpha = self._positive_alpha()
        white, logdet = v / alpha.sqrt(), alpha.log().sum(1)
        if not self.rank:
            return white, logdet
        basis, upper = torch.linalg.qr(self.beta / alpha.sqrt()[:, :, None])
        left, singular, _ = torch.linalg.svd(upper)
        directions, stretch = basis @ left, torch.hypot(singular, torch.ones_like(singular))
        along = (1 - 1 / stretch) * (directions.mT @ white[:, :, None])[:, :, 0]
        return white - (directions @ along[:, :, None])[:, :, 0], logdet + 2 * stretch.log().sum(1)

    def _positive_alpha(self) -> Tensor:
        if not (self.alpha > 0).all():
            raise ValueError("α has entries that are not positive: M cannot be taken as positive definite")
        return self.alpha

    def _capacitance(self) -> Tensor:
        """The Cholesky factor of `I + βᵀ diag(α)⁻¹ β`, `(B, r, r)`."""
        gram = self.beta.mT @ (self.beta / self.alpha[:, :, None])
        return torch.linalg.cholesky(gram + torch.eye(self.rank, dtype=gram.dtype, device=gram.device))

    def eigh_top(self, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues `(B, k)` and their eigenvectors `(B, D, k)`; those of a diagonal matrix are its
        largest entries and their axes. Otherwise, and for what is raised, see `SymmetricMatrix.eigh_top`."""
        if self.rank:
            return super().eigh_top(k, tolerance)
        self._check_count(k)
        values, places = self.alpha.topk(k, dim=1)
        axes = torch.zeros(len(self), self.dimension, k, dtype=values.dtype, device=values.device)
        return values, axes.scatter(1, places[:, None, :], 1)

    def _krylov_start(self, width: int) -> Tensor:
        """β's left singular vectors, the axes of the largest α, which β may not reach at all, and random vectors, so
        that no eigenvector is orthogonal to all."""
        _, mixing = torch.linalg.eigh(self.beta.mT @ self.beta)
        leading = self.beta @ mixing[:, :, -width:]
        axes = torch.zeros(len(self), self.dimension, width, dtype=leading.dtype, device=leading.device)
        axes.scatter_(1, self.alpha.topk(width, dim=1).indices[:, None, :], 1)
        random = torch.randn(self.dimension, 4, generator=torch.Generator().manual_seed(0)).to(leading)
        return torch.cat([leading, axes, random.expand(len(self), -1, -1)], dim=2)

    def apply(self, function: Callable[[Tensor], Tensor], vectors: Tensor, tolerance: float = 1e-6) -> Tensor:
        """`f(M) v`, of a diagonal matrix entry by entry; otherwise see `SymmetricMatrix.apply`."""
        if self.rank or vectors.ndim == 2:
            return super().apply(function, vectors, tolerance)
        values = function(self.alpha[:, None, :].expand(-1, vectors.shape[2], -1))
        return values.mT * vectors

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws from N(0, M) for each matrix, `(n, B, D)`, as `√α ξ + β η`; negative α are taken for 0."""
        options: dict[str, Any] = {"generator": generator, "dtype": self.dtype, "device": self.device}
        independent = self.alpha.clamp(min=0).sqrt() * torch.randn(n, *self.alpha.shape, **options)
        return independent + (self.beta @ torch.randn(n, len(self), self.rank, 1, **options))[..., 0]

    def clamp(self, floor: float) -> "tuple[DiagonalPlusLowRank, int]":
        """The matrix with the entries of α below `floor` raised to it, and how many there were; so no eigenvalue is
        below."""
        return DiagonalPlusLowRank(self.alpha.clamp(min=floor), self.beta), int((self.alpha < floor).sum())
