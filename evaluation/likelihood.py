"""How likely clean points are. Under the predicted posteriors, `N(x; E[x|x̃], C)`: one number for mean and covariance
together, of which the true covariance has on average the best, whether or not the posterior is Gaussian. And under the
density that a model of a range of noise levels has at its lowest."""

import math

import torch
from torch import Tensor

import datasets
import inference
from datasets import ImageData
from evaluation.denoising import noisy_batches
from inference.arguments import noise_of
from linalg import DiagonalPlusLowRank, SymmetricMatrix
from models import ScoreModel, Scores

__all__ = ["density_metrics", "isotropic_log_score", "ks_distance", "log_score", "log_scores"]

WORK = 5e12  # images times D³: all of MNIST, 172 of CIFAR-10
FEWEST = 50
ENTRIES, MOST = 2**14, 100  # of the images whose likelihood is taken, and how many at most
TOLERANCE = 1e-4
VALUES = 256


def log_score(residual: Tensor, covariance: SymmetricMatrix) -> tuple[Tensor, Tensor]:
    """The logarithm of the density `N(r; 0, C)` at each residual, over D.

    By `C = AAᵀ`: `log N(r; 0, C) = −½ (‖A⁻¹r‖² + log det C + D log 2π)`. To rounding, below 1e-5 nats an entry, but for
    tapered matrices above D = 4096, of which the determinant is an estimate (see `linalg.logdet_estimate`): on the
    networks of `checkpoints` it would be off by 0.001 to 0.008 nats an entry, about alike for all images of a σ.

    Args:
        residual: r, `(B, D)`.
        covariance: C, B of them, positive definite.

    Returns:
        `(B,)`, in nats an entry; and `A⁻¹r`, `(B, D)`, standard normal where C is right and r Gaussian.

    Raises:
        NotImplementedError: where C is known by its products alone.
        ValueError: where C cannot be taken as positive definite, or r is not B vectors of D entries.

    Source: Gneiting and Raftery, *Strictly proper scoring rules*, J. Am. Stat. Assoc. 2007.
    """
    expected = len(covariance), covariance.dimension
    if residual.shape != expected:
        raise ValueError(
            f"residual has shape {tuple(residual.shape)}; {expected} is expected, a vector for each matrix"
        )
    white, logdet = covariance.whiten(residual)
    dimension = residual.shape[1]
    return -(white.square().sum(1) + logdet + dimension * math.log(2 * math.pi)) / (2 * dimension), white


def isotropic_log_score(mse: float) -> float:
    """The mean log score of the best covariance `vI`, alike for all points, in nats an entry: `−½ (log 2πv + 1)`.

    Args:
        mse: the mean squared error an entry, which the best v equals.
    """
    return -(math.log(2 * math.pi * mse) + 1) / 2 if mse > 0 else math.inf


def ks_distance(values: Tensor) -> float:
    """The Kolmogorov–Smirnov distance of a sample, of any shape, to the standard normal distribution: the largest
    difference of the two distribution functions, from 0 to 1; by chance alone about 0.9/√n for n values.

    Raises:
        ValueError: where there is no value.
    """
    if not values.numel():
        raise ValueError("values are empty; one at least is expected")
    at_values = torch.special.ndtr(values.flatten().sort().values)
    steps = torch.linspace(0, 1, len(at_values) + 1, dtype=torch.float64).to(at_values)
    return float(torch.maximum(at_values - steps[:-1], steps[1:] - at_values).max())


@torch.no_grad()
def log_scores(scores: Scores, data: ImageData, seed: int) -> dict[str, float | int]:
    """The log score of predicted covariances over a test set, beside what simpler ones reach on the same residuals.

    Variances below the floor of `inference.posterior` are raised to it, as in its `log_prob`.

    Args:
        scores: both orders, at a σ above 0.
        data: the test set. Its first images alone are taken where a covariance that is neither diagonal nor of low rank
            would take long: as many as factors of D³ operations can be had at 5·10¹² in all, 50 at least.
        seed: of the noise.

    Returns:
        `log_score`, in nats an entry; `log_score_diagonal`, that of the predicted variances alone;
        `log_score_isotropic`, that of the best single variance (see `isotropic_log_score`); `log_score_images`, of how
        many images; `ks_whitened`, the `ks_distance` of all entries of `A⁻¹r`, `C = AAᵀ`. A is the root of
        `SymmetricMatrix.whiten`: of a tapered matrix the Cholesky factor, so that each entry of r is compared with its
        mean and variance given those before it.

    Raises:
        ValueError: where there is no s2, or the scores are at σ = 0.
        UserError: where an image file cannot be read.
    """
    sums, white, taken = torch.zeros(3, dtype=torch.float64), [], 0
    for p in noisy_batches(data, noise_of(scores), seed):
        posterior = inference.posterior(scores, p.inputs)
        count = _affordable(posterior.covariance, len(data))
        rows = slice(count - taken)
        covariance, _ = posterior.covariance[rows].clamp(posterior.floor)
        residual = (p.clean - posterior.mean)[rows]
        full, normal = log_score(residual, covariance)
        diagonal, _ = log_score(residual, DiagonalPlusLowRank(covariance.diagonal()))
        sums += torch.stack([full, diagonal, residual.square().mean(1)]).sum(1).double().cpu()
        white.append(normal.cpu())
        taken += len(residual)
        if taken == count:
            break
    predicted, of_diagonal, mse = (sums / taken).tolist()
    return {
        "log_score": predicted,
        "log_score_diagonal": of_diagonal,
        "log_score_isotropic": isotropic_log_score(mse),
        "log_score_images": taken,
        "ks_whitened": ks_distance(torch.cat(white)),
    }


def _affordable(covariance: SymmetricMatrix, images: int) -> int:
    """Of so many images, for how many `log_scores` takes the log score."""
    if covariance.products_only:
        raise ValueError("s2 is None; scores with a second order are expected")
    if isinstance(covariance, DiagonalPlusLowRank):
        return images
    return min(images, max(FEWEST, int(WORK / covariance.dimension**3)))


def density_metrics(model: ScoreModel, data: ImageData, seed: int) -> dict[str, float | int]:
    """The likelihood of the first test images at the lowest noise level of a model, uniformly dequantised, see
    `inference.log_likelihood`: with the trace of s2 where there is one. Below the highest level the density is taken
    for a Gaussian with the mean and standard deviation of the data, alike in all entries.

    Args:
        model: of a range of levels, trained here.
        data: the test set.
        seed: of the noise and of the probes.

    Returns:
        `log_likelihood`, in nats an image; `bits_per_entry`, of pixels of 256 values; `likelihood_images`, of how many.

    Raises:
        UserError: where an image file cannot be read.
    """
    count = min(len(data), MOST, max(2, ENTRIES // math.prod(data.shape)))
    x = next(datasets.batches(data, torch.arange(count)[None]))
    low, high = datasets.value_range(data.shape[0], data.limits)
    spacing = (high - low) / (VALUES - 1)
    spread = inference.dequantised(x.cpu(), spacing, datasets.generator_of(seed)).to(x)
    nats = inference.log_likelihood(model, spread, tolerance=TOLERANCE, seed=seed)
    bits = inference.bits_per_entry(nats, x.shape[1], spacing)
    return {
        "log_likelihood": float(nats.mean()),
        "bits_per_entry": float(bits.mean()),
        "likelihood_images": count,
    }
