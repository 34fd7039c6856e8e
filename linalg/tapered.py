"""Symmetric matrices `C = diag(α) + Σ_i K_i ∘ (β_iβ_iᵀ)` on the pixels of images, not formed: low rank, each column
cut off at a distance of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from linalg.dense import Dense
from linalg.diagonal_plus_low_rank import DiagonalPlusLowRank
from linalg.krylov import block_lanczos
from linalg.matrix import DENSE_UP_TO, NEVER_DENSE_ABOVE, SymmetricMatrix
from linalg.solves import logdet_estimate, solve_by_products
from linalg.tapers import CACHED_ENTRIES, ENTRIES, Run, kernels, root, runs, squared_norm

__all__ = ["TaperedLowRank"]

MAX_LANCZOS = 1600  # sixteen times half of the products that `block_lanczos` takes at most
FACTORISED_UP_TO = 4096  # dimension up to which a Cholesky factor costs no more than an estimate of the determinant
DOUBLE_BELOW = 1e-5  # share of the variance: pivots below it would lose their digits in single precision
WHITENING = 1e-4  # tolerance of C^{−½} v above that
BLOCK = 4  # columns of the one that eigenpairs begin with


@dataclass(frozen=True, eq=False)
class TaperedLowRank(SymmetricMatrix):
    """A batch of B matrices `C = diag(α) + Σ_i K_i ∘ (β_iβ_iᵀ)` on images of C channels, H pixels high and W wide,
    D = C·H·W.

    The taper `K_i(p, p') = exp(−d²/2ℓ_i²)` falls with the distance d of two pixels, whatever their channels; ℓ = ∞
    leaves a column as it is. Tapers are positive semidefinite, and so is each term, by Schur's product theorem; the
    diagonal does not feel them. Products cost O(B·D·r·(H + W)), `squared_norm` r times as much.

    Args:
        alpha: α, `(B, D)`.
        beta: β, `(B, D, r)`.
        ranges: ℓ, in pixels, `(r,)`, positive, ∞ allowed. Gradients reach it: tapers can be learned. Columns of equal
            range are best side by side, where `squared_norm` takes them together.
        shape: (C, H, W).

    Raises:
        ValueError: where they are not of these shapes, or a range is not positive.

    Source: localisation of covariances, Gaspari and Cohn, *Construction of correlation functions in two and three
        dimensions*, Q. J. R. Meteorol. Soc. 1999; Schur, J. reine angew. Math. 140, 1911, theorem VII.
    """

    alpha: Tensor
    beta: Tensor
    ranges: Tensor
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if self.alpha.ndim != 2 or self.beta.ndim != 3 or self.beta.shape[:2] != self.alpha.shape:
            shapes = f"beta {tuple(self.beta.shape)} does not fit alpha {tuple(self.alpha.shape)}"
            raise ValueError(f"{shapes}; (B, D, r) and (B, D) are expected")
        if not self.beta.shape[2]:
            raise ValueError("beta has no columns; a diagonal matrix is a DiagonalPlusLowRank")
        channels, height, width = self.shape
        if channels * height * width != self.alpha.shape[1]:
            raise ValueError(f"images {tuple(self.shape)} do not have D = {self.alpha.shape[1]} entries")
        if self.ranges.shape != self.beta.shape[2:] or not (self.ranges > 0).all():
            raise ValueError(f"ranges {self.ranges.tolist()}; {self.beta.shape[2]} positive numbers are expected")
        columns = self.beta.mT.contiguous()  # one after the other, as products want them
        object.__setattr__(self, "beta", columns.mT)

    @classmethod
    def cat(cls, parts: "Sequence[TaperedLowRank]") -> "TaperedLowRank":
        """One batch of several.

        Raises:
            ValueError: where there is none, or they differ in shape or in ranges.
        """
        kinds = {(tuple(part.shape), tuple(part.ranges.tolist())) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"matrices of (shape, ranges) {sorted(kinds)}; one kind is expected")
        alpha, beta = torch.cat([part.alpha for part in parts]), torch.cat([part.beta for part in parts])
        return cls(alpha, beta, parts[0].ranges, parts[0].shape)

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

    def __getitem__(self, rows: Any) -> "TaperedLowRank":
        return replace(self, alpha=self.alpha[rows], beta=self.beta[rows])

    def detach(self) -> "TaperedLowRank":
        return replace(self, alpha=self.alpha.detach(), beta=self.beta.detach(), ranges=self.ranges.detach())

    def to(self, *target: Any) -> "TaperedLowRank":
        alpha, beta, ranges = (part.to(*target) for part in (self.alpha, self.beta, self.ranges))
        return replace(self, alpha=alpha, beta=beta, ranges=ranges)

    @cached_property
    def _runs(self) -> list[Run]:
        return runs(self._precision().detach())

    def _precision(self) -> Tensor:
        """1/ℓ², `(r,)`; 0, with gradient 0, where ℓ = ∞."""
        return self.ranges.to(self.dtype) ** -2

    def _columns(self) -> Tensor:
        """β, `(B, r, C, H, W)`."""
        return self.beta.mT.reshape(len(self), self.rank, *self.shape)

    def _scaled(self, scale: float | Tensor) -> "TaperedLowRank":
        """`scale·C`.

        Raises:
            ValueError: where scale is negative and r > 0: −Σ_i K_i∘β_iβ_iᵀ is not a matrix of this kind.
        """
        if (scale < 0).any() if isinstance(scale, Tensor) else scale < 0:
            raise ValueError("scale is negative, and −ββᵀ has no factor; at least 0 is expected")
        square_root = scale.sqrt()[..., None] if isinstance(scale, Tensor) else scale**0.5
        return replace(self, alpha=scale * self.alpha, beta=self.beta * square_root)

    def _shifted(self, shift: float | Tensor) -> "TaperedLowRank":
        return replace(self, alpha=self.alpha + shift)

    def __matmul__(self, v: Tensor) -> Tensor:
        if v.ndim == 2:
            return (self @ v[:, :, None])[:, :, 0]
        columns, *tapers = self._parts()
        sums = (columns * _smooth(self._fields(columns, v), *tapers)[:, None]).sum(0)
        return self.alpha[:, :, None] * v + sums.permute(2, 0, 1, 4, 3).reshape(v.shape)

    def quadratic(self, v: Tensor) -> Tensor:
        """`vᵀCv = α·(v∘v) + Σ_i ⟨u_i, K_i u_i⟩`, `u_i = Σ_c β_i∘v`, `(B,)` for vectors `(B, D)`, `(B, k)` for a block
        `(B, D, k)`."""
        if v.ndim == 2:
            return self.quadratic(v[:, :, None])[:, 0]
        columns, *tapers = self._parts()
        fields = self._fields(columns, v)
        return (self.alpha[:, None, :] @ v.square())[:, 0] + (fields * _smooth(fields, *tapers)).sum((0, 1, 4))

    def _fields(self, columns: Tensor, v: Tensor) -> Tensor:
        """What the tapers multiply, `u_i = Σ_c β_i∘v`, `(r, H, B, k, W)`."""
        images = v.reshape(len(self), *self.shape, v.shape[2]).permute(1, 2, 0, 4, 3)
        products = columns * images.contiguous()
        return products.squeeze(1) if self.shape[0] == 1 else products.sum(1)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """β, `(r, C, H, B, 1, W)`, so that a large product with each factor does for the batch, and the factors of the
        tapers, `K_h`, `(r, H, H)`, and `K_w`, `(r, W, W)`."""
        if torch.is_grad_enabled() and (self.beta.requires_grad or self.ranges.requires_grad):
            return self._make_parts()
        return self._fixed_parts

    def _make_parts(self) -> tuple[Tensor, Tensor, Tensor]:
        columns = self._columns().permute(1, 2, 3, 0, 4)[:, :, :, :, None].contiguous()
        precision = self._precision()
        return columns, kernels(self.shape[1], precision), kernels(self.shape[2], precision)

    @cached_property
    def _fixed_parts(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            return self._make_parts()

    def diagonal(self) -> Tensor:
        """The diagonal of C, `α + Σ_i β_i²`, `(B, D)`: 1 on the diagonal, tapers leave it as it is."""
        return self.alpha + self.beta.square().sum(2)

    def dense(self) -> Tensor:
        channels, height, width = self.shape
        size = (len(self), channels, height * width, channels, height * width)
        total = torch.diag_embed(self.alpha).view(size)
        precision = self._precision()
        alone = precision.requires_grad  # each column has a gradient of its own to its range
        for run in [slice(i, i + 1) for i in range(self.rank)] if alone else [run for run, _ in self._runs]:
            t = precision[run.start]
            taper = torch.kron(kernels(height, t), kernels(width, t))[:, None]
            total = total + (self.beta[:, :, run] @ self.beta[:, :, run].mT).view(size) * taper
        return total.view(len(self), self.dimension, self.dimension)

    def inner(self, other: SymmetricMatrix) -> Tensor:
        """The Frobenius inner product `⟨C, N⟩`, `(B,)`, by O(r) products with one of the two where N is diagonal plus
        low rank or tapered on the same images; otherwise with both in full.

        Raises:
            ValueError: where the two differ in B or in D.
        """
        if isinstance(other, DiagonalPlusLowRank):
            return other.inner(self)
        if not isinstance(other, TaperedLowRank) or tuple(other.shape) != tuple(self.shape):
            return super().inner(other)
        self._check_size(other)
        total = (self.alpha * other.diagonal() + self.beta.square().sum(2) * other.alpha).sum(1)
        columns, height, width = other._columns(), *self.shape[1:]
        for one, precision in zip(self._columns().unbind(1), self._precision(), strict=True):
            overlap, products = (one[:, None] * columns).sum(2), precision + other._precision()
            smoothed = kernels(height, products) @ overlap @ kernels(width, products)
            total = total + (overlap * smoothed).sum((1, 2, 3))
        return total

    def squared_norm(self) -> Tensor:
        """The squared Frobenius norm `‖C‖² = ‖α‖² + 2 Σ_i α·(β_i∘β_i) + Σ_ij ⟨q_ij, (K_i∘K_j) q_ij⟩`, `(B,)`, with
        `q_ij(p) = Σ_c β_i(c, p) β_j(c, p)`; its gradient cannot be differentiated again."""
        return squared_norm(self.alpha.reshape(-1, *self.shape), self._columns(), self._precision(), self._runs)

    def eigh_top(self, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues `(B, k)`, descending, and orthonormal eigenvectors `(B, D, k)`.

        Up to D = 256, and where k is above D/16, see `SymmetricMatrix.eigh_top`; otherwise by `block_lanczos` and,
        where 200 products do not suffice, by `block_krylov`, without gradients.

        Args:
            k: how many.
            tolerance: until `‖Cv − λv‖ ≤ tolerance·λ_1`. By default √ε, with ε the machine precision, from a block of
                four, which finds eigenvalues up to fourfold. Where it is given, from a block of one, which takes fewer
                products: at 0.05 the vectors have on average 0.997 of the energy `Σ vᵀCv` of the exact ones or more,
                single ones less where the k-th eigenvalue is hardly above the next.

        Raises:
            ValueError: where k is not from 1 to D, or above D/16 for a D above 1024.
        """
        self._check_count(k)
        if self.dimension > DENSE_UP_TO and 16 * k <= min(self.dimension, MAX_LANCZOS):
            fixed = self.detach()
            start = fixed._krylov_start(BLOCK if tolerance is None else 1)
            limit = torch.finfo(self.dtype).eps ** 0.5 if tolerance is None else tolerance
            values, vectors, error = block_lanczos(fixed, start, k, limit)
            if (error <= limit).all():
                return values, vectors
        return super().eigh_top(k, tolerance)

    def _krylov_start(self, width: int) -> Tensor:
        """A block that no leading eigenvector is orthogonal to: noise as large as C has it, and the columns."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.dimension, width, generator=generator).to(self.beta)
        weights = torch.randn(self.rank, width, generator=generator).to(self.beta)
        return self.diagonal().clamp(min=0).sqrt()[:, :, None] * noise + self.beta @ weights

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws from N(0, C) for each matrix, `(n, B, D)`, as `√α ξ + Σ_i β_i∘η_i` with η_i ~ N(0, K_i); negative α
        are taken for 0."""
        options: dict[str, Any] = {"generator": generator, "dtype": self.dtype, "device": self.device}
        total = self.alpha.clamp(min=0).sqrt() * torch.randn(n, *self.alpha.shape, **options)
        _, height, width = self.shape
        for run, value in self._runs:
            tall, wide = (root(size, value, self.dtype, self.device) for size in (height, width))
            columns = self._columns()[:, run]
            noise = torch.randn(n, *columns.shape[:2], tall.shape[1], wide.shape[1], **options)
            fields = tall @ noise @ wide.mT
            total = total + (columns * fields[:, :, :, None]).sum(2).view(total.shape)
        return total

    def clamp(self, floor: float) -> "tuple[TaperedLowRank, int]":
        """The matrix with the entries of α below `floor` raised to it, and how many there were; so no eigenvalue is
        below."""
        return replace(self, alpha=self.alpha.clamp(min=floor)), int((self.alpha < floor).sum())

    def solve(self, v: Tensor) -> Tensor:
        """`C⁻¹ v` for vectors `(B, D)` or a block `(B, D, k)`, by conjugate gradients, until the residual is below 10 ε
        of the length of v, ε the machine precision; its gradient cannot be differentiated again.

        Raises:
            ValueError: where an entry of α is not positive.
        """
        self._check_positive()
        return solve_by_products(self, v[:, :, None])[:, :, 0] if v.ndim == 2 else solve_by_products(self, v)

    def logdet(self) -> Tensor:
        """`log det C`, `(B,)`: exactly, by the Cholesky factor, up to D = 1024; above, the first that
        `linalg.logdet_estimate` returns, whose second is its standard error.

        Raises:
            ValueError: where an entry of α is not positive.
        """
        self._check_positive()
        if self.dimension > NEVER_DENSE_ABOVE:
            return logdet_estimate(self)[0]
        return 2 * torch.linalg.cholesky(self.dense()).diagonal(dim1=1, dim2=2).log().sum(1)

    def whiten(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """`A⁻¹ v` and `log det C`, see `SymmetricMatrix.whiten`: of the Cholesky factor up to D = 4096, to rounding;
        above, of the symmetric root, by Lanczos' method, with the estimate of `logdet`. The batch is taken in pieces.

        Raises:
            ValueError: where an entry of α is not positive.
        """
        self._check_positive()
        entries = CACHED_ENTRIES if self.device.type == "cpu" else ENTRIES
        pieces = torch.arange(len(self)).split(max(1, entries // self.dimension**2))
        white, logdets = zip(*(self[rows]._whiten_piece(v[rows]) for rows in pieces), strict=True)
        return torch.cat(white), torch.cat(logdets)

    def _whiten_piece(self, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.dimension > FACTORISED_UP_TO:
            tiny = torch.finfo(self.dtype).tiny
            return self.apply(lambda values: values.clamp(min=tiny).rsqrt(), v, WHITENING), self.logdet()
        if (self.alpha >= DOUBLE_BELOW * self.diagonal()).all():  # no pivot is below α
            return Dense(self.dense()).whiten(v)
        double = "cpu" if self.device.type == "mps" else self.device, torch.float64
        white, logdet = Dense(self.to(*double).dense()).whiten(v.to(*double))
        return white.to(v), logdet.to(v)

    def _check_positive(self) -> None:
        if not (self.alpha > 0).all():
            raise ValueError("α has entries that are not positive: C cannot be taken as positive definite")


def _smooth(fields: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """`K_i u_i` of fields u, `(r, H, ..., W)`."""
    down = tall @ fields.flatten(2)
    return (down.view(len(fields), -1, fields.shape[-1]) @ wide).view(fields.shape)
