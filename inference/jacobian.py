"""The Jacobian of a learned score: the second-order score one has without training for it.

The posterior covariance it implies is `σ⁴∇s1 + σ²I`.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

__all__ = ["jacobian", "jacobian_diagonal", "jacobian_product", "jacobian_rows"]

Score = Callable[[Tensor], Tensor]


def jacobian(s1: Score, x: Tensor, rows: int = 64) -> Tensor:
    """`∇s1(x)` in full, by D vector-Jacobian products, `rows` of them in one call of the network.

    Args:
        s1: the score, `(B, D)` to `(B, D)`, each point by itself.
        x: `(B, D)`.
        rows: vector-Jacobian products at a time: memory against speed.

    Returns:
        the symmetric part, `(B, D, D)`: the Jacobian of a true score is symmetric.
    """
    full = torch.cat(list(jacobian_rows(s1, x, rows)), dim=1)
    return (full + full.mT) / 2


def jacobian_rows(s1: Score, x: Tensor, rows: int = 64) -> Iterator[Tensor]:
    """The rows of `jacobian`, not made symmetric, a block `(B, rows, D)` at a time."""
    values, pull_back = vjp(s1, x)
    for basis in torch.eye(x.shape[1], dtype=values.dtype, device=x.device).split(rows):
        cotangents = basis[:, None].expand(-1, len(x), -1)
        yield vmap(pull_back)(cotangents)[0].detach().transpose(0, 1)


def jacobian_product(s1: Score, x: Tensor, v: Tensor) -> Tensor:
    """`∇s1(x) V` for blocks of vectors `(B, D, k)`, by forward-mode differentiation: k points through the network for
    each of x, `(B, D)`. Autocast is off in it: torch does not differentiate forward through it."""
    batch, dimension, k = v.shape
    repeated = x.repeat_interleave(k, dim=0)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        _, product = jvp(s1, (repeated,), (v.mT.reshape(batch * k, dimension),))
    return product.view(batch, k, dimension).mT


def jacobian_diagonal(s1: Score, x: Tensor, probes: int, generator: torch.Generator | None = None) -> Tensor:
    """The diagonal of `∇s1(x)`, `(B, D)`, as the mean of `v ∘ ∇s1 v` over random signs v.

    Args:
        s1: the score.
        x: `(B, D)`.
        probes: how many v; the variance of the estimate falls as one over it.
        generator: of the signs.

    Source: Hutchinson 1989; Bekas, Kokiopoulou and Saad 2007.
    """
    signs = torch.randint(2, (len(x), x.shape[1], probes), generator=generator, device=x.device).to(x) * 2 - 1
    return (signs * jacobian_product(s1, x, signs)).mean(2)
