"""Likelihoods by the probability flow.

Along `dx/dσ = −σ s1(x, σ)` the density of the noisy points changes by `d log q/dσ = σ tr s2(x, σ)`, so that

    log q_low(x(low)) = log q_high(x(high)) − ∫ σ tr s2(x(σ), σ) dσ        from low to high,

and q_high is nearly Gaussian. With a head for s2 the trace comes with the score.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor

from datasets.seeds import generator_of
from inference.arguments import points_of, positive_number, whole_number
from inference.levels import HasScores, scores_at
from inference.priors import GaussianPrior, noise_range, prior_for, prior_of
from linalg import Jacobian
from losses.perturbation import noise_level
from models import ScoreModel, Scores

__all__ = ["Trace", "bits_per_entry", "dequantised", "log_likelihood"]

Trace = Literal["s2", "hutchinson", "jacobian"]

TraceOf = Callable[[Scores, Tensor], tuple[Tensor, Tensor]]
"""s1 and the trace of s2, of points `(B, D)`: `(B, D)` and `(B,)`."""

TOLERANCE = 1e-6
PROBES = 8
BATCH = 2**18  # entries of the points that are solved for at a time
EXACT_UP_TO = 64  # dimension up to which the trace of the Jacobian is taken exactly where there is no s2
GAUSSIAN_FROM = 100.0  # standard deviations of a density, from which on it is as good as Gaussian with the noise


@torch.no_grad()
def log_likelihood(
    model: HasScores,
    x: Tensor,
    *,
    sigmas: tuple[float, float] | None = None,
    prior: GaussianPrior | None = None,
    trace: Trace | None = None,
    probes: int = PROBES,
    tolerance: float = TOLERANCE,
    seed: int | None = None,
) -> Tensor:
    """`log q(x)` of the density at the lowest noise level, in nats: a density in the units of x.

    Args:
        model: has scores at every level between the two.
        x: points `(B, D)`, in any form that `Scores.points` takes.
        sigmas: the lowest and the highest noise level; by default those of the model, and of an exact density 0 and a
            hundred times its largest standard deviation.
        prior: of the clean points, which gives the density at the highest level; by default
            `inference.priors.prior_of` the model. At a highest level that is not far wider than the data, the error of
            this Gaussian is in the result.
        trace: of s2. `"s2"`: as the scores give it, one call of the network a step; `"jacobian"`: exactly, of the
            Jacobian of s1, by D products; `"hutchinson"`: its estimate by `probes` products, the same along the path.
            By default s2 where there is one, else the Jacobian up to D = 64, else Hutchinson's estimate.
        probes: of Hutchinson's estimate.
        tolerance: of each step of the solver (Dormand and Prince's of order 5): of `log q/D`, in nats, and of each
            entry of x over `√(σ² + v)`, v the mean variance of the prior. For bits an entry of images 1e-4 is enough.
        seed: of the probes.

    Returns:
        `(B,)`; without gradients. The answer at a point does not depend on the others, to the tolerance.

    Raises:
        ValueError: where an argument is not what is said above; of an exact density with edges, which has no scores at
            σ = 0, where `sigmas` does not begin above.

    Source: Song et al., ICLR 2021, appendix D; Chen et al., *FFJORD*, for Hutchinson's estimate, Grathwohl et al., ICLR
        2019.
    """
    if sigmas is not None and (not isinstance(sigmas, Sequence) or len(sigmas) != 2):
        raise ValueError(f"sigmas is {sigmas!r}; the lowest and the highest level are expected")
    low, high = _range_of(model) if sigmas is None else (noise_level(sigmas[0], zero=True), noise_level(sigmas[1]))
    if not low < high:
        raise ValueError(f"sigmas is {(low, high)}; the lowest and the highest level are expected, in this order")
    positive_number("tolerance", tolerance)
    whole_number("probes", probes, least=1)
    scores = scores_at(model, low)
    x = points_of(scores, x, "x")
    prior = prior_for(model, x, prior)
    kind = _trace_of(scores, x.shape[1], trace)
    trace_of = TRACES.get(kind)
    if trace_of is None:
        signs = torch.randint(2, (x.shape[1], probes), generator=generator_of(seed, x.device), device=x.device) * 2 - 1
        trace_of = partial(_by_probes, signs.to(x))
    if not len(x):
        return x.new_empty(0)
    parts = x.split(max(1, BATCH // x.shape[1]))
    return torch.cat([_solved(model, part, low, high, prior, trace_of, tolerance) for part in parts])


def bits_per_entry(log_density: Tensor, dimension: int, spacing: float) -> Tensor:
    """Bits an entry of discrete points, from the density of uniformly dequantised ones.

    Entries take numbers a `spacing` apart, and are spread over the interval of that length around them by uniform noise
    (`dequantised`). Then `log P(x) ≥ E log q(x + u) + D log spacing`: the second term turns a density in the units of
    the data into a probability, and is what differs between data in [0, 1] and in [−1, 1].

    Args:
        log_density: `log q(x + u)`, `(B,)`, in nats, as `log_likelihood` gives it.
        dimension: D.
        spacing: of the numbers that an entry takes, such as `(white − black)/255`.

    Returns:
        `−log₂ P(x)/D`, at most, `(B,)`.

    Source: Theis, van den Oord and Bethge, *A note on the evaluation of generative models*, ICLR 2016.
    """
    return -(log_density / dimension + math.log(positive_number("spacing", spacing))) / math.log(2)


def dequantised(x: Tensor, spacing: float, generator: torch.Generator | None = None) -> Tensor:
    """x with uniform noise of the length `spacing` around each entry, see `bits_per_entry`."""
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return x + spacing * (noise - 0.5)


def _range_of(model: HasScores) -> tuple[float, float]:
    if isinstance(model, ScoreModel):
        return noise_range(model)
    prior = prior_of(model, torch.empty(0, dtype=torch.float64))
    return 0.0, GAUSSIAN_FROM * float(prior.variances.max().sqrt())


def _trace_of(scores: Scores, dimension: int, asked: Trace | None) -> Trace:
    if asked is None:
        return "s2" if scores.s2 is not None else "jacobian" if dimension <= EXACT_UP_TO else "hutchinson"
    if asked not in ("s2", "hutchinson", "jacobian"):
        raise ValueError(f"trace is {asked!r}; s2, jacobian or hutchinson is expected")
    if asked == "s2" and scores.s2 is None:
        raise ValueError("the scores have no s2; trace='jacobian' or 'hutchinson' takes the Jacobian of s1")
    return asked


def _by_s2(scores: Scores, x: Tensor) -> tuple[Tensor, Tensor]:
    s1, s2 = scores(x)
    assert s2 is not None  # checked before
    return s1, s2.trace()


def _by_jacobian(scores: Scores, x: Tensor) -> tuple[Tensor, Tensor]:
    return scores.s1(x), Jacobian(scores.s1, x).trace()


def _by_probes(signs: Tensor, scores: Scores, x: Tensor) -> tuple[Tensor, Tensor]:
    return scores.s1(x), Jacobian(scores.s1, x).quadratic(signs.expand(len(x), -1, -1)).mean(1)


TRACES: dict[Trace, TraceOf] = {"s2": _by_s2, "jacobian": _by_jacobian}


def _solved(
    model: HasScores,
    x: Tensor,
    low: float,
    high: float,
    prior: GaussianPrior,
    trace_of: TraceOf,
    tolerance: float,
) -> Tensor:
    """The integral, in u with `σ = s sinh u`, which is smooth at 0 and logarithmic far out; s is the lowest level, or
    the standard deviation of the data where that is 0."""
    from torchdiffeq import odeint  # with scipy behind it a quarter of a second, at every start of the program

    dimension = x.shape[1]
    variance = float(prior.covariance.trace()) / dimension
    unit = low or variance**0.5

    def slope(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        sigma = min(max(unit * math.sinh(float(u)), low), high)
        rate = unit * math.cosh(float(u)) * sigma
        points = state[0] * (sigma**2 + variance) ** 0.5
        s1, trace = trace_of(scores_at(model, sigma), points)
        speed = sigma * unit * math.cosh(float(u)) / (sigma**2 + variance)
        return -rate * s1 / (sigma**2 + variance) ** 0.5 - speed * state[0], rate * trace / dimension

    def norm(errors: tuple[Tensor, Tensor]) -> Tensor:
        """The largest error of a point, root mean square, or of its density."""
        return torch.maximum(errors[0].square().mean(1).sqrt().max(), errors[1].abs().max())

    ends = torch.tensor([math.asinh(low / unit), math.asinh(high / unit)], dtype=torch.float64)
    begin = x / (low**2 + variance) ** 0.5, x.new_zeros(len(x))
    path, integral = odeint(
        slope, begin, ends.to(x.device), rtol=0.0, atol=tolerance, method="dopri5", options={"norm": norm}
    )
    far = path[-1] * (high**2 + variance) ** 0.5
    return prior.log_prob(far, high) - dimension * cast(Tensor, integral)[-1]
