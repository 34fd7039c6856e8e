"""Is a predicted posterior covariance right? Metrics over a test set that need no ground truth but x itself.

With r = x − E[x|x̃], every metric compares r with the covariance predicted at x̃: over the whole test set the mean of
rrᵀ is that of the true covariance.
"""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

import inference
import linalg
from datasets import ImageData
from evaluation.denoising import noisy_batches
from inference.arguments import noise_of, number_from_zero, whole_number
from linalg import DiagonalPlusLowRank
from models import Scores

__all__ = ["Predictions", "jacobian_predictions", "predictions"]

HALF_WIDTHS = {"50": 0.6744897501960817, "90": 1.6448536269514722, "95": 1.959963984540054}  # of N(0, 1)'s intervals
COMPONENTS = 10


@dataclass
class Predictions:
    """Residuals and predicted covariances over a test set, as far as the metrics need them: a tensor a batch.

    Attributes:
        squared_errors: r², `(B, D)`, in units² of the data.
        variances: the predicted ones, `(B, D)`, in units² of the data.
        eigenvalues: the largest predicted ones, `(B, k)`, in units² of the data, where there are components.
        projections: of r on their directions, `(B, k)`, in units of the data.
    """

    squared_errors: list[Tensor] = field(default_factory=list)
    variances: list[Tensor] = field(default_factory=list)
    eigenvalues: list[Tensor] = field(default_factory=list)
    projections: list[Tensor] = field(default_factory=list)

    def add(self, residual: Tensor, variances: Tensor, components: tuple[Tensor, Tensor] | None = None) -> None:
        """Takes up a batch.

        Args:
            residual: r, `(B, D)`.
            variances: the predicted ones, `(B, D)`.
            components: eigenvalues `(B, k)`, descending, and directions `(B, D, k)`; in every batch or in none.

        Raises:
            ValueError: where the two differ in shape, or this batch has components and the others have none.
        """
        if residual.shape != variances.shape or residual.ndim != 2:
            shapes = f"residual has shape {tuple(residual.shape)}, variances have {tuple(variances.shape)}"
            raise ValueError(f"{shapes}; (B, D) is expected of both")
        if self.variances and (components is None) == bool(self.eigenvalues):
            raise ValueError("components in some of the batches; in every one or in none they are expected")
        self.squared_errors.append(residual.square().cpu())
        self.variances.append(variances.cpu())
        if components is not None:
            values, directions = components
            self.eigenvalues.append(values.cpu())
            self.projections.append((directions.mT @ residual[:, :, None])[:, :, 0].cpu())

    def metrics(self) -> dict[str, float | list[float]]:
        """The calibration part of `metrics.json`; none of it has a unit.

        Returns:
            `trace_ratio`: mean ‖r‖² / mean tr Cov, 1 for the true covariance;
            `negative_variances`: the share of predicted variances below zero;
            `coverage_50`, `_90`, `_95`: the share of entries within the central interval of that level (a
            negative variance covers nothing);
            `captured_1`, `_5`, `_10`: the share of Σ‖r‖² inside the span of the top k predicted directions;
            `component_ratios`: for each of the first five, mean squared projection / mean eigenvalue;
            `correlation_by_pixel`: of predicted variances and squared errors, over all entries;
            `correlation_by_image`: of the logarithms of tr Cov and ‖r‖² of each image.

        Negative variances count as 0 in the correlations, which are NaN where one side is the same everywhere.

        Raises:
            ValueError: where no batch was added.
        """
        self._check()
        squared, variances = torch.cat(self.squared_errors), torch.cat(self.variances)
        energy = squared.sum(dtype=torch.float64)
        metrics: dict[str, float | list[float]] = {
            "trace_ratio": float(energy / variances.sum(dtype=torch.float64)),
            "negative_variances": float((variances < 0).float().mean()),
        }
        for level, width in HALF_WIDTHS.items():
            metrics[f"coverage_{level}"] = float((squared <= width**2 * variances).float().mean())
        if self.eigenvalues:
            eigenvalues, projected = torch.cat(self.eigenvalues), torch.cat(self.projections).square()
            for k in (1, 5, 10):
                if k <= projected.shape[1]:
                    metrics[f"captured_{k}"] = float(projected[:, :k].sum(dtype=torch.float64) / energy)
            metrics["component_ratios"] = (projected[:, :5].mean(0) / eigenvalues[:, :5].mean(0)).tolist()
        variances = variances.clamp(min=0)
        totals = (values.sum(1).clamp(min=torch.finfo(values.dtype).tiny).log() for values in (variances, squared))
        metrics["correlation_by_pixel"] = correlation(variances.flatten(), squared.flatten())
        metrics["correlation_by_image"] = correlation(*totals)
        return metrics

    def bins(self, count: int = 10) -> tuple[Tensor, Tensor]:
        """Entries sorted by predicted variance, in bins of equal count.

        Args:
            count: of bins, from 1 to the number of entries.

        Returns:
            mean predicted variance and mean squared error of each bin, `(count,)` each, in units² of the data.

        Raises:
            ValueError: where no batch was added, or there are fewer entries than bins.
        """
        self._check()
        entries = sum(variances.numel() for variances in self.variances)
        if whole_number("count", count, least=1) > entries:
            raise ValueError(f"count is {count}; at most {entries} bins can be had, one for each entry")
        variances, order = torch.cat(self.variances).flatten().sort()
        squared = torch.cat(self.squared_errors).flatten()[order]
        predicted, observed = (
            torch.stack([part.mean(dtype=torch.float64) for part in values.tensor_split(count)])
            for values in (variances, squared)
        )
        return predicted, observed

    def _check(self) -> None:
        if not self.variances:
            raise ValueError("no predictions; where they come from a Jacobian, more seconds are expected")


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation of two rows of numbers, `(n,)` each; NaN where one of them is constant."""
    x, y = (values - values.mean(dtype=torch.float64).to(values) for values in (x, y))
    products, squares, others = ((a * b).sum(dtype=torch.float64) for a, b in ((x, y), (x, x), (y, y)))
    return float(products / (squares * others).sqrt())


@torch.no_grad()
def predictions(scores: Scores, data: ImageData, seed: int) -> Predictions:
    """What scores with a second order predict over the whole of `data`.

    Args:
        scores: both orders, at a σ above 0.
        data: the test set.
        seed: of the noise.

    Returns:
        variances, and ten components (D, where that is less) unless the covariance is diagonal.

    Raises:
        ValueError: where there is no s2, or the scores are at σ = 0.
        UserError: where an image file cannot be read.
    """
    collected = Predictions()
    for p in noisy_batches(data, noise_of(scores), seed):
        s1, s2 = scores(p.inputs)
        if s2 is None:
            raise ValueError("s2 is None; scores with a second order are expected, or see jacobian_predictions")
        covariance = inference.posterior_covariance(s2, scores.sigma)
        residual = p.clean - inference.posterior_mean(s1, p.inputs, scores.sigma)
        diagonal = isinstance(covariance, DiagonalPlusLowRank) and covariance.rank == 0
        components = None if diagonal else covariance.eigh_top(min(COMPONENTS, residual.shape[1]))
        collected.add(residual, covariance.diagonal(), components)
    return collected


def jacobian_predictions(
    scores: Scores, data: ImageData, seed: int, seconds: float = 10, components: bool = True
) -> Predictions:
    """What a user without s2 would take: `σ⁴ ∇s1 + σ² I` by automatic differentiation, its symmetric part.

    Args:
        scores: of which s1 alone is used.
        data: the test set.
        seed: of the noise.
        seconds: for how long, 0 or more; an image that is not done by then is left out.
        components: whether the ten largest are taken as well.

    Returns:
        the predictions of as many images as the time allowed, a batch each: none, where one takes longer.

    Raises:
        ValueError: where the scores are at σ = 0, or `seconds` is below 0.
        UserError: where an image file cannot be read.
    """
    collected = Predictions()
    deadline = time.monotonic() + number_from_zero("seconds", seconds)
    for p in noisy_batches(data, noise_of(scores), seed, batch_size=1):
        blocks = []
        for block in linalg.jacobian_rows(scores.s1, p.inputs):
            if time.monotonic() > deadline:
                return collected
            blocks.append(block)
        with torch.no_grad():
            residual = p.clean - inference.posterior_mean(scores.s1(p.inputs), p.inputs, scores.sigma)
        jacobian = torch.cat(blocks, dim=1)
        s2 = linalg.Dense((jacobian + jacobian.mT) / 2)
        covariance = inference.posterior_covariance(s2, scores.sigma)
        top = covariance.eigh_top(min(COMPONENTS, residual.shape[1])) if components else None
        collected.add(residual, covariance.diagonal(), top)
    return collected
