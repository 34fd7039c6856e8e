"""Neural posterior principal components: the columns of a factor are trained as directions, one after the other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from linalg import DiagonalPlusLowRank, SymmetricMatrix, as_matrix
from losses.perturbation import Perturbation, weighted_mean

__all__ = ["nppc"]


def nppc(
    s1: Tensor, s2: SymmetricMatrix | Tensor, p: Perturbation, weight: Tensor | None = None, progress: float = 1.0
) -> Tensor:
    """`−Σ_k (u_kᵀe)²/‖e‖² + λ Σ_k (‖w_k‖² − (u_kᵀe)²)²/‖e‖⁴ + ½ ‖d − e∘e‖²/(Σ_i d_i)²`, over σ⁴.

    `e = z + σ s1(x₊)` is held fixed, and w_k are the columns of `C/σ² = I + σ² s2`, `u_k = w_k/‖w_k‖`. The first term
    turns the columns to the principal components, and the second, in which u_k is held fixed too, makes their squared
    lengths the variances along them. d is the diagonal of C/σ², in the third term of α alone, weighted by the predicted
    trace: what the columns leave of each entry's variance goes to α. The weights by ‖e‖ are the paper's; they move the
    minimiser, away from the points of large error.

    Args:
        s1: scores at `p.inputs`, `(n·B, D)`. No gradient reaches it.
        s2: at the first B of `p.inputs`, with orthogonal columns (`linalg.orthogonal_columns`).
        p: the perturbed batch.
        weight: of each of s2's points, `(B,)`; a function of its noise level.
        progress: λ, the share of the training that is done: directions come first.

    Returns:
        a scalar, the mean over the batch, in units of 1/σ⁴ times those of the weight.

    Raises:
        ValueError: where s2 is not diagonal plus low rank.

    Source: Nehme, Yair, Michaeli, *Uncertainty Quantification via Neural Posterior Principal Components*, NeurIPS 2023,
        equations 6 to 9, whose λ rises likewise; the third term is ours, the paper having no diagonal.
    """
    covariance = p.sigma**2 * p.at("plus", as_matrix(s2)) + 1
    if not isinstance(covariance, DiagonalPlusLowRank):
        raise ValueError(f"s2 is a {type(s2).__name__}; a DiagonalPlusLowRank with orthogonal columns is expected")
    e = (p.noise + p.sigma * p.at("plus", s1)).detach()
    lengths = covariance.beta.square().sum(1)
    projected = (F.normalize(covariance.beta, dim=1) * e[:, :, None]).sum(1).square()
    energy = e.square().sum(1)
    directions = -projected.sum(1) / energy
    variances = (lengths - projected.detach()).square().sum(1) / energy.square()
    diagonal = covariance.alpha + covariance.beta.detach().square().sum(2)
    entries = (diagonal - e.square()).square().sum(1) / (2 * diagonal.detach().sum(1).square())
    units = torch.as_tensor(p.sigma).flatten() ** 4
    return weighted_mean((directions + progress * variances + entries) / units.to(e), weight)
