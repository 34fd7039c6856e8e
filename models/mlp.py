"""A multilayer perceptron with the interface of `RefineNet`: for vectors, and for images small enough."""

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """Three hidden layers; `outputs` values for every entry of the input.

    Args:
        dimension: D, entries of the input.
        width: of the hidden layers.
        outputs: values for every entry, k.
        activation: of the hidden layers.

    Shape:
        input `(B, D)`; output `(B, k·D)`, k blocks of D one after the other.
    """

    def __init__(self, dimension: int, width: int, outputs: int = 1, activation: Callable[[], nn.Module] = nn.SiLU):
        super().__init__()
        sizes = [dimension, width, width, width]
        hidden = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), activation())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, outputs * dimension))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).to(x.dtype)
