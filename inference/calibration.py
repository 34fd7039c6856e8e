"""Is a predicted posterior covariance right? Figures over a test set that need no ground truth but x itself.

With r = x − E[x|x̃], every figure compares r with the covariance predicted at x̃: over the whole test set the
mean of rrᵀ is that of the true covariance.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import losses
from datasets import ImageData
from inference.denoising import noisy_batches
from inference.jacobian import jacobian_rows

__all__ = ["Predictions", "calibration_figure", "jacobian_predictions", "predictions"]

LEVELS = {"50": 0.6744897501960817, "90": 1.6448536269514722, "95": 1.959963984540054}
COMPONENTS = 10


@dataclass
class Predictions:
    """Residuals and predicted covariances over a test set, as far as the figures need them.

    Attributes:
        squared_errors: r², `(N, D)`.
        variances: the predicted ones, `(N, D)`.
        eigenvalues: the largest predicted ones, `(N, k)`, where components were asked for.
        projections: of r on their directions, `(N, k)`.
    """

    squared_errors: list[Tensor] = field(default_factory=list)
    variances: list[Tensor] = field(default_factory=list)
    eigenvalues: list[Tensor] = field(default_factory=list)
    projections: list[Tensor] = field(default_factory=list)

    def add(self, residual: Tensor, variances: Tensor, components: tuple[Tensor, Tensor] | None = None) -> None:
        """Takes up a batch: r and variances `(B, D)`, eigenvalues `(B, k)` and directions `(B, D, k)`."""
        self.squared_errors.append(residual.square().cpu())
        self.variances.append(variances.cpu())
        if components is not None:
            values, directions = components
            self.eigenvalues.append(values.cpu())
            self.projections.append((directions.mT @ residual[:, :, None])[:, :, 0].cpu())

    def figures(self) -> dict:
        """The figures of `metrics.json`.

        Returns:
            `trace_ratio`: mean ‖r‖² / mean tr Cov, 1 for the true covariance;
            `negative_variances`: the share of predicted variances below zero;
            `coverage_50`, `_90`, `_95`: the share of entries within the central interval of that level (a
            negative variance covers nothing);
            `captured_1`, `_5`, `_10`: the share of Σ‖r‖² inside the span of the top k predicted directions;
            `component_ratios`: for each of the first five, mean squared projection / mean eigenvalue.
        """
        squared, variances = torch.cat(self.squared_errors), torch.cat(self.variances)
        energy = squared.sum(dtype=torch.float64)
        found = {
            "trace_ratio": float(energy / variances.sum(dtype=torch.float64)),
            "negative_variances": float((variances < 0).float().mean()),
        }
        for level, width in LEVELS.items():
            found[f"coverage_{level}"] = float((squared <= width**2 * variances).float().mean())
        if self.eigenvalues:
            eigenvalues, projected = torch.cat(self.eigenvalues), torch.cat(self.projections).square()
            for k in (1, 5, 10):
                if k <= projected.shape[1]:
                    found[f"captured_{k}"] = float(projected[:, :k].sum(dtype=torch.float64) / energy)
            found["component_ratios"] = (projected[:, :5].mean(0) / eigenvalues[:, :5].mean(0)).tolist()
        return found

    def bins(self, count: int = 10) -> tuple[Tensor, Tensor]:
        """Mean predicted variance and mean squared error in bins of equal count, `(count,)` each."""
        variances, order = torch.cat(self.variances).flatten().sort()
        squared = torch.cat(self.squared_errors).flatten()[order]
        return tuple(
            torch.stack([part.mean(dtype=torch.float64) for part in values.tensor_split(count)])
            for values in (variances, squared)
        )


@torch.no_grad()
def predictions(model: nn.Module, data: ImageData, sigma: float, seed: int) -> Predictions:
    """The predictions of a trained (s1, s2) over the whole of `data`, with components where s2 is low-rank."""
    found = Predictions()
    for p in noisy_batches(data, sigma, seed):
        s1, s2 = model(p.inputs)
        covariance = losses.posterior_covariance(s2, sigma)
        residual = p.clean - losses.posterior_mean(s1, p.inputs, sigma)
        components = None if s2.factor is None else covariance.eigh_top(min(COMPONENTS, residual.shape[1]))
        found.add(residual, covariance.full_diagonal(), components)
    return found


def jacobian_predictions(
    s1: Callable[[Tensor], Tensor],
    data: ImageData,
    sigma: float,
    seed: int,
    seconds: float = 10,
    components: bool = True,
) -> Predictions:
    """What a user without s2 would take: `σ⁴ ∇s1 + σ² I` by automatic differentiation (`torch.func`), its
    symmetric part, on as many images as `seconds` allow: none, where one takes longer."""
    found = Predictions()
    deadline = time.monotonic() + seconds
    for p in noisy_batches(data, sigma, seed, batch_size=1):
        rows = []
        for block in jacobian_rows(s1, p.inputs):
            if time.monotonic() > deadline:
                return found
            rows.append(block[0])
        with torch.no_grad():
            residual = p.clean - losses.posterior_mean(s1(p.inputs), p.inputs, sigma)
        matrix = torch.cat(rows)
        covariance = sigma**4 * (matrix + matrix.mT) / 2
        covariance.diagonal().add_(sigma**2)
        top = None
        if components:
            values, vectors = torch.linalg.eigh(covariance)
            top = values.flip(0)[None, :COMPONENTS], vectors.flip(1)[None, :, :COMPONENTS]
        found.add(residual, covariance.diagonal()[None], top)
    return found


def calibration_figure(by_name: dict[str, Predictions]) -> Figure:
    """Predicted variance against squared error, in ten bins of equal count; the diagonal is perfect."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    highest = 0.0
    for name, found in by_name.items():
        predicted, observed = found.bins()
        axis.plot(predicted.numpy(), observed.numpy(), "o-", label=name)
        highest = max(highest, float(predicted.max()), float(observed.max()))
    axis.plot([0, highest], [0, highest], color="gray", linewidth=1, linestyle="--", zorder=0)
    axis.set(xlabel="predicted variance", ylabel="squared error", title="Calibration: ten bins of equal count")
    axis.legend()
    return figure
