"""The third-order score of a mixture, a symmetric tensor known by its contractions.

With the shares r_k, `d_k = g_k − s1` and the components' own scores of second and third order S_k and T_k, by the law
of total cumulance,

    s3 = Σ_k r_k (T_k + 3 sym(S_k ⊗ d_k) + d_k ⊗ d_k ⊗ d_k).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from linalg import SymmetricTensor

__all__ = ["MixtureThird"]


@dataclass(frozen=True, eq=False)
class MixtureThird(SymmetricTensor):
    """`s3 = ∇³ log q_σ` at B points, in 1/units³ of them.

    Attributes:
        shares: r, `(B, K)`, times the factor of a multiple of s3.
        offsets: d, `(B, K, D)`.
        precisions: −S_k, alike at all points, `(K, D, D)`; None where they differ.
        own_second, own_third: the diagonals of S_k and T_k, which have no other entries, `(B, K, D)`; None where there
            are `precisions`, and T_k is zero.

    Source: Brillinger, *The calculation of cumulants via conditioning*, Ann. Inst. Stat. Math. 1969.
    """

    shares: Tensor
    offsets: Tensor
    precisions: Tensor | None = None
    own_second: Tensor | None = None
    own_third: Tensor | None = None
    order = 3

    def __len__(self) -> int:
        return len(self.shares)

    @property
    def dimension(self) -> int:
        return self.offsets.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        return self.offsets.dtype

    @property
    def device(self) -> torch.device:
        return self.offsets.device

    def __getitem__(self, rows: Any) -> "MixtureThird":
        second, third = (None if own is None else own[rows] for own in (self.own_second, self.own_third))
        return MixtureThird(self.shares[rows], self.offsets[rows], self.precisions, second, third)

    def _scaled(self, scale: float | Tensor) -> "MixtureThird":
        return replace(self, shares=scale * self.shares)

    def contract(self, v: Tensor) -> Tensor:
        """`Σ_k r_k (T_k(v, v, ·) + 2 (v·d_k) S_k v + (vᵀS_k v) d_k + (v·d_k)² d_k)`, see `SymmetricTensor.contract`."""
        if v.ndim == 2:
            return self.contract(v[:, :, None])[:, :, 0]
        if self.own_second is None:
            curved = -torch.einsum("kij,bjn->bkin", self.precisions, v)
        else:
            curved = self.own_second[..., None] * v[:, None]
        along = (self.offsets[:, :, None, :] @ v[:, None])[:, :, 0]  # v·d_k, (B, K, n)
        bent = (v[:, None] * curved).sum(2)
        terms = 2 * along[:, :, None] * curved + (bent + along.square())[:, :, None] * self.offsets[..., None]
        if self.own_third is not None:
            terms = terms + self.own_third[..., None] * v[:, None].square()
        return (self.shares[:, :, None, None] * terms).sum(1)
