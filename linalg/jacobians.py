"""The Jacobian of a score: the second-order score one has without training for it.

The posterior covariance that it implies is `σ⁴∇s1 + σ²I`.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap
from tqdm import tqdm

from linalg.dense import Dense
from linalg.differences import central_product
from linalg.krylov import subspace_iteration
from linalg.matrix import NEVER_DENSE_ABOVE, SymmetricMatrix

__all__ = [
    "Jacobian",
    "hutchinson_diagonal",
    "iterated_eigenpairs",
    "jacobian",
    "jacobian_product",
    "jacobian_rows",
]

Function = Callable[[Tensor], Tensor]

UNDIFFERENTIABLE = ("forward", "functorch")  # what torch says where it has no derivative in forward mode
POINTS = 512  # at most so many through the function at a time, where there are not more to begin with
ENTRIES = 2**22  # of such points together
UPDATES = 16  # of a bar, at least
STEPS, TOLERANCE = 100, 0.03  # of the iteration for eigenpairs: those of Manor and Michaeli


def jacobian(function: Function, x: Tensor, rows: int = 64) -> Tensor:
    """`∇f(x)` in full, by D vector-Jacobian products, `rows` of them in one call of the function.

    Args:
        function: f, `(B, D)` to `(B, D)`, each point by itself: a score.
        x: `(B, D)`.
        rows: vector-Jacobian products at a time: memory against speed.

    Returns:
        the symmetric part, `(B, D, D)`: the Jacobian of a true score is symmetric.
    """
    full = torch.cat(list(jacobian_rows(function, x, rows)), dim=1)
    return (full + full.mT) / 2


def jacobian_rows(function: Function, x: Tensor, rows: int = 64) -> Iterator[Tensor]:
    """The rows of `jacobian`, not made symmetric, a block `(B, rows, D)` at a time."""
    values, pull_back = vjp(function, x)  # type: ignore[misc]
    for basis in torch.eye(x.shape[1], dtype=values.dtype, device=x.device).split(rows):
        cotangents = basis[:, None].expand(-1, len(x), -1)
        yield vmap(pull_back)(cotangents)[0].detach().transpose(0, 1)


def forward_product(function: Function, x: Tensor, v: Tensor) -> Tensor:
    """`∇f(x) v` for a vector at each point, `(n, D)` both, by forward-mode differentiation. Autocast is off in it:
    torch does not differentiate forward through it. Where torch cannot differentiate the function forward, by central
    differences, see `linalg.differences`."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script.*` is deprecated")  # torch's own, in forward mode
        try:
            return jvp(function, (x,), (v,))[1]  # type: ignore[no-any-return]
        except (NotImplementedError, RuntimeError) as error:
            if not any(word in str(error).lower() for word in UNDIFFERENTIABLE):
                raise
            return central_product(function, x, v)


