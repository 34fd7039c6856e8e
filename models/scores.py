"""Scores at a noise level, and what gives them at every level of a range."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from configs import Config, UserError
from linalg import SymmetricMatrix, SymmetricTensor
from losses.perturbation import noise_level

if TYPE_CHECKING:
    from models.networks import Networks

__all__ = ["Locality", "ScoreModel", "Scores"]

Answer = TypeVar("Answer")
BothOrders = Callable[[Tensor], tuple[Tensor, SymmetricMatrix | None]]


@dataclass(frozen=True)
class Locality:
    """That an entry of an image's s1 depends on its surroundings alone.

    Attributes:
        reach: on pixels at most so far away.
        multiple: of a part of the image s1 is that of the whole where it is cut as `models.tiles.with_margin` says.
        s1: from the shape of a part, `(C, H, W)`, to s1 of such parts.
    """

    reach: int
    multiple: int
    s1: Callable[[tuple[int, ...]], Callable[[Tensor], Tensor]]


class Scores:
    """`s1 = ∇ log q_σ` and, where they are known, `s2 = ∇² log q_σ` and `s3 = ∇³ log q_σ`, at one noise level.

    Calling it with points `(B, D)` gives the first two, `(s1, s2)`, in one call of the network; s2 is None where there
    is none.

    Args:
        sigma: σ, in the units of the points; 0 for an exact density itself.
        s1: the score, `(B, D)` to `(B, D)`, in units of 1/σ.
        s2: the second-order score, `(B, D)` to B symmetric matrices, in units of 1/σ²; None where it is not known.
        both: both at once, where that is cheaper than one after the other.
        shape: of a point, `(C, H, W)` or `(D,)`, where it is known: points of another are then refused by name.
        like: a tensor whose type and device the scores compute in, where they have such: points are converted to it.
        values: black and white in the units of the points, for images; None where that is not known.
        locality: of scores of images, where an entry of s1 depends on its surroundings alone; None where it does not.
        s3: the third-order score, `(B, D)` to B symmetric tensors, in units of 1/σ³; None where it is not known.

    Raises:
        ValueError: where sigma is not one number, finite and not negative.
    """

    def __init__(
        self,
        sigma: float | Tensor,
        s1: Callable[[Tensor], Tensor],
        s2: Callable[[Tensor], SymmetricMatrix] | None = None,
        both: BothOrders | None = None,
        shape: tuple[int, ...] | None = None,
        like: Tensor | None = None,
        values: tuple[float, float] | None = None,
        locality: "Locality | None" = None,
        s3: Callable[[Tensor], SymmetricTensor] | None = None,
    ):
        self.sigma = noise_level(sigma, zero=True)
        self.shape = None if shape is None else tuple(shape)
        self.s1 = self._of_fitting(s1)
        self.s2 = None if s2 is None else self._of_fitting(s2)
        self.s3 = None if s3 is None else self._of_fitting(s3)
        self._both = None if both is None else self._of_fitting(both)
        self._like = like
        self.values, self.locality = values, locality

    def __call__(self, x: Tensor) -> tuple[Tensor, SymmetricMatrix | None]:
        if self._both is not None:
            return self._both(x)
        return self.s1(x), None if self.s2 is None else self.s2(x)

    def points(self, x: Tensor | ArrayLike | Sequence[Tensor], name: str = "x") -> Tensor:
        """Points given in any form, in that which the scores take.

        Args:
            x: floats `(B, D)`, or images `(B, C, H, W)`: a tensor, an array, or a list of either.
            name: what the messages call them.

        Returns:
            `(B, D)`, outside the graph of gradients; of the scores' type and on their device, where those are known.
            Half precision becomes float32 where they are not.

        Raises:
            ValueError: where they are not floats, not finite, or of another shape; the message says what is expected.
        """
        values = _tensor(x, name)
        if not values.is_floating_point():
            advice = "datasets.from_pixels makes them of pixels, .float() of other numbers"
            raise ValueError(f"{name} is of type {values.dtype}; floats in the units of the scores: {advice}")
        if values.ndim == 4 and self.shape in (None, tuple(values.shape[1:])):
            values = values.flatten(1)
        if values.ndim != 2 or (self.shape is not None and values.shape[1] != math.prod(self.shape)):
            raise ValueError(f"{name} has shape {tuple(values.shape)}; {self._expected_of(tuple(values.shape))}")
        if not bool(values.isfinite().all()):
            count = int(values.numel() - values.isfinite().sum())
            raise ValueError(f"{name} has {count} of {values.numel()} values that are not finite; finite are expected")
        if self._like is not None:
            return values.detach().to(self._like.device, self._like.dtype)
        return values.detach().to(torch.promote_types(values.dtype, torch.float32))

    def _expected_of(self, shape: tuple[int, ...]) -> str:
        """What is expected of points that have another shape."""
        expected = "(B, D)"
        if self.shape is not None:
            expected = f"(B, {math.prod(self.shape)})"
            if len(self.shape) > 1:
                expected += f" or (B, {', '.join(map(str, self.shape))})"
        if self.shape is None or shape in (self.shape, (math.prod(self.shape),)):
            return f"{expected} is expected, [None] adds the axis B to a single point"
        return f"{expected} is expected"

    def _of_fitting(self, function: Callable[[Tensor], Answer]) -> Callable[[Tensor], Answer]:
        """The function, of points of the known shape alone."""
        if self.shape is None:
            return function

        def of_fitting(x: Tensor) -> Answer:
            if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != math.prod(self.shape or ()):
                given = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"the type {type(x).__name__}"
                raise ValueError(f"points of {given}; a tensor (B, {math.prod(self.shape or ())}) is expected")
            return function(x)

        return of_fitting


def _tensor(x: Tensor | ArrayLike | Sequence[Tensor], name: str) -> Tensor:
    try:
        if isinstance(x, Tensor):
            return x
        if isinstance(x, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(x))
        if isinstance(x, list | tuple) and x:
            parts = [torch.as_tensor(part) for part in x]
            return torch.stack(parts)
    except (TypeError, ValueError, RuntimeError):
        if not isinstance(x, np.ndarray):
            raise ValueError(f"{name} is a list of parts that differ or are no numbers; an array is expected") from None
        raise ValueError(f"{name} is of type {x.dtype}; floats in the units of the scores are expected") from None
    raise ValueError(f"{name} is of type {type(x).__name__}; a tensor or array of floats (B, D) is expected")


class ScoreModel:
    """Scores at each noise level of a range, whatever they come from.

    Attributes:
        sigmas: the lowest and the highest noise level, in the units of the data; equal for a model of one level.
        shape: of a point, `(C, H, W)` for images or `(D,)`; `(C, None, None)` for images of any size.
        config: that the model was trained with, or None.
        network: that gives the scores, or None.
        values: black and white in the units of the data, for images; None where that is not known.

    Args:
        at: from σ and the shape of a point to the scores.
    """

    def __init__(
        self,
        at: Callable[[float, tuple[int, ...]], Scores],
        sigmas: tuple[float, float],
        shape: tuple[int | None, ...],
        config: Config | None = None,
        network: "Networks | nn.Module | None" = None,
        values: tuple[float, float] | None = None,
    ):
        self._at, self.sigmas, self.shape, self.values = at, sigmas, tuple(shape), values
        self.config, self.network = config, network

    @property
    def device(self) -> torch.device:
        """Where the network computes; the CPU where there is no network."""
        like = None if self.network is None else getattr(self.network, "like", next(self.network.parameters(), None))
        return torch.device("cpu") if like is None else like.device

    @property
    def any_size(self) -> bool:
        """Whether it takes images of other sizes than `shape` says, see `at`."""
        model = None if self.config is None or len(self.shape) != 3 else self.config.model
        return None in self.shape or (model is not None and model.network == "unet" and not model.unet.positions)

    def sized(self, shape: tuple[int, ...]) -> "ScoreModel":
        """The same for images of one shape, `(C, H, W)`, see `at`."""
        return ScoreModel(self._at, self.sigmas, shape, self.config, self.network, self.values)

    def at(self, sigma: float | Tensor, shape: tuple[int, ...] | None = None) -> Scores:
        """The scores at noise level σ, a number in the units of the data.

        Args:
            sigma: σ.
            shape: of the images, `(C, H, W)`, where the model takes any size, or was trained on another one.

        Raises:
            UserError: where the model has none at that level or for such images; the message says which it has.
            ValueError: where sigma is not one number, finite and not negative, or the shape is missing.
        """
        sigma = noise_level(sigma, zero=True)
        low, high = self.sigmas
        if not low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6):
            levels = f"σ = {low:g}" if low == high else f"σ from {low:g} to {high:g}"
            raise UserError(f"the model has scores at {levels}, not at σ = {sigma:g}")
        if shape is None and None in self.shape:
            raise ValueError("the model takes images of any size: say theirs, model.at(sigma, shape=(C, H, W))")
        shape = cast(tuple[int, ...], self.shape) if shape is None else tuple(shape)
        if len(shape) != len(self.shape) or shape[0] != self.shape[0]:
            raise UserError(f"the model is for points of shape {self.shape}, not {shape}")
        return self._at(sigma, shape)
