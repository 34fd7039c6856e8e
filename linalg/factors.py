"""Numbers that multiply each of a batch of matrices or tensors."""

from torch import Tensor

__all__ = ["per_item"]


def per_item(number: float | Tensor, count: int, what: str) -> float | Tensor:
    """A number for each of a batch, as one that broadcasts against `(B, D)`.

    Args:
        number: a float, or a tensor of no dimension, `(B,)` or `(B, 1)`.
        count: B.
        what: the plural of their noun, for the message.

    Returns:
        the float, or the tensor, of no dimension or `(B, 1)`.

    Raises:
        ValueError: where the tensor has another shape.
    """
    if not isinstance(number, Tensor) or number.ndim == 0:
        return number
    if number.shape not in ((count,), (count, 1)):
        expected = f"a float, or a tensor of no dimension, {(count,)} or {(count, 1)}"
        raise ValueError(f"a tensor {tuple(number.shape)} for {count} {what}; expected: {expected}")
    return number.reshape(-1, 1)
