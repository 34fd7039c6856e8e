"""Noise levels from the widest to the narrowest."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

import numpy as np

from inference.arguments import whole_number
from losses.perturbation import noise_level
from models import Scores

__all__ = ["HasScores", "descending", "geometric", "scores_at"]


class HasScores(Protocol):
    """What has scores at every noise level: a `models.ScoreModel`, an exact density."""

    def at(self, sigma: float) -> Scores:
        """The scores at noise level σ."""


def descending(sigmas: Iterable[float]) -> list[float]:
    """Noise levels, checked.

    Raises:
        ValueError: where there is none, one is not positive, or they do not descend.
    """
    if not isinstance(sigmas, Iterable):
        raise ValueError(f"sigmas is {sigmas!r}; a sequence of noise levels is expected")
    levels = [noise_level(sigma) for sigma in sigmas]
    if not levels or any(after >= before for before, after in pairwise(levels)):
        raise ValueError(f"noise levels {levels}; descending ones are expected")
    return levels


def geometric(low: float, high: float, count: int) -> list[float]:
    """`count` levels in equal ratios from `high` down to `low`; `high` alone where one is asked for.

    Raises:
        ValueError: where the levels are not positive, or `high` is not above `low`.
    """
    ends = descending([high, low]) if count > 1 else [noise_level(high)]
    return [float(sigma) for sigma in np.geomspace(ends[0], ends[-1], whole_number("count", count, least=1))]


def scores_at(model: HasScores, sigma: float) -> Scores:
    """The scores of a model at σ.

    Raises:
        ValueError: where it has none at every level: `Scores`, of one, or something else.
    """
    if not hasattr(model, "at"):
        raise ValueError(
            f"model is of type {type(model).__name__}; one with scores at every level is expected: model.at(sigma)"
        )
    return model.at(sigma)