def of_columns(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """A product of points and vectors, `(n, D)` both, with each column of blocks `(B, D, k)`: k points for each x."""
    batch, dimension, k = v.shape
    vectors = v.mT.reshape(batch * k, dimension)
    return product(x.repeat_interleave(k, dim=0), vectors).view(batch, k, dimension).mT


def in_blocks(product: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """A product with blocks of vectors `(B, D, k)`, of so many columns at a time as memory should hold."""
    points = min(POINTS, ENTRIES // v.shape[1])
    return torch.cat([product(block) for block in v.split(max(1, points // max(1, len(v))), dim=2)], dim=2)


def jacobian_product(function: Function, x: Tensor, v: Tensor) -> Tensor:
    """`∇f(x) V` for blocks of vectors `(B, D, k)`, see `forward_product`: k points through the function for each of x,
    `(B, D)`."""
    return of_columns(partial(forward_product, function), x, v)


def hutchinson_diagonal(
    matrix: SymmetricMatrix, probes: int, generator: torch.Generator | None = None, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """The diagonal of M as the mean of `v ∘ Mv` over random signs v, and how far off it may be.

    Args:
        matrix: M, B of them.
        probes: how many v, at least 2; the variance of the estimate falls as one over it.
        generator: of the signs, the same for every matrix, so that an answer does not depend on its neighbours.
        progress: show a bar with the time that is left, on a terminal.

    Returns:
        the estimate and its standard error, `(B, D)` each. Memory holds a few products at a time, where they are large.

    Raises:
        ValueError: where `probes` is below 2.

    Source: Hutchinson 1989; Bekas, Kokiopoulou and Saad 2007; for the squares in parts, Chan, Golub and LeVeque 1979.
    """
    if probes < 2:
        raise ValueError(f"probes is {probes}; at least 2 are expected, for a standard error")
    mean = squares = torch.zeros(len(matrix), matrix.dimension, dtype=matrix.dtype, device=matrix.device)
    at_once = probes // UPDATES if progress else probes
    size, done = max(1, min(at_once, ENTRIES // max(1, mean.numel()))), 0
    with tqdm(total=probes, desc="products", disable=None if progress else True, leave=False) as bar:
        while done < probes:
            count = min(size, probes - done)
            signs = [torch.randint(2, mean.shape[1:], generator=generator, device=mean.device) for _ in range(count)]
            block = (torch.stack(signs, dim=1).to(mean.dtype) * 2 - 1).expand(len(matrix), -1, -1)
            estimates = block * (matrix @ block)
            apart = estimates.mean(2) - mean
            mean = mean + apart * (count / (done + count))
            squares = squares + (estimates - estimates.mean(2, keepdim=True)).square().sum(2)
            squares = squares + apart.square() * (done * count / (done + count))
            done += count
            bar.update(count)
    return mean, (squares / (probes * (probes - 1))).sqrt()


@dataclass(frozen=True, eq=False)
class Jacobian(SymmetricMatrix):
    """`a ∇f(x) + bI` at B points, by products alone, without gradients.

    The Jacobian of a true score is symmetric, that of a learned one nearly. Products are with the Jacobian itself;
    `dense` is its symmetric part.

    Attributes:
        function: f, `(B, D)` to `(B, D)`, each point by itself.
        x: the points, `(B, D)`.
        scale: a, a float or a tensor of no dimension or `(B, 1)`.
        shift: b, likewise.
    """

    function: Function
    x: Tensor
    scale: float | Tensor = 1.0
    shift: float | Tensor = 0.0

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dimension(self) -> int:
        return self.x.shape[1]

    @property
    def products_only(self) -> bool:
        return True

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        return self.x.device

    def __getitem__(self, rows: Any) -> "Jacobian":
        scale, shift = (n[rows] if isinstance(n, Tensor) and n.ndim else n for n in (self.scale, self.shift))
        return Jacobian(self.function, self.x[rows], scale, shift)

    def detach(self) -> "Jacobian":
        scale, shift = (n.detach() if isinstance(n, Tensor) else n for n in (self.scale, self.shift))
        return Jacobian(self.function, self.x.detach(), scale, shift)

    def to(self, *target: Any) -> "Jacobian":
        """At the same points as another dtype or on another device, which the function must take too."""
        scale, shift = (n.to(*target) if isinstance(n, Tensor) else n for n in (self.scale, self.shift))
        return Jacobian(self.function, self.x.to(*target), scale, shift)

    def __matmul__(self, v: Tensor) -> Tensor:
        if v.ndim == 2:
            return (self @ v[:, :, None])[:, :, 0]
        scale, shift = (n[..., None] if isinstance(n, Tensor) else n for n in (self.scale, self.shift))
        product = in_blocks(partial(jacobian_product, self.function, self.x), v)
        return scale * product + shift * v

    def _scaled(self, scale: float | Tensor) -> "Jacobian":
        return Jacobian(self.function, self.x, scale * self.scale, scale * self.shift)

    def _shifted(self, shift: float | Tensor) -> "Jacobian":
        return Jacobian(self.function, self.x, self.scale, self.shift + shift)

    def dense(self) -> Tensor:
        """The symmetric part in full, `(B, D, D)`, by D vector-Jacobian products."""
        symmetric = Dense(jacobian(self.function, self.x, rows=max(1, min(64, POINTS // max(1, len(self))))))
        return (self.scale * symmetric + self.shift).dense()

    def eigh_top(self, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues `(B, k)`, descending, and orthonormal eigenvectors `(B, D, k)`, without gradients.

        By subspace iteration from a random start, the same every time, until the directions stay within `tolerance`
        (a sine; by default 0.03) of the span of those before, in at most 100 steps of k products; a `RuntimeWarning`
        says that they were not enough. For k above D/16 by the dense problem, exactly, which costs no more.

        Raises:
            ValueError: where k is not from 1 to D, or above D/16 for a D above 1024.

        Source: Manor and Michaeli, *On the posterior distribution in denoising*, ICLR 2024, algorithm 1, with
            Jacobian-vector products in place of finite differences.
        """
        if 16 * k > self.dimension:
            return super().eigh_top(k, tolerance)
        self._check_count(k)
        return iterated_eigenpairs(self, k, tolerance)

    def clamp(self, floor: float) -> tuple[Dense, int]:
        """The matrix in full, with its eigenvalues below `floor` raised to it, and how many there were.

        Raises:
            NotImplementedError: for a D above 1024.
        """
        if self.dimension > NEVER_DENSE_ABOVE:
            raise NotImplementedError(self._unavailable("a floor under the eigenvalues"))
        return Dense(self.dense()).clamp(floor)


def iterated_eigenpairs(matrix: SymmetricMatrix, k: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
    """The k largest eigenpairs by subspace iteration; see `Jacobian.eigh_top`."""
    start = torch.randn(matrix.dimension, k, generator=torch.Generator().manual_seed(0)).to(matrix.device, matrix.dtype)
    values, directions = _iterate(matrix, start.expand(len(matrix), -1, -1), tolerance)
    if (values < 0).any():  # the largest in size are not the largest: none is negative, once shifted by the lowest
        lowest = values.amin(1, keepdim=True).clamp(max=0)
        values, directions = _iterate(matrix - lowest, directions, tolerance)
        values = values + lowest
    return values, directions


def _iterate(matrix: SymmetricMatrix, start: Tensor, tolerance: float | None) -> tuple[Tensor, Tensor]:
    sine = TOLERANCE if tolerance is None else tolerance
    values, directions, steps = subspace_iteration(lambda v, rows: matrix[rows] @ v, start, STEPS, sine)
    if (steps == STEPS).any():
        unfinished = f"eigenpairs of {int((steps == STEPS).sum())} of {len(matrix)} matrices"
        warnings.warn(f"{STEPS} steps leave {unfinished} unfinished", RuntimeWarning, stacklevel=4)
    return values, directions
