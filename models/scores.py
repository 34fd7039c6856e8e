"""Scores at a noise level, and what gives them at every level of a range."""

from collections.abc import Callable

import torch
from torch import Tensor

from configs import Config, UserError
from linalg import SymmetricMatrix
from losses.perturbation import noise_level
from models.networks import Networks

__all__ = ["ScoreModel", "Scores", "from_denoiser", "score_model"]

BothOrders = Callable[[Tensor], tuple[Tensor, SymmetricMatrix | None]]


class Scores:
    """`s1 = ∇ log q_σ` and, where it is known, `s2 = ∇² log q_σ`, at one noise level.

    Calling it with points `(B, D)` gives both, `(s1, s2)`, in one call of the network; s2 is None where there is none.

    Args:
        sigma: σ, in the units of the points; 0 for an exact density itself.
        s1: the score, `(B, D)` to `(B, D)`, in units of 1/σ.
        s2: the second-order score, `(B, D)` to B symmetric matrices, in units of 1/σ²; None where it is not known.
        both: both at once, where that is cheaper than one after the other.

    Raises:
        ValueError: where sigma is not one number, finite and not negative.
    """

    def __init__(
        self,
        sigma: float | Tensor,
        s1: Callable[[Tensor], Tensor],
        s2: Callable[[Tensor], SymmetricMatrix] | None = None,
        both: BothOrders | None = None,
    ):
        self.sigma = noise_level(sigma, zero=True)
        self.s1, self.s2, self._both = s1, s2, both

    def __call__(self, x: Tensor) -> tuple[Tensor, SymmetricMatrix | None]:
        if self._both is not None:
            return self._both(x)
        return self.s1(x), None if self.s2 is None else self.s2(x)


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

        if config.model.head == "none":
            return Scores(sigma, s1)
        return Scores(sigma, s1, lambda x: network.second_order(x, sigma), both=lambda x: network(x, sigma))

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
        ValueError: where `sigmas` are not positive and ascending.

    Source: Tweedie's formula; Efron, *Tweedie's formula and selection bias*, 2011.
    """
    low, high = sigmas
    if not 0 < low <= high:
        raise ValueError(f"sigmas is {sigmas}; the lowest and the highest noise level are expected, both positive")

    def at(sigma: float) -> Scores:
        def s1(x: Tensor) -> Tensor:
            return (denoise(x.unflatten(1, shape), sigma).flatten(1) - x) / sigma**2

        return Scores(sigma, s1)

    return ScoreModel(at, (low, high), shape)
