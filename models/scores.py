"""Scores at a noise level, and what gives them at every level of a range."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from configs import Config, UserError
from linalg import SymmetricMatrix
from losses.perturbation import noise_level
from models.networks import Networks

__all__ = ["ScoreModel", "Scores", "from_denoiser", "score_model"]

Answer = TypeVar("Answer")
BothOrders = Callable[[Tensor], tuple[Tensor, SymmetricMatrix | None]]


class Scores:
    """`s1 = ∇ log q_σ` and, where it is known, `s2 = ∇² log q_σ`, at one noise level.

    Calling it with points `(B, D)` gives both, `(s1, s2)`, in one call of the network; s2 is None where there is none.

    Args:
        sigma: σ, in the units of the points; 0 for an exact density itself.
        s1: the score, `(B, D)` to `(B, D)`, in units of 1/σ.
        s2: the second-order score, `(B, D)` to B symmetric matrices, in units of 1/σ²; None where it is not known.
        both: both at once, where that is cheaper than one after the other.
        shape: of a point, `(C, H, W)` or `(D,)`, where it is known: points of another are then refused by name.
        like: a tensor whose type and device the scores compute in, where they have such: points are converted to it.

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
    ):
        self.sigma = noise_level(sigma, zero=True)
        self.shape = None if shape is None else tuple(shape)
        self.s1 = self._of_fitting(s1)
        self.s2 = None if s2 is None else self._of_fitting(s2)
        self._both = None if both is None else self._of_fitting(both)
        self._like = like

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
        shape: of a point, `(C, H, W)` for images or `(D,)`.
        config: that the model was trained with, or None.
        network: that gives the scores, or None.
    """

    def __init__(
        self,
        at: Callable[[float], Scores],
        sigmas: tuple[float, float],
        shape: tuple[int, ...],
        config: Config | None = None,
        network: Networks | None = None,
    ):
        self._at, self.sigmas, self.shape, self.config, self.network = at, sigmas, tuple(shape), config, network

    @property
    def device(self) -> torch.device:
        """Where the network computes; the CPU where there is no network."""
        parameters = () if self.network is None else self.network.parameters()
        return next((value.device for value in parameters), torch.device("cpu"))

    def at(self, sigma: float | Tensor) -> Scores:
        """The scores at noise level σ, a number in the units of the data.

        Raises:
            UserError: where the model has none at that level; the message names both.
            ValueError: where sigma is not one number, finite and not negative.
        """
        sigma = noise_level(sigma, zero=True)
        low, high = self.sigmas
        if not low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6):
            levels = f"σ = {low:g}" if low == high else f"σ from {low:g} to {high:g}"
            raise UserError(f"the model has scores at {levels}, not at σ = {sigma:g}")
        return self._at(sigma)


def score_model(network: Networks, config: Config, shape: tuple[int, ...]) -> ScoreModel:
    """The scores that a network gives, at the noise levels of its configuration.

    Args:
        network: see `models.build`; it is used as it is, not copied.
        config: of the network.
        shape: of a point.
    """

    def at(sigma: float) -> Scores:
        def s1(x: Tensor) -> Tensor:
            return network.first_order(x, sigma)

        like = next(network.parameters(), None)
        if config.model.head == "none":
            return Scores(sigma, s1, shape=shape, like=like)
        return Scores(
            sigma, s1, lambda x: network.second_order(x, sigma), lambda x: network(x, sigma), shape=shape, like=like
        )

    return ScoreModel(at, config.sigmas, shape, config, network)


def from_denoiser(
    denoise: Callable[[Tensor, float], Tensor], sigmas: tuple[float, float], shape: tuple[int, ...]
) -> ScoreModel:
    """The first-order scores that a denoiser implies, `s1 = (E[x|x̃] − x̃)/σ²`.

    Args:
        denoise: from noisy points and σ to `E[x|x̃]`: images `(B, C, H, W)` where `shape` is that of an image, else
            vectors `(B, D)`.
        sigmas: the lowest and the highest noise level that it is good for, in the units of the points.
        shape: of a point, `(C, H, W)` or `(D,)`.

    Returns:
        a model whose `s2` is None: `inference.posterior` takes the Jacobian of its s1 by its products.

    Raises:
        ValueError: where `denoise` is no function, `sigmas` are not positive and ascending, or `shape` is none; and
            from the scores, where `denoise` returns another shape than it was given.

    Source: Tweedie's formula; Efron, *Tweedie's formula and selection bias*, 2011.
    """
    if not callable(denoise):
        raise ValueError(f"denoise is of type {type(denoise).__name__}; a function of noisy points and σ is expected")
    if not isinstance(shape, tuple | list) or len(shape) not in (1, 3) or not all(size > 0 for size in shape):
        raise ValueError(f"shape is {shape}; that of a point is expected, (C, H, W) or (D,)")
    if not isinstance(sigmas, tuple | list) or len(sigmas) != 2 or not 0 < sigmas[0] <= sigmas[1] < math.inf:
        raise ValueError(f"sigmas is {sigmas}; the lowest and the highest noise level are expected, both positive")

    def at(sigma: float) -> Scores:
        def s1(x: Tensor) -> Tensor:
            noisy = x.unflatten(1, shape)
            denoised = denoise(noisy, sigma)
            if getattr(denoised, "shape", None) != noisy.shape:
                given = getattr(denoised, "shape", type(denoised).__name__)
                raise ValueError(f"denoise returned {given} for points {tuple(noisy.shape)}; the same is expected")
            return (denoised.flatten(1) - x) / sigma**2

        return Scores(sigma, s1, shape=shape)

    return ScoreModel(at, (sigmas[0], sigmas[1]), shape)
