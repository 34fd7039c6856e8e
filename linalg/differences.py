"""Products with the Jacobian of a function that cannot be differentiated, by central differences:

    ∇f(x) v ≈ (f(x + hv) − f(x − hv)) / 2h,    h = ε^{1/3} |x| / |v|

|·| is the root mean square of a point, ε the precision of its numbers. So the truncation, of order h², and the
rounding, of order ε/h, are of one size, ε^{2/3}: 2·10⁻⁵ of the function's scale in single precision, 4·10⁻¹¹ in double.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["central_product", "differences"]

Function = Callable[[Tensor], Tensor]


def differences(function: Function, x: Tensor) -> Tensor:
    """f(x), to be differentiated by central differences.

    Forward as backward: the Jacobian is taken for symmetric, as that of a score is.

    Args:
        function: f, from points `(B, …)` to points of the same shape, each by itself; nothing else is asked of it.
        x: the points.
    """
    return _Differences.apply(x, function)  # type: ignore[no-any-return]


@torch.no_grad()
def central_product(function: Function, x: Tensor, v: Tensor) -> Tensor:
    """`∇f(x) v` for a vector at each point, of the shape of x, by two calls of the function."""
    axes = tuple(range(1, x.ndim))
    length = v.square().mean(axes, keepdim=True).sqrt()
    scale = x.square().mean(axes, keepdim=True).sqrt().clamp(min=1e-3)
    h = torch.finfo(x.dtype).eps ** (1 / 3) * scale / length.clamp(min=torch.finfo(x.dtype).tiny)
    return (function(x + h * v) - function(x - h * v)) / (2 * h)


class _Differences(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, function: Function) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Function], output: Tensor) -> None:
        x, ctx.function = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Product.apply(ctx.saved_tensors[0], tangent, ctx.function)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(ctx.saved_tensors[0], cotangent, ctx.function), None


class _Product(torch.autograd.Function):
    """`central_product`, of many vectors at once under `torch.func.vmap`: they become a longer batch."""

    @staticmethod
    def forward(x: Tensor, v: Tensor, function: Function) -> Tensor:
        return central_product(function, x, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Function], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, v: Tensor, function: Function
    ) -> tuple[Tensor, int]:
        parts = [
            part.expand(info.batch_size, *part.shape) if axis is None else part.movedim(axis, 0)
            for part, axis in zip((x, v), in_dims, strict=False)
        ]
        product = central_product(function, *(part.flatten(0, 1) for part in parts))
        return product.unflatten(0, (info.batch_size, -1)), 0
