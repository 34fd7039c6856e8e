"""Tensors of order three by differentiation along vectors: of a function twice, or of a matrix once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from linalg.jacobians import Function, forward_product, in_blocks, of_columns
from linalg.tensors import SymmetricTensor

__all__ = ["MatrixDerivative", "SecondDerivative", "second_derivative_product"]


class _SiLUInParts(TorchFunctionMode):
    """Takes the SiLU apart, of which torch has no second derivative forward."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.silu:
            return args[0] * torch.sigmoid(args[0])
        return function(*args, **(kwargs or {}))


def second_derivative_product(function: Function, x: Tensor, v: Tensor) -> Tensor:
    """`∇²f(x)(v, v) = d²/dt² f(x + tv)` at t = 0, by the `forward_product` of a `forward_product`: four times the
    operations of f.

    Args:
        function: f, `(B, D)` to `(B, D)`, each point by itself. Of a network of ReLUs all second derivatives are zero.
        x: `(B, D)`.
        v: `(B, D)`.

    Returns:
        `(B, D)`, without gradients.
    """

    with _SiLUInParts():
        return forward_product(lambda points: forward_product(function, points, v), x, v)


@dataclass(frozen=True, eq=False)
class SecondDerivative(SymmetricTensor):
    """`a ∇²f(x)` at B points, a tensor of order 3 known by `second_derivative_product` alone, without gradients.

    The second derivative of a true score is symmetric, that of a learned one nearly.

    Attributes:
        function: f, `(B, D)` to `(B, D)`, each point by itself.
        x: the points, `(B, D)`.
        scale: a, a float or a tensor of no dimension or `(B, 1)`.

    Source: Manor and Michaeli, *On the posterior distribution in denoising*, ICLR 2024, section 4, who take such
        derivatives along a component by finite differences.
    """

    function: Callable[[Tensor], Any]
    x: Tensor
    scale: float | Tensor = 1.0
    order = 3

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dimension(self) -> int:
        return self.x.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        return self.x.device

    def __getitem__(self, rows: Any) -> "SecondDerivative":
        scale = self.scale[rows] if isinstance(self.scale, Tensor) and self.scale.ndim else self.scale
        return replace(self, x=self.x[rows], scale=scale)

    def _scaled(self, scale: float | Tensor) -> "SecondDerivative":
        return replace(self, scale=scale * self.scale)

    def contract(self, v: Tensor) -> Tensor:
        if v.ndim == 2:
            return self.contract(v[:, :, None])[:, :, 0]
        scale = self.scale[..., None] if isinstance(self.scale, Tensor) and self.scale.ndim else self.scale
        return scale * in_blocks(lambda block: of_columns(self._differentiated, self.x, block), v)

    def _differentiated(self, x: Tensor, v: Tensor) -> Tensor:
        """`∇²f(x)(v, v)` for a vector at each point, `(n, D)`."""
        return second_derivative_product(self.function, x, v)


class MatrixDerivative(SecondDerivative):
    """`a ∇M(x)` at B points, of a function M from points `(B, D)` to B matrices (`linalg.SymmetricMatrix`), by one
    forward product: `T(v, v, ·) = d/dt M(x + tv) v`, without gradients. That of a true s2 is symmetric, of a learned
    one nearly."""

    def _differentiated(self, x: Tensor, v: Tensor) -> Tensor:
        return forward_product(lambda points: self.function(points) @ v, x, v)
