"""The scores that any denoiser implies, `s1 = (E[x|x̃] − x̃)/σ²`, whatever its units, its output and its time are called.

With `x̃ = x + σε` and a function that takes `u = a x̃`, a = 1 unless it follows a schedule of diffusion steps:

    denoised    D = f
    noise       D = x̃ − σ f
    score       D = x̃ + a σ² f                          f = ∇ log q(u)
    velocity    D = x̃/(1 + σ²) − σ f/√(1 + σ²)          f = (ε − σ x)/√(1 + σ²)

A schedule ᾱ_t has a = √ᾱ_t = 1/√(1 + σ²), and so t for each σ.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from linalg import differences
from models.scores import Locality, ScoreModel, Scores

__all__ = ["OUTPUTS", "ExternalDenoiser", "from_denoiser"]

Level = float | Tensor
Output = Literal["denoised", "noise", "score", "velocity"]
Shape = tuple[int | None, ...]

OUTPUTS: dict[str, Callable[[Tensor, Tensor, Level, Level], Tensor]] = {
    "denoised": lambda f, noisy, sigma, a: f,
    "noise": lambda f, noisy, sigma, a: noisy - sigma * f,
    "score": lambda f, noisy, sigma, a: noisy + a * sigma**2 * f,
    "velocity": lambda f, noisy, sigma, a: noisy / (1 + sigma**2) - sigma * f / (1 + sigma**2) ** 0.5,
}
"""D from what the function answers, x̃, σ and a."""


class ExternalDenoiser(nn.Module):
    """`D(x̃, σ) = E[x|x̃]` by a function, at points in the units of the data.

    The weights of a network behind it are frozen, and in no state dict: they stay where they came from. They go with
    the module to another device, and copies share them. It computes in its own precision, under autocast too.

    Args:
        function: from noisy points in its own shape, `(B, C, H, W)` or `(B, D)`, and σ, to their posterior means.
        shape: of a point, `(C, H, W)` or `(D,)`; H and W None where it takes any size.
        network: behind the function, if any.
        values: black and white in the units of the points, where that is known.

    Attributes:
        reach, multiple: see `Locality`; reach is None where that is not known.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Level], Tensor],
        shape: Shape,
        network: nn.Module | None = None,
        reach: int | None = None,
        multiple: int = 1,
        values: tuple[float, float] | None = None,
    ):
        super().__init__()
        self.function, self.shape, self.reach, self.multiple = function, shape, reach, multiple
        self.values = None if values is None else (float(values[0]), float(values[1]))
        self._unregistered = () if network is None else (network.requires_grad_(False).eval(),)

    def __deepcopy__(self, memo: dict) -> "ExternalDenoiser":
        return self.resized(cast(tuple[int, ...], self.shape))

    def _apply(self, fn: Any, recurse: bool = True) -> "ExternalDenoiser":
        for network in self._unregistered:
            network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def like(self) -> Tensor | None:
        """A tensor of the type and on the device that it computes in, where that is known."""
        return next((value for network in self._unregistered for value in network.parameters()), None)

    @property
    def sha256(self) -> str | None:
        """Of the names and values of the weights; None where it is a function without any."""
        digest = None
        for network in self._unregistered:
            digest = hashlib.sha256()
            for name, value in sorted(network.state_dict().items()):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return None if digest is None else digest.hexdigest()

    def forward(self, x: Tensor, sigma: Level) -> Tensor:
        """From points `(B, D)`, and σ of all or `(B, 1)` of each, to their posterior means `(B, D)`.

        Raises:
            ValueError: where the function answers in another shape.
        """
        noisy = x.unflatten(1, self.shape)
        if isinstance(sigma, Tensor) and sigma.ndim:
            sigma = sigma.view(-1, *[1] * len(self.shape))
        with torch.autocast(x.device.type, enabled=False):
            denoised = self.function(noisy, sigma)
        if getattr(denoised, "shape", None) != noisy.shape:
            given = getattr(denoised, "shape", type(denoised).__name__)
            raise ValueError(f"denoise returned {given} for points {tuple(noisy.shape)}; the same is expected")
        return denoised.flatten(1)

    def s1(self, sigma: float, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """`(D − x̃)/σ²` of points of a shape."""
        sized = self.resized(shape)
        return lambda x: (sized(x, sigma) - x) / sigma**2

    def locality(self, sigma: float) -> Locality | None:
        """Of s1, where the reach is known."""
        if self.reach is None:
            return None
        return Locality(self.reach, self.multiple, partial(self.s1, sigma))

    def resized(self, shape: tuple[int, ...]) -> "ExternalDenoiser":
        """The same for points of another shape; weights are shared."""
        (network,) = self._unregistered or (None,)
        return ExternalDenoiser(self.function, shape, network, self.reach, self.multiple, self.values)


def from_denoiser(
    denoise: Callable[..., Tensor],
    sigmas: tuple[float, float],
    shape: Shape,
    *,
    values: tuple[float, float] | None = None,
    units: tuple[float, float] | None = None,
    output: Output = "denoised",
    level: Literal["sigma", "fixed"] | Sequence[float] | Tensor = "sigma",
    derivatives: bool = True,
    precision: torch.dtype | None = None,
    reach: int | None = None,
    multiple: int = 1,
) -> ScoreModel:
    """The first-order scores that a denoiser implies.

    Args:
        denoise: from noisy points, images `(B, C, H, W)` where `shape` is that of an image, else vectors `(B, D)`, and
            their level to what `output` says, in the same shape. A level is a number; where the points of a batch have
            each its own, a tensor that broadcasts against them, `(B, 1, 1, 1)` or `(B, 1)`. A `torch.nn.Module` is
            taken as it is; it is frozen, and goes to other devices with the model.
        sigmas: the lowest and the highest noise level that it is good for, in the units of the points.
        shape: of a point, `(C, H, W)` or `(D,)`; `(C, None, None)` for images of any size.
        values: black and white in the numbers that `denoise` takes, such as `(0, 1)`, `(-1, 1)` or `(0, 255)`.
        units: black and white in those of the points, by default the same. Points, answers and σ are converted.
        output: what it answers: `E[x|x̃]`, the noise ε, the score, or the velocity (see the module).
        level: `"sigma"`, where it takes σ; `"fixed"`, where it takes the points alone; or the schedule ᾱ_0 > ᾱ_1 > …
            of a diffusion model, where it takes `√ᾱ_t x̃` and t, which lies between two steps for a σ between theirs.
        derivatives: false for a function that torch cannot differentiate (ONNX Runtime, another process): products
            with its Jacobian are then central differences, see `linalg.differences`.
        precision: with `derivatives=False`, that it computes in where it is coarser than that of the points, such as
            `torch.float16`: differences take longer steps then.
        reach: how far an entry of an image's answer looks, in pixels, where that is known: the radius of the receptive
            field. What is asked of a region is then computed from its surroundings alone.
        multiple: of the steps by which an image can be moved with its answer: 2 for a network that takes every other
            pixel.

    Returns:
        a model whose `s2` is None: `inference.posterior` takes the Jacobian of its s1 by its products.

    Raises:
        ValueError: where an argument is not what is said above; and from the scores, where `denoise` returns another
            shape than it was given.

    Source: Tweedie's formula; Efron, *Tweedie's formula and selection bias*, 2011. Ho et al., NeurIPS 2020 (noise),
        and Salimans and Ho, ICLR 2022 (velocity), for the forms.
    """
    if not callable(denoise):
        raise ValueError(f"denoise is of type {type(denoise).__name__}; a function of noisy points and σ is expected")
    if not isinstance(shape, tuple | list) or len(shape) not in (1, 3) or not all(_fits(size) for size in shape):
        raise ValueError(f"shape is {shape}; that of a point is expected, (C, H, W) or (D,)")
    if not isinstance(sigmas, tuple | list) or len(sigmas) != 2 or not 0 < sigmas[0] <= sigmas[1] < math.inf:
        raise ValueError(f"sigmas is {sigmas}; the lowest and the highest noise level are expected, both positive")
    if output not in OUTPUTS:
        raise ValueError(f"output is {output}; one of {', '.join(OUTPUTS)} is expected")
    if level == "fixed" and sigmas[0] != sigmas[1]:
        raise ValueError(f"sigmas is {sigmas} and level is fixed; one level, (σ, σ), is expected")
    for name, ends in {"values": values, "units": units}.items():
        if ends is not None and (len(ends) != 2 or not ends[0] < ends[1]):
            raise ValueError(f"{name} is {ends}; black and white are expected, such as (0, 1)")
    if units is not None and values is None:
        raise ValueError("units are given and values are not; both are expected, to convert between them")
    if precision is not None and derivatives:
        raise ValueError("precision is given, and is that of differences; derivatives=False is expected with it")
    network = denoise if isinstance(denoise, nn.Module) else None
    function = _posterior_mean(denoise, output, level)
    if not derivatives:
        function = _by_differences(function, precision)
    if units is not None and values is not None and tuple(units) != tuple(values):
        function = _converted(function, values, units)
    denoiser = ExternalDenoiser(function, tuple(shape), network, reach, multiple, units or values)
    return external_model(denoiser, (sigmas[0], sigmas[1]))


def external_model(denoiser: ExternalDenoiser, sigmas: tuple[float, float]) -> ScoreModel:
    """The first-order scores of a denoiser, at noise levels of a range."""

    def at(sigma: float, shape: tuple[int, ...]) -> Scores:
        about: dict[str, Any] = {"shape": shape, "like": denoiser.like, "values": denoiser.values}
        return Scores(sigma, denoiser.s1(sigma, shape), locality=denoiser.locality(sigma), **about)

    return ScoreModel(at, sigmas, denoiser.shape, network=denoiser, values=denoiser.values)


def _fits(size: Any) -> bool:
    return size is None or (isinstance(size, int) and size > 0)


def _posterior_mean(
    denoise: Callable[..., Tensor], output: str, level: str | Sequence[float] | Tensor
) -> Callable[[Tensor, Level], Tensor]:
    """D(x̃, σ) from a function of another form."""
    form = OUTPUTS[output]
    if level == "sigma":
        return lambda noisy, sigma: form(denoise(noisy, sigma), noisy, sigma, 1.0)
    if level == "fixed":
        return lambda noisy, sigma: form(denoise(noisy), noisy, sigma, 1.0)
    step_of = _steps(level)

    def scheduled(noisy: Tensor, sigma: Level) -> Tensor:
        a = 1 / (1 + sigma**2) ** 0.5
        return form(denoise(a * noisy, step_of(noisy, sigma)), noisy, sigma, a)

    return scheduled


def _steps(schedule: Any) -> Callable[[Tensor, Level], Tensor]:
    """t `(B,)` of points at σ, from a schedule ᾱ: linear in log σ between two steps.

    Raises:
        ValueError: where the schedule is none.
    """
    kept = torch.as_tensor(schedule, dtype=torch.float64)
    if kept.ndim != 1 or len(kept) < 2 or not bool(((kept > 0) & (kept < 1)).all() & (kept.diff() < 0).all()):
        raise ValueError("level: a schedule of falling numbers between 1 and 0 is expected, ᾱ of each step")
    levels = ((1 - kept) / kept).log() / 2

    def step_of(noisy: Tensor, sigma: Level) -> Tensor:
        wanted = torch.as_tensor(sigma, dtype=torch.float64).flatten().cpu().log()
        above = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
        low, high = levels[above - 1], levels[above]
        steps = (above - 1 + (wanted - low) / (high - low)).clamp(0, len(levels) - 1)
        return steps.to(noisy.device, noisy.dtype).expand(len(noisy))

    return step_of


def _by_differences(
    function: Callable[[Tensor, Level], Tensor], precision: torch.dtype | None
) -> Callable[[Tensor, Level], Tensor]:
    return lambda noisy, sigma: differences(lambda x: function(x, sigma), noisy, precision)


def _converted(
    function: Callable[[Tensor, Level], Tensor], values: tuple[float, float], units: tuple[float, float]
) -> Callable[[Tensor, Level], Tensor]:
    """The function of points in `units`, from one of points in `values`."""
    scale = (values[1] - values[0]) / (units[1] - units[0])

    def converted(noisy: Tensor, sigma: Level) -> Tensor:
        return (function((noisy - units[0]) * scale + values[0], sigma * scale) - values[0]) / scale + units[0]

    return converted
