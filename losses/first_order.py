"""Denoising score matching: losses whose minimiser is s1 = ∇ log q_σ."""

from torch import Tensor

from losses.perturbation import Perturbation, weighted_mean

__all__ = ["dsm", "dsm_vr"]


def dsm(s1: Tensor, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """`mean ‖s1(x₊) + z/σ‖²`, denoising score matching.

    Args:
        s1: scores at `p.inputs`, shape `(n·B, D)`.
        p: the perturbed batch.
        weight: of each of the B points, `(B,)`; a function of its noise level.

    Returns:
        a scalar: the squared norm summed over D, averaged over the batch, in units of 1/σ².

    Source: Vincent, *A connection between score matching and denoising autoencoders*, 2011.
    """
    return weighted_mean((p.at("plus", s1) + p.noise / p.sigma).square().sum(1), weight)


def dsm_vr(s1: Tensor, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """`mean ‖s1(x₊) + z/σ‖² − 2 s1(x)·z/σ − ‖z‖²/σ²`: DSM with a control variate that is zero on average
    (up to a constant) and cancels the terms that explode as σ → 0.

    Args:
        s1: scores at `p.inputs`, shape `(n·B, D)`, the clean points among them.
        p: the batch, perturbed with `with_clean` or `antithetic`.
        weight: see `dsm`.

    Returns:
        a scalar, `dsm` less `D/σ²` on average.

    Raises:
        ValueError: where `s1` does not reach the clean points.

    Source: Meng et al. 2021, section 4 (DSM-VR); Wang et al., AISTATS 2020.
    """
    target = p.noise / p.sigma
    at_noisy = (p.at("plus", s1) + target).square().sum(1)
    at_clean = 2 * (p.at("clean", s1) * target).sum(1) + target.square().sum(1)
    return weighted_mean(at_noisy - at_clean, weight)
