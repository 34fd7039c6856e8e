"""Products with the Jacobian of a function that cannot be differentiated, by central differences:

    ∇f(x) v ≈ (f(x + hv) − f(x − hv)) / 2h,    h = ε^{1/3} |x| / |v|

|·| is the root mean square of a point, ε the precision that f computes in. So the truncation, of order h², and the
rounding, of order ε/h, are of one size, ε^{2/3}: 2·10⁻⁵ of the function's scale in single precision, 4·10⁻¹¹ in double,
1 % in float16 and 4 % in bfloat16.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["central_product", "differences"]

Function = Callable[[Tensor], Tensor]


def differences(function: Function, x: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """f(x), to be differentiated by central differences.

    Forward as backward: the Jacobian is taken for symmetric, as that of a score is.

    Args:
        function: f, from points `(B, …)` to points of the same shape, each by itself; nothing else is asked of it.
        x: the points.
        precision: see `central_product`.
    """
    return _Differences.apply(x, function, precision)  # type: ignore[no-any-return]


@torch.no_grad()
def central_product(function: Function, x: Tensor, v: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """`∇f(x) v` for a vector at each point, of the shape of x, by two calls of the function.

    Args:
        precision: that the function computes in, where it is coarser than that of x.
    """
    epsilon = max(torch.finfo(dtype).eps for dtype in (x.dtype, precision or x.dtype))
    axes = tuple(range(1, x.ndim))
    length = v.square().mean(axes, keepdim=True).sqrt()
    scale = x.square().mean(axes, keepdim=True).sqrt().clamp(min=1e-3)
    h = epsilon ** (1 / 3) * scale / length.clamp(min=torch.finfo(x.dtype).tiny)
    return (function(x + h * v) - function(x - h * v)) / (2 * h)


class _Differences(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, function: Function, precision: torch.dtype | None) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Function, torch.dtype | None], output: Tensor) -> None:
        x, *ctx.known = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Product.apply(ctx.saved_tensors[0], tangent, *ctx.known)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(ctx.saved_tensors[0], cotangent, *ctx.known), None, None


class _Product(torch.autograd.Function):
    """`central_product`, of many vectors at once under `torch.func.vmap`: they become a longer batch."""

    @staticmethod
    def forward(x: Tensor, v: Tensor, function: Function, precision: torch.dtype | None) -> Tensor:
        return central_product(function, x, v, precision)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        v: Tensor,
        function: Function,
        precision: torch.dtype | None,
    ) -> tuple[Tensor, int]:
        points, vectors = (
            part.expand(info.batch_size, *part.shape) if axis is None else part.movedim(axis, 0)
            for part, axis in zip((x, v), in_dims, strict=False)
        )
        product = central_product(function, points.flatten(0, 1), vectors.flatten(0, 1), precision)
        return product.unflatten(0, (info.batch_size, -1)), 0
