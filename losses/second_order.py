"""Denoising score matching of the second order: losses whose minimiser is s2 = ∇² log q_σ.

Every loss takes s2 as a matrix of `linalg`, or dense as a tensor `(n·B, D, D)`. A loss regresses some matrix M on a
target `T(v) = (vvᵀ − I)/σ²`, whose mean given x̃ is what M is to become; `½‖M − T‖²` without its constant `½‖T‖²` is
`½‖M‖² − ⟨T, M⟩`. `ψ = s2 + s1s1ᵀ` is never formed: `‖ψ‖² = ‖s2‖² + 2 s1ᵀs2s1 + ‖s1‖⁴`.
"""

import torch
from torch import Tensor

from linalg import SymmetricMatrix, as_matrix
from losses.perturbation import Perturbation, weighted_mean

__all__ = ["d2sm", "d2sm_centered", "d2sm_centered_vr", "d2sm_vr", "jacobian_matching"]

Matrix = SymmetricMatrix | Tensor


def d2sm(s1: Tensor, s2: Matrix, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """`½ ‖ψ(x₊) − (zzᵀ − I)/σ²‖²`, `ψ = s2 + s1s1ᵀ`, without its constant: denoising score matching of the
    second order.

    Args:
        s1: scores at `p.inputs`, `(n·B, D)`. The gradient reaches it.
        s2: at the first B of `p.inputs` or at all.
        p: the perturbed batch.
        weight: of each of s2's points, `(len(s2),)`; a function of its noise level.

    Returns:
        a scalar, the mean over the batch, in units of 1/σ⁴, times those of the weight.

    Source: Meng et al. 2021, theorem 1 and section 3 (D2SM).
    """
    squared_norm, on_target = _psi(p.at("plus", s1), p.at("plus", as_matrix(s2)), p)
    return weighted_mean(squared_norm / 2 - on_target, None if weight is None else p.at("plus", weight))


def d2sm_vr(s1: Tensor, s2: Matrix, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """`½ [‖ψ(x₊)‖² + ‖ψ(x₋)‖² − 2⟨(zzᵀ − I)/σ², ψ(x₊) + ψ(x₋) − 2ψ(x)⟩]`: twice `d2sm`, over mirrored noise and
    with a control variate, so that its variance stays bounded as σ → 0.

    Args:
        s1, s2: at all of `p.inputs`.
        p: the batch, perturbed with `antithetic`.
        weight: see `d2sm`.

    Returns:
        a scalar in the units of `d2sm`.

    Raises:
        ValueError: where the heads do not reach the mirrored and the clean points.

    Source: Meng et al. 2021, section 4 (D2SM-VR).
    """
    squared_norm, on_target = _psi(s1, as_matrix(s2), p)
    if weight is not None:
        squared_norm, on_target = weight * squared_norm, weight * on_target
    noisy = sum(p.at(point, squared_norm) / 2 - p.at(point, on_target) for point in ("plus", "minus"))
    return (noisy + 2 * p.at("clean", on_target)).mean()


def d2sm_centered(s1: Tensor, s2: Matrix, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """`½ ‖s2(x₊) − (eeᵀ − I)/σ²‖²`, `e = z + σ s1(x₊)` held fixed, without its constant.

    The residual `x − E[x|x̃] = −σe` takes the place of the raw noise. Where a denoiser works it is many times
    smaller, and so is the loss's variance. The minimiser is that of `d2sm` when s1 is exact.

    Args:
        s1: scores at `p.inputs`, `(n·B, D)`. No gradient reaches it.
        s2: at the first B of `p.inputs` or at all.
        p: the perturbed batch.
        weight: of each of s2's points, `(len(s2),)`; a function of the point, not of its noise, so that the
            minimiser stays.

    Returns:
        a scalar in the units of `d2sm`, times those of the weight.

    Source: Lu et al., ICML 2022, arXiv 2206.08265 (the error-bounded objective), for noise that is Gaussian.
    """
    at_noisy = p.at("plus", as_matrix(s2))
    e = (p.noise + p.sigma * p.at("plus", s1)).detach()
    squared_norm, on_target = _norm_and_target(at_noisy, e, p)
    value = squared_norm / 2 - on_target
    return (value if weight is None else p.at("plus", weight) * value).mean()


def d2sm_centered_vr(s1: Tensor, s2: Matrix, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """Twice `d2sm_centered`, over mirrored noise and with a control variate, for small σ:
    `½ ‖s2(x₊) − T(e₊)‖² + ½ ‖s2(x₋) − T(e₋)‖² + 2⟨T(z), s2(x)⟩`, `T(v) = (vvᵀ − I)/σ²`, without its constants.

    `e₊ = z + σ s1(x₊)` and `e₋ = −z + σ s1(x₋)` are held fixed. As σ → 0 both targets become `T(z)`, of the size of
    1/σ²; its mean given x is zero, so the last term changes nothing on average, and it leaves of
    `⟨T(z), s2(x₊) + s2(x₋) − 2 s2(x)⟩` a second difference, which is of order one.

    Args:
        s1, s2, weight: see `d2sm_centered`, at all of `p.inputs`.
        p: the batch, perturbed with `antithetic`.

    Returns:
        a scalar in the units of `d2sm`, times those of the weight.

    Raises:
        ValueError: where the heads do not reach the mirrored and the clean points.

    Source: ours; the two ideas it joins are those of `d2sm_vr` and `d2sm_centered`.
    """
    s2 = as_matrix(s2)
    e_plus = p.noise + p.sigma * p.at("plus", s1)
    e_minus = -p.noise + p.sigma * p.at("minus", s1)
    squared_norm, on_target = _norm_and_target(s2, torch.cat([e_plus, e_minus, p.noise]).detach(), p)
    if weight is not None:
        squared_norm, on_target = weight * squared_norm, weight * on_target
    noisy = sum(p.at(point, squared_norm) / 2 - p.at(point, on_target) for point in ("plus", "minus"))
    return (noisy + 2 * p.at("clean", on_target)).mean()


def jacobian_matching(s2: Matrix, v: Tensor, product: Tensor, weight: Tensor | None = None) -> Tensor:
    """`½ ‖(s2 − ∇s1) v‖²`: an s2 that is to be the Jacobian of s1, seen through random probes.

    Over probes with `E vvᵀ = I` its mean is `½ ‖s2 − ∇s1‖²` (Frobenius). The noise is not in the target but in the
    probe, and ends where s2 is right. What remains of the Jacobian's own error, s2 averages over the points.

    Args:
        s2: at B points.
        v: a probe for each of them, `(B, D)`, independent of the point and its noise.
        product: `∇s1 v` there, `(B, D)`, held fixed.
        weight: of each of the points, `(B,)`.

    Returns:
        a scalar, the mean over the points, in units of 1/σ⁴.

    Source: ours; for the probes, Hutchinson 1989.
    """
    return weighted_mean((as_matrix(s2).matvec(v) - product.detach()).square().sum(1) / 2, weight)


def _psi(s1: Tensor, s2: SymmetricMatrix, p: Perturbation) -> tuple[Tensor, Tensor]:
    """`‖ψ‖²` and `⟨T(z), ψ⟩` at all points of s2, `(n·B,)` each. All at once: a product for each point by itself, and a
    gradient of the size of s2 for each, cost more."""
    s1, z = s1[: len(s2)], p.noise.repeat(len(s2) // len(p.noise), 1)
    of_z, of_s1 = s2.quadratic(torch.stack([z, s1], dim=2)).unbind(1)
    length = s1.square().sum(1)
    squared_norm, trace = s2.squared_norm_and_trace()
    on_target = of_z - trace + (s1 * z).sum(1).square() - length
    return squared_norm + 2 * of_s1 + length.square(), on_target / p.sigma_power(2, len(s2))


def _norm_and_target(m: SymmetricMatrix, v: Tensor, p: Perturbation) -> tuple[Tensor, Tensor]:
    """`‖M‖²` and `⟨T(v), M⟩`, `(n·B,)` each."""
    squared_norm, trace = m.squared_norm_and_trace()
    return squared_norm, (m.quadratic(v) - trace) / p.sigma_power(2, len(m))
