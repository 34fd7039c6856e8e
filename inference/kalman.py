"""A Gaussian given a linear measurement of it.

With x ~ N(μ, C), `y = A x + n`, n ~ N(0, σ_y² I), and `S = A C Aᵀ + σ_y² I`:

    E[x|y] = μ + C Aᵀ S⁻¹ (y − A μ),    Cov[x|y] = C − C Aᵀ S⁻¹ A C.

Source: Kalman, *A new approach to linear filtering and prediction problems*, J. Basic Eng. 1960.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from inference.operators import Operator
from linalg import Dense, DiagonalPlusLowRank, SymmetricMatrix, conjugate_gradients

__all__ = ["Conditioned", "Measured"]

DENSE_UP_TO = 64  # measurements up to which S is formed
TOLERANCE = 1e-4  # of S⁻¹ v by conjugate gradients, where v is noisy itself


@dataclass(frozen=True, eq=False)
class Measured:
    """What a linear measurement tells of x ~ N(μ, C), B of them.

    Attributes:
        mean: μ, `(B, D)`.
        covariance: C.
        operator: A, m×D.
        sigma_y: σ_y > 0, in the units of the measurement.
    """

    mean: Tensor
    covariance: SymmetricMatrix
    operator: Operator
    sigma_y: float

    def posterior_mean(self, y: Tensor) -> Tensor:
        """`E[x|y]`, `(B, D)`, of measurements `(B, m)`."""
        return self.mean + self.gain(y - self.operator(self.mean))

    def posterior_covariance(self) -> "Conditioned":
        """`Cov[x|y]`, whatever y is."""
        return Conditioned(self)

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw from N(E[x|y], Cov[x|y]) for each measurement, `(B, D)`: one of N(μ, C), moved by what its own noisy
        measurement lacks.

        Source: Matheron's rule; Journel and Huijbregts, *Mining Geostatistics*, 1978.
        """
        x = self.mean + self.covariance.draw(1, generator)[0]
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
        return x + self.gain(y - self.operator(x) - self.sigma_y * noise)

    def gain(self, v: Tensor) -> Tensor:
        """`C Aᵀ S⁻¹ v`, `(B, D)` for `(B, m)`."""
        return self.covariance @ self.operator.transposed(self.solve(v[:, :, None])[:, :, 0])

    def solve(self, v: Tensor) -> Tensor:
        """`S⁻¹ v` for blocks `(B, m, k)`: by a Cholesky factor where there are few measurements, by Woodbury's identity
        where C is diagonal plus low rank and A has disjoint rows, and else by conjugate gradients."""
        if isinstance(self._innovation, SymmetricMatrix):
            return self._innovation.solve(v)
        return conjugate_gradients(self._innovation, v, self._innovation_diagonal, TOLERANCE)

    @cached_property
    def _innovation(self) -> "SymmetricMatrix | _Innovation":
        C, variance, count = self.covariance, self.sigma_y**2, self.operator.shape[0]
        products = _Innovation(C, self.operator, variance)
        if count <= DENSE_UP_TO:
            full = products @ torch.eye(count, dtype=C.dtype, device=C.device).expand(len(C), -1, -1)
            return Dense((full + full.mT) / 2)
        if isinstance(C, DiagonalPlusLowRank) and self.operator.disjoint:
            return DiagonalPlusLowRank(self.operator.squares(C.alpha) + variance, self.operator.columns(C.beta))
        return products

    @cached_property
    def _innovation_diagonal(self) -> Tensor:
        """Of S, roughly where A has overlapping rows."""
        C = self.covariance
        variances = torch.ones_like(self.mean) if C.products_only else C.diagonal()
        return self.operator.squares(variances) + self.sigma_y**2


@dataclass(frozen=True)
class _Innovation:
    """S by its products."""

    covariance: SymmetricMatrix
    operator: Operator
    variance: float

    def __matmul__(self, v: Tensor) -> Tensor:
        back = self.covariance @ self.operator.transposed_columns(v)
        return self.operator.columns(back) + self.variance * v


@dataclass(frozen=True, eq=False)
class Conditioned(SymmetricMatrix):
    """`a (C − C Aᵀ S⁻¹ A C) + b I` by products.

    Attributes:
        measured: C, A and S.
        scale: a, a float or a tensor of no dimension or `(B, 1)`.
        shift: b, likewise.
    """

    measured: Measured
    scale: float | Tensor = 1.0
    shift: float | Tensor = 0.0

    def __len__(self) -> int:
        return len(self.measured.covariance)

    @property
    def dimension(self) -> int:
        return self.measured.covariance.dimension

    @property
    def dtype(self) -> torch.dtype:
        return self.measured.covariance.dtype

    @property
    def device(self) -> torch.device:
        return self.measured.covariance.device

    def __getitem__(self, rows: Any) -> "Conditioned":
        part = replace(self.measured, mean=self.measured.mean[rows], covariance=self.measured.covariance[rows])
        scale, shift = (n[rows] if isinstance(n, Tensor) and n.ndim else n for n in (self.scale, self.shift))
        return Conditioned(part, scale, shift)

    def detach(self) -> "Conditioned":
        part = replace(self.measured, mean=self.measured.mean.detach(), covariance=self.measured.covariance.detach())
        return replace(self, measured=part)

    def to(self, *target: Any) -> "Conditioned":
        part = replace(
            self.measured, mean=self.measured.mean.to(*target), covariance=self.measured.covariance.to(*target)
        )
        scale, shift = (n.to(*target) if isinstance(n, Tensor) else n for n in (self.scale, self.shift))
        return Conditioned(part, scale, shift)

    def __matmul__(self, v: Tensor) -> Tensor:
        if v.ndim == 2:
            return (self @ v[:, :, None])[:, :, 0]
        scale, shift = (n[..., None] if isinstance(n, Tensor) else n for n in (self.scale, self.shift))
        C, A = self.measured.covariance, self.measured.operator
        image = C @ v
        known = C @ A.transposed_columns(self.measured.solve(A.columns(image)))
        return scale * (image - known) + shift * v

    def _scaled(self, scale: float | Tensor) -> "Conditioned":
        return Conditioned(self.measured, scale * self.scale, scale * self.shift)

    def _shifted(self, shift: float | Tensor) -> "Conditioned":
        return Conditioned(self.measured, self.scale, self.shift + shift)

    def clamp(self, floor: float) -> tuple[Dense, int]:
        """The matrix in full, with its eigenvalues below `floor` raised to it, and how many there were."""
        return Dense(self.dense()).clamp(floor)
