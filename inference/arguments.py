"""What the numbers and points given to a function of `inference` or `evaluation` must be: each check once."""

import math
import numbers

from torch import Tensor

from models import ScoreModel, Scores

__all__ = ["noise_of", "number_from_zero", "points_of", "positive_number", "whole_number"]


def whole_number(name: str, value: int, least: int = 0) -> int:
    """An int that is not below `least`.

    Raises:
        ValueError: where it is another thing; the message has the name.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; a whole number, {least} or more, is expected")
    return int(value)


def positive_number(name: str, value: float | Tensor) -> float:
    """A float above zero and below infinity, from a number or a tensor of no dimension.

    Raises:
        ValueError: where it is another thing; the message has the name.
    """
    shape = tuple(getattr(value, "shape", ()))
    if shape:
        raise ValueError(f"{name} has shape {shape}; a positive, finite number is expected")
    known = isinstance(value, numbers.Real | Tensor) and not isinstance(value, bool)
    if not known or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} is {value!r}; a positive, finite number is expected")
    return float(value)


def number_from_zero(name: str, value: float) -> float:
    """A float that is 0 or more; infinity stands for no limit.

    Raises:
        ValueError: where it is another thing; the message has the name.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"{name} is {value!r}; a number, 0 or more, is expected")
    return float(value)


def points_of(scores: Scores, x: Tensor, name: str = "noisy") -> Tensor:
    """Points as the scores take them; see `models.Scores.points`.

    Raises:
        ValueError: where `scores` is not a `models.Scores`, or x is not points of it.
    """
    return _checked(scores).points(x, name)


def _checked(scores: Scores) -> Scores:
    """The scores, where they are such.

    Raises:
        ValueError: where they are not a `models.Scores`, of one noise level.
    """
    if isinstance(scores, ScoreModel):
        raise ValueError("scores is a ScoreModel, of many noise levels; those at one are expected: model.at(sigma)")
    if not isinstance(scores, Scores):
        raise ValueError(
            f"scores is of type {type(scores).__name__}; a models.Scores is expected, as model.at(sigma) gives"
        )
    return scores


def noise_of(scores: Scores) -> float:
    """The noise level of scores, which is not zero.

    Raises:
        ValueError: where they are not a `models.Scores`, or those of the density itself, σ = 0.
    """
    if _checked(scores).sigma == 0:
        raise ValueError("the scores are at σ = 0, of points without noise; those at a σ above 0 are expected")
    return scores.sigma
