"""Symmetric matrices `C = diag(α) + Σ_i K_i ∘ (β_iβ_iᵀ)` on the pixels of images, not formed: low rank, each column
cut off at a distance of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linalg.diagonal_plus_low_rank import DiagonalPlusLowRank
from linalg.krylov import conjugate_gradients, lanczos_eigenpairs
from linalg.matrix import DENSE_UP_TO, NEVER_DENSE_ABOVE, SymmetricMatrix
from linalg.tapers import Run, kernels, root, runs, smooth, squared_overlap

__all__ = ["TaperedLowRank"]

PROBES, QUADRATURE = 16, 1e-4  # of the estimate of log det: its probes, and the tolerance of Lanczos' method


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
            range are best side by side, where they are multiplied together.
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
        channels, height, width = self.shape
        if channels * height * width != self.alpha.shape[1]:
            raise ValueError(f"images {tuple(self.shape)} do not have D = {self.alpha.shape[1]} entries")
        if self.ranges.shape != self.beta.shape[2:] or not (self.ranges > 0).all():
            expected = f"a tensor {tuple(self.beta.shape[2:])} of positive numbers is expected"
            raise ValueError(f"ranges {self.ranges.tolist()}; {expected}")
        object.__setattr__(
            self, "beta", self.beta.mT.contiguous().mT
        )  # one column after the other, as products want it

    @classmethod
    def cat(cls, parts: "Sequence[TaperedLowRank]") -> "TaperedLowRank":
        """One batch of several.

        Raises:
            ValueError: where there is none, or they differ in shape or in ranges.
        """
        kinds = {(tuple(part.shape), tuple(part.ranges.tolist())) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"matrices of (shape, ranges) {sorted(kinds)}; one is expected")
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
        images = v.mT.reshape(len(self), 1, -1, *self.shape)
        total = self.alpha[:, None] * v.mT
        for columns, _, smoothed in self._smoothed(images):
            total = total + (columns * smoothed[:, :, :, None]).sum(1).view(total.shape)
        return total.mT

    def _smoothed(self, images: Tensor) -> "list[tuple[Tensor, Tensor, Tensor]]":
        """For each run of columns: β, `(B, n, 1, C, H, W)`, the fields `u = Σ_c β∘v`, `(B, n, k, H, W)`, and `K u`."""
        columns, precision = self._columns()[:, :, None], self._precision()
        found = []
        for run, value in self._runs:
            product = columns[:, run] * images
            fields = product.squeeze(3) if self.shape[0] == 1 else product.sum(3)
            found.append((columns[:, run], fields, smooth(fields, precision[run], value)))
        return found

    def quadratic(self, v: Tensor) -> Tensor:
        """`vᵀCv = α·(v∘v) + Σ_i ⟨u_i, K_i u_i⟩`, `u_i = Σ_c β_i∘v`, `(B,)` for vectors `(B, D)`, `(B, k)` for a block
        `(B, D, k)`."""
        if v.ndim == 2:
            return self.quadratic(v[:, :, None])[:, 0]
        total = (self.alpha[:, None, :] @ v.square())[:, 0]
        for _, fields, smoothed in self._smoothed(v.mT.reshape(len(self), 1, -1, *self.shape)):
            total = total + (fields * smoothed).sum((1, 3, 4))
        return total

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
            t = precision[run][:1]
            taper = torch.kron(kernels(height, t)[0], kernels(width, t)[0])[:, None]
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
        columns, precision = self._columns(), self._precision()
        values = precision.tolist()
        for run, value in other._runs:
            theirs, their_precision = other._columns()[:, run], other._precision()[run]
            for i, own in enumerate(values):
                overlap = (columns[:, i, None] * theirs).sum(2, keepdim=True)
                smoothed = smooth(overlap, precision[i] + their_precision, own + value)
                total = total + (overlap * smoothed).sum((1, 2, 3, 4))
        return total

    def squared_norm(self) -> Tensor:
        """The squared Frobenius norm `‖C‖² = ‖α‖² + 2 Σ_i α·(β_i∘β_i) + Σ_ij ⟨q_ij, (K_i∘K_j) q_ij⟩`, `(B,)`, with
        `q_ij(p) = Σ_c β_i(c, p) β_j(c, p)`; its gradient cannot be differentiated again."""
        overlap = squared_overlap(self._columns(), self._precision(), self._runs)
        return (self.alpha * (self.alpha + 2 * self.beta.square().sum(2))).sum(1) + overlap

    def eigh_top(self, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues `(B, k)`, descending, and orthonormal eigenvectors `(B, D, k)`.

        Args:
            k: how many.
            tolerance: by default, see `SymmetricMatrix.eigh_top`. Where it is given and the dense problem is not the
                faster one, single-vector Lanczos stops at `‖Cv − λv‖ ≤ tolerance·λ_1`, without gradients; with 0.1 the
                vectors miss about 0.1 % of the energy `Σ vᵀCv` of the exact ones, at a fraction of the time. It may
                miss an eigenvalue that is a multiple one, or whose vector the columns hardly reach.

        Raises:
            ValueError: where k is not from 1 to D, or above D/16 for a D above 1024.
        """
        if tolerance is None or self.dimension <= DENSE_UP_TO or 16 * k > self.dimension:
            return super().eigh_top(k)
        self._check_count(k)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(self.rank + 1, generator=generator).to(self.beta)
        noise = torch.randn(self.dimension, generator=generator).to(self.beta)
        start = self.beta @ weights[1:] + weights[0] * noise * self.diagonal().clamp(min=0).sqrt()
        return lanczos_eigenpairs(self.detach(), start.detach(), k, tolerance)

    def _krylov_start(self, width: int) -> Tensor:
        """β's leading left singular vectors, the axes of the largest α, and random vectors, so that no eigenvector is
        orthogonal to all."""
        _, mixing = torch.linalg.eigh(self.beta.mT @ self.beta)
        leading = self.beta @ mixing[:, :, -width:]
        axes = torch.zeros(len(self), self.dimension, width, dtype=leading.dtype, device=leading.device)
        axes.scatter_(1, self.alpha.topk(width, dim=1).indices[:, None, :], 1)
        random = torch.randn(self.dimension, 4, generator=torch.Generator().manual_seed(0)).to(leading)
        return torch.cat([leading, axes, random.expand(len(self), -1, -1)], dim=2)

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
        of the length of v, ε the machine precision; its gradient, by another solve, cannot be differentiated again.

        Raises:
            ValueError: where an entry of α is not positive.
        """
        if v.ndim == 2:
            return self.solve(v[:, :, None])[:, :, 0]
        self._check_positive()
        fixed = self.detach()
        solution = conjugate_gradients(fixed, v.detach(), fixed.diagonal())
        return _Solution.apply(v - self @ solution, solution, fixed) if torch.is_grad_enabled() else solution

    def _check_positive(self) -> None:
        if not (self.alpha > 0).all():
            raise ValueError("α has entries that are not positive: C cannot be taken as positive definite")

    def logdet(self) -> Tensor:
        """`log det C`, `(B,)`: exactly, by the Cholesky factor, up to D = 1024; else estimated, see `logdet_estimate`.

        Raises:
            ValueError: where an entry of α is not positive.
        """
        self._check_positive()
        if self.dimension > NEVER_DENSE_ABOVE:
            return self.logdet_estimate()[0]
        return 2 * torch.linalg.cholesky(self.dense()).diagonal(dim1=1, dim2=2).log().sum(1)

    def logdet_estimate(self, probes: int = PROBES) -> tuple[Tensor, Tensor]:
        """`log det C` from products alone, by stochastic Lanczos quadrature, and how far off it may be.

        `log det C = Σ log d + tr log S`, with d the diagonal of C and S = C scaled to ones on its own; the trace is the
        mean of `zᵀ log(S) z` over random signs z, the same every time. The gradient is estimated likewise.

        Args:
            probes: how many z, at least 2.

        Returns:
            the estimate and its standard error, `(B,)` each.

        Raises:
            ValueError: where an entry of α is not positive.

        Source: Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 2017.
        """
        self._check_positive()
        fixed = self.detach()
        scale = fixed.diagonal().rsqrt()
        signs = torch.randint(2, (self.dimension, probes), generator=torch.Generator().manual_seed(0)) * 2 - 1
        signs = signs.to(self.alpha).expand(len(self), -1, -1)
        scaled = replace(fixed, alpha=fixed.alpha * scale**2, beta=fixed.beta * scale[:, :, None])
        tiny = torch.finfo(self.dtype).tiny
        logs = (signs * scaled.apply(lambda values: values.clamp(min=tiny).log(), signs, QUADRATURE)).sum(1)
        value = logs.mean(1) - 2 * scale.log().sum(1)
        if torch.is_grad_enabled():  # tr C⁻¹ dC, the mean of zᵀ C⁻¹ dC z in the same scale
            solved = scale[:, :, None] * conjugate_gradients(scaled, signs, torch.ones_like(scale))
            slope = (solved * (self @ (signs * scale[:, :, None]))).sum(1).mean(1)
            value = value + slope - slope.detach()
        return value, logs.std(1) / probes**0.5


class _Solution(torch.autograd.Function):
    """x, with the gradients of `x = C⁻¹ v` to the residual `v − C x`, in which C and v are and x is fixed."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solution: Tensor, matrix: TaperedLowRank) -> Tensor:
        ctx.matrix = matrix
        return solution.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return conjugate_gradients(ctx.matrix, gradient, ctx.matrix.diagonal()), None, None
