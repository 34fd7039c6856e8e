"""Learned scores against the exact ones of a synthetic density."""

import torch

import datasets
import linalg
from datasets import DensityData
from evaluation.denoising import noisy_batches
from inference.arguments import noise_of, whole_number
from models import Scores

__all__ = ["score_errors"]


@torch.no_grad()
def score_errors(scores: Scores, data: DensityData, seed: int, count: int) -> dict[str, float]:
    """Errors against the exact scores of the noisy density, over test points.

    Args:
        scores: at the noise level `scores.sigma`; where they have no second order, the Jacobian of s1 is taken for it.
        data: points of the density.
        seed: of the noise.
        count: how many points at least, 1 or more: batches of 500 are taken until there are so many, or all.

    Returns:
        `s1_error`: mean ‖s1 − exact‖², in 1/units² of the data; `s2_error`: mean squared Frobenius error, and
        `s2_diagonal_error`: that of the diagonals alone, both in 1/units⁴; where there is an s3 `s3_error`: mean
        squared error of `s3(v, v, ·)` along random v ~ N(0, I), in 1/units⁶; and each with `relative_` before it,
        divided by the mean of the exact one's square.

    Raises:
        ValueError: where the scores are at σ = 0, or an argument is not what is said above.
    """
    whole_number("count", count, least=1)
    names = ["s1", "s2", "s2_diagonal"] + (["s3"] if scores.s3 is not None else [])
    generator = datasets.generator_of(datasets.derived_seed(seed, 3))  # not that of the noise
    totals = torch.zeros(len(names), 2, dtype=torch.float64)
    seen = 0
    for p in noisy_batches(data, noise_of(scores), seed, batch_size=500):
        if seen >= count:
            break
        seen += len(p.clean)
        s1, s2 = scores(p.inputs)
        dense = (linalg.jacobian(scores.s1, p.inputs, rows=10) if s2 is None else s2.dense()).cpu()
        x = p.inputs.cpu()
        exact_s1, exact_s2 = data.density.s1(x, scores.sigma), data.density.s2(x, scores.sigma)
        diagonals = (matrix.diagonal(dim1=1, dim2=2) for matrix in (dense, exact_s2))
        pairs = [(s1.cpu(), exact_s1), (dense, exact_s2), tuple(diagonals)]
        if scores.s3 is not None:
            v = torch.randn(x.shape, generator=generator)
            learned_s3 = scores.s3(p.inputs).contract(v.to(p.inputs)).cpu()
            pairs.append((learned_s3, data.density.s3(x, scores.sigma).contract(v)))
        totals += torch.tensor(
            [
                [float(values.square().sum(dtype=torch.float64)) for values in (learned - exact, exact)]
                for learned, exact in pairs
            ],
            dtype=torch.float64,
        )
    metrics = {}
    for name, (error, square) in zip(names, totals.tolist(), strict=True):
        metrics[f"{name}_error"] = error / seen
        metrics[f"relative_{name}_error"] = error / square
    return metrics
