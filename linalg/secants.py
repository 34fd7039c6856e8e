"""Eigenpairs of a matrix that is known by a few products, with the help of another matrix that is near it."""

from collections.abc import Callable

import torch
from torch import Tensor

from linalg.krylov import block_krylov
from linalg.matrix import DENSE_UP_TO, SymmetricMatrix

__all__ = ["refine_eigenpairs"]


class SecantUpdate:
    """The symmetric matrix nearest to M that agrees with J on the span of Q.

    With orthonormal Q `(B, D, m)`, products `Y = J Q` and `R = Y − M Q`, it is `M + RQᵀ + QRᵀ − Q S Qᵀ`, S the
    symmetric part of `QᵀR`: the update of Powell and Broyden, for a block of directions.
    """

    def __init__(self, matrix: SymmetricMatrix, directions: Tensor, products: Tensor):
        self.matrix, self.directions = matrix, directions
        self.error = products - matrix @ directions
        within = directions.mT @ self.error
        self.half = self.error - directions @ (within + within.mT) / 4

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.matrix @ v + self.half @ (self.directions.mT @ v) + self.directions @ (self.half.mT @ v)

    def eigh_top(self, k: int, tolerance: float | None) -> tuple[Tensor, Tensor]:
        if self.matrix.dimension <= DENSE_UP_TO:
            identity = torch.eye(self.matrix.dimension, dtype=self.half.dtype, device=self.half.device)
            values, vectors = torch.linalg.eigh(self @ identity.expand(len(self.half), -1, -1))
            return values.flip(1)[:, :k], vectors.flip(2)[:, :, :k]
        random = torch.randn(self.matrix.dimension, 4, generator=torch.Generator().manual_seed(0)).to(self.half)
        start = torch.cat([self.directions[:, :, -k:], random.expand(len(self.half), -1, -1)], dim=2)
        return block_krylov(self, start, k, tolerance)


@torch.no_grad()
def refine_eigenpairs(
    matrix: SymmetricMatrix,
    multiply: Callable[[Tensor], Tensor],
    k: int,
    steps: int,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The k largest eigenpairs of J from few products with it, and from all products with a matrix M that is near it.

    Each step multiplies J with the part of the current eigenvectors that it was not multiplied with yet, and takes the
    eigenvectors of M, changed as little as makes it agree with all products so far. What is known of M outside their
    span is kept, which subspace iteration, begun from the same vectors, throws away. J is scaled to be as large as M on
    the directions that were multiplied: where M is larger all over, as a covariance that knows of the denoiser's error
    is larger than the Jacobian, those directions would else fall behind the others for having been looked at.

    Args:
        matrix: M, B of them.
        multiply: `(B, D, n)` to the products of J, of the same shape.
        k: how many.
        steps: at least one, of at most k products each; after D products they are all known.
        tolerance: of the eigenvectors at each step, see `linalg.block_krylov`.

    Returns:
        values `(B, k)`, descending, and orthonormal vectors `(B, D, k)`.

    Source: Powell, *A new algorithm for unconstrained optimization*, 1970, for the update; its use here is ours.
    """
    values, vectors = matrix.eigh_top(k, tolerance)
    dimension = matrix.dimension
    directions = products = vectors[:, :, :0]
    for _ in range(steps):
        new = vectors[:, :, : dimension - directions.shape[2]]
        for _ in range(2):  # once is not orthogonal enough in floating point
            new = torch.linalg.qr(new - directions @ (directions.mT @ new)).Q
        directions, products = torch.cat([directions, new], 2), torch.cat([products, multiply(new)], 2)
        scale = _scale(matrix, directions, products)
        values, vectors = SecantUpdate(matrix, directions, scale * products).eigh_top(k, tolerance)
        values = values / scale[:, :, 0]
        if directions.shape[2] == dimension:
            break
    return values, vectors


def _scale(matrix: SymmetricMatrix, directions: Tensor, products: Tensor) -> Tensor:
    """`tr QᵀMQ / tr QᵀJQ`, `(B, 1, 1)`; 1 where one of them is not positive."""
    ours = (directions * (matrix @ directions)).sum((1, 2), keepdim=True)
    theirs = (directions * products).sum((1, 2), keepdim=True)
    return torch.where((ours > 0) & (theirs > 0), ours / theirs, torch.ones_like(ours))
