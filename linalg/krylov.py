"""What products with a matrix alone can tell: eigenpairs by block Krylov, block Lanczos and subspace iteration,
functions of the matrix by Lanczos' method, and solves by conjugate gradients."""

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["block_krylov", "block_lanczos", "conjugate_gradients", "lanczos", "subspace_iteration"]

CHECKED_EVERY = 4


class Multiplies(Protocol):
    """B symmetric matrices, as a `SymmetricMatrix` or a tensor `(B, D, D)`."""

    def __matmul__(self, v: Tensor, /) -> Tensor: ...


@torch.no_grad()
def block_krylov(
    matrix: Multiplies, start: Tensor, k: int, tolerance: float | None = None, restarts: int = 60
) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues and their eigenvectors, until `‖Mv − λv‖ < tolerance·max|λ|`.

    Each round builds an orthonormal basis of the Krylov space of a block, solves the eigenproblem within it, and
    restarts from the k + 4 leading vectors.

    Args:
        matrix: M, B of them.
        start: the first block, `(B, D, w)`, w at least k; no leading eigenvector may be orthogonal to it.
        k: how many.
        tolerance: by default √ε, with ε the machine precision.
        restarts: at most so many rounds; a `RuntimeWarning` says that they were not enough.

    Returns:
        values `(B, k)`, descending, and orthonormal vectors `(B, D, k)`; without gradients.

    Source: Golub and Underwood, *The block Lanczos method for computing eigenvalues*, 1977, with full
        orthogonalisation.
    """
    dimension, width = start.shape[1], k + 4
    if not len(start):
        return start.new_empty(0, k), start.new_empty(0, start.shape[1], k)
    block, tolerance = start, torch.finfo(start.dtype).eps ** 0.5 if tolerance is None else tolerance
    for _ in range(restarts):
        basis = newest = torch.linalg.qr(block).Q
        for _ in range(max(1, min(8 * width, dimension // 2) // block.shape[2] - 1)):
            newest = matrix @ newest
            for _ in range(2):  # once is not orthogonal enough in floating point
                newest = newest - basis @ (basis.mT @ newest)
            newest = torch.linalg.qr(newest).Q
            basis = torch.cat([basis, newest], dim=2)
        basis = torch.linalg.qr(basis).Q
        image = matrix @ basis
        values, mixing = torch.linalg.eigh(basis.mT @ image)
        top = mixing[:, :, -width:].flip(2)
        block, largest = basis @ top, values[:, -width:].flip(1)
        residual = (image @ top - block * largest[:, None, :])[:, :, :k].norm(dim=1)
        error = (residual / values.abs().amax(1, keepdim=True)).max()
        if not error > tolerance:
            break
    else:
        warnings.warn(f"eigenpairs to {error:.1e} of the largest, not to {tolerance:.1e}", RuntimeWarning, stacklevel=5)
    return largest[:, :k], block[:, :, :k]


def subspace_iteration(
    multiply: Callable[[Tensor, Tensor], Tensor], directions: Tensor, steps: int, tolerance: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiplies, orthonormalises, and repeats, for B symmetric matrices at once.

    Args:
        multiply: `(V, rows)` to the products of the matrices `rows`, indices into B, with V `(len(rows), D, k)`.
        directions: the start, `(B, D, k)`.
        steps: at most so many.
        tolerance: a matrix is done once the new directions lie so close to the span of the old ones: the largest sine
            of the angles between the two.

    Returns:
        values `(B, k)`, descending, the singular values of the last product, negative where it turned a direction
        round; orthonormal directions `(B, D, k)`; and the number of steps that each matrix took, `(B,)`. The k are
        largest in size, so that a large negative eigenvalue takes a place among them, the last.

    Source: Saad, *Numerical Methods for Large Eigenvalue Problems*, 1992, chapter 5; for posteriors, Manor and
        Michaeli, ICLR 2024, algorithm 1.
    """
    directions = torch.linalg.qr(directions).Q
    values = torch.zeros(directions.shape[0], directions.shape[2], dtype=directions.dtype, device=directions.device)
    taken = torch.zeros(len(directions), dtype=torch.long, device=directions.device)
    rows = torch.arange(len(directions), device=directions.device)
    for _ in range(steps):
        before = directions[rows]
        left, singular, right = torch.linalg.svd(multiply(before, rows), full_matrices=False)
        signed = singular * (left * (before @ right.mT)).sum(1).sign()
        signed, order = signed.sort(dim=1, descending=True)
        left = left.gather(2, order[:, None].expand_as(left))
        directions, values = directions.index_copy(0, rows, left), values.index_copy(0, rows, signed)
        taken[rows] += 1
        outside = torch.linalg.matrix_norm(left - before @ (before.mT @ left), ord=2)
        rows = rows[outside > tolerance]
        if not len(rows):
            break
    return values, directions, taken


def lanczos(
    matrix: Multiplies,
    vectors: Tensor,
    function: Callable[[Tensor], Tensor],
    tolerance: float = 1e-6,
    max_products: int = 200,
) -> Tensor:
    """`f(M) v` from a few dozen products with M, none of them with a D×D matrix.

    After m steps M is a tridiagonal T on a basis Q of the Krylov space of v, and `f(M) v ≈ ‖v‖ Q f(T) e₁`.

    Args:
        matrix, vectors: M, B of them, and v, `(B, D, n)`; each v has a Krylov space of its own.
        function: f, from eigenvalues `(B, n, m)`, in float64 on the CPU, to values of the same shape; it may differ
            along n.
        tolerance: the result is taken once four more products change it by less than this share of its length; where
            `max_products` is below eight, fewer more.
        max_products: at most so many, and never more than D; a `RuntimeWarning` says that they were not enough.

    Returns:
        `(B, D, n)`.

    Raises:
        ValueError: where `max_products` is below 1.

    Source: Saad, SIAM J. Numer. Anal. 1992; for Ozaki steps, Simpson, Turner and Pettitt, arXiv 1309.5009.
    """
    if max_products < 1:
        raise ValueError(f"max_products is {max_products}; at least 1 is expected")
    dimension = vectors.shape[1]
    products = min(dimension, max_products)
    checked_every = min(CHECKED_EVERY, max(1, products // 2))
    length = vectors.norm(dim=1)
    basis = [_unit(vectors, length)]
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    scale = torch.zeros_like(length)
    coefficients = torch.zeros(*length.shape, 0, dtype=torch.float64)
    for m in range(1, products + 1):
        image = matrix @ basis[-1]
        scale = torch.maximum(scale, image.norm(dim=1))
        diagonal.append((basis[-1] * image).sum(1))
        for _ in range(2):  # once is not orthogonal enough in floating point
            for q in basis:
                image = image - q * (q * image).sum(1)[:, None]
        residual = image.norm(dim=1)
        # Where nothing but rounding is left the Krylov space is invariant: T ends there.
        residual = torch.where(residual <= 10 * torch.finfo(image.dtype).eps * scale, 0, residual)
        ended = m == dimension or not residual.any()
        if m % checked_every == 0 or m == products or ended:
            before, coefficients = coefficients, _first_column(diagonal, off_diagonal, function)
            error = _change(before, coefficients)
            if ended or error < tolerance:
                break
        off_diagonal.append(residual)
        basis.append(_unit(image, residual))
    else:
        warnings.warn(f"{products} products leave f(M)v with an error of {error:.1e}", RuntimeWarning, stacklevel=2)
    used = torch.stack(basis[: coefficients.shape[2]], dim=3)
    return torch.einsum("bdnm,bnm->bdn", used, coefficients.to(used) * length[:, :, None])


@torch.no_grad()
def block_lanczos(
    matrix: Multiplies, start: Tensor, k: int, tolerance: float, max_products: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest eigenvalues and their eigenvectors from the Krylov space of a narrow block, orthogonalised in full.

    The narrower the block, the fewer products; but of a multiple eigenvalue it knows no more vectors than the block is
    wide, and none that the start is orthogonal to. `block_krylov` restarts, and so needs less memory.

    Args:
        matrix: M, B of them.
        start: `(B, D, w)`.
        k: how many, at most as many as products.
        tolerance: until `‖Mv − λv‖ ≤ tolerance·max|λ|`, which is known without a product.
        max_products: at most so many, and never more than D, in blocks.

    Returns:
        values `(B, k)`, descending; orthonormal vectors `(B, D, k)`; and the largest `‖Mv − λv‖/max|λ|` of each
        matrix, `(B,)`, above the tolerance where the products were not enough; without gradients.

    Source: Golub and Underwood, *The block Lanczos method for computing eigenvalues*, 1977.
    """
    width = start.shape[2]
    steps = min(max_products, start.shape[1]) // width
    basis = start.new_empty(len(start), steps * width, start.shape[1])  # in rows, which batches of products like better
    projected = start.new_zeros(len(start), steps * width, steps * width)
    generator, rounding = torch.Generator().manual_seed(0), 10 * torch.finfo(start.dtype).eps
    newest = torch.linalg.qr(start).Q
    for step in range(1, steps + 1):
        new = slice((step - 1) * width, step * width)
        basis[:, new] = newest.mT
        known = basis[:, : new.stop]
        image = (matrix @ newest).mT
        projected[:, new, new] = image @ newest
        noise = torch.randn(width, start.shape[1], generator=generator).to(start)  # a way on out of an invariant space
        image = image + rounding * image.norm(dim=2, keepdim=True) * noise
        newest, upper = torch.linalg.qr(_outside(image, known).mT)
        newest, again = torch.linalg.qr(
            _outside(newest.mT, known).mT
        )  # once is not orthogonal enough in floating point
        coupling = again @ upper
        if step == steps or (new.stop >= 2 * k and new.stop % CHECKED_EVERY < width):
            values, mixing = torch.linalg.eigh(projected[:, : new.stop, : new.stop])
            residual = (coupling @ mixing[:, new, -k:]).norm(dim=1).amax(1)
            error = _ratio(residual, values.abs().amax(1))
            if (error <= tolerance).all():
                break
        if step < steps:
            projected[:, new.stop : new.stop + width, new] = coupling  # the lower triangle is enough for eigh
    return values[:, -k:].flip(1), known.mT @ mixing[:, :, -k:].flip(2), error


def _outside(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows `(B, w, D)` less their part along those of a basis, `(B, m, D)`."""
    return rows - rows @ basis.mT @ basis


@torch.no_grad()
def conjugate_gradients(
    matrix: Multiplies, v: Tensor, diagonal: Tensor, tolerance: float | None = None, max_products: int = 1000
) -> Tensor:
    """`M⁻¹ v` of positive definite M by products with it, preconditioned by its diagonal.

    Args:
        matrix: M, B of them.
        v: `(B, D, k)`.
        diagonal: of M, or what comes near it, positive, `(B, D)`.
        tolerance: until `‖v − M x‖ ≤ tolerance·‖v‖` for each; by default 10 times the machine precision. The residual
            is the one that the method carries along.
        max_products: at most so many; a `RuntimeWarning` says that they were not enough.

    Returns:
        `(B, D, k)`, without gradients.

    Source: Hestenes and Stiefel 1952; Saad, *Iterative Methods for Sparse Linear Systems*, 2003, algorithm 9.1.
    """
    tolerance = 10 * torch.finfo(v.dtype).eps if tolerance is None else tolerance
    limit = tolerance * v.norm(dim=1, keepdim=True)
    inverse = 1 / diagonal[:, :, None]
    solution, residual = torch.zeros_like(v), v
    direction = inverse * residual
    energy = (residual * direction).sum(1, keepdim=True)
    for _ in range(max_products):
        if (residual.norm(dim=1, keepdim=True) <= limit).all():
            return solution
        image = matrix @ direction
        step = _ratio(energy, (direction * image).sum(1, keepdim=True))
        solution, residual = solution + step * direction, residual - step * image
        preconditioned = inverse * residual
        before, energy = energy, (residual * preconditioned).sum(1, keepdim=True)
        direction = preconditioned + _ratio(energy, before) * direction
    error = float(_ratio(residual.norm(dim=1), v.norm(dim=1)).max())
    warnings.warn(f"{max_products} products leave M⁻¹v with a residual of {error:.1e}", RuntimeWarning, stacklevel=3)
    return solution


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, 0 where b is."""
    return a / torch.where(b == 0, 1, b)


def _unit(vectors: Tensor, length: Tensor) -> Tensor:
    """Vectors `(B, D, n)` of length one; zero where they are."""
    return vectors / torch.where(length == 0, 1, length)[:, None]


def _first_column(diagonal: list[Tensor], off_diagonal: list[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """`f(T) e₁` of the tridiagonal T, `(B, n, m)`; in float64, where it is small, whatever the type of the rest."""
    t = torch.diag_embed(torch.stack(diagonal, dim=2).cpu().double())
    if off_diagonal:
        beside = torch.diag_embed(torch.stack(off_diagonal, dim=2).cpu().double(), offset=1)
        t = t + beside + beside.mT
    values, mixing = torch.linalg.eigh(t)
    return (mixing @ (function(values) * mixing[:, :, 0])[..., None])[..., 0]


def _change(before: Tensor, after: Tensor) -> float:
    """The largest change of coefficients, relative to their length; 1 where there were none before."""
    change = after.clone()
    change[:, :, : before.shape[2]] -= before
    length = after.norm(dim=2).clamp(min=torch.finfo(after.dtype).tiny)
    return float((change.norm(dim=2) / length).amax()) if len(after) else 0.0
