"""Denoising score matching of the third order: losses whose minimiser is s3 = ∇³ log q_σ.

Every loss takes s3 as a `linalg.SymmetricCP` of order 3, and forms no tensor of D³ entries. Scores of lower order are
held fixed in all of them: no gradient reaches s1 or s2. A loss regresses s3 on a target T whose mean given x̃ is s3;
`½‖s3 − T‖²` without its constant `½‖T‖²` is `½‖s3‖² − ⟨s3, T⟩`.
"""

from torch import Tensor

from linalg import SymmetricCP, SymmetricMatrix, as_matrix
from losses.perturbation import Perturbation, weighted_mean

__all__ = ["d3sm", "d3sm_centered", "d3sm_diagonal", "d3sm_vr", "second_derivative_matching"]

Matrix = SymmetricMatrix | Tensor


def d3sm(s1: Tensor, s2: Matrix, s3: SymmetricCP, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """`½ ‖ψ(x₊) + He(z)/σ³‖²`, `ψ = s3 + 3 sym(s2 ⊗ s1) + s1⊗s1⊗s1` and `He(z) = z⊗z⊗z − 3 sym(I ⊗ z)`, without its
    constants: denoising score matching of the third order.

    `ψ = ∇³q_σ/q_σ`, the mean given x̃ of `∇³N(x̃; x, σ²I)/N`: theorem 2 of the paper, for raw moments, in the noise.

    Args:
        s1: scores at `p.inputs`, `(n·B, D)`.
        s2: at the first B of `p.inputs` or at more.
        s3: likewise.
        p: the perturbed batch.
        weight: of each of s3's points, `(len(s3),)`; a function of its noise level.

    Returns:
        a scalar, the mean over the batch, in units of 1/σ⁶, times those of the weight.

    Source: Meng et al. 2021, theorem 2.
    """
    at_noisy = p.at("plus", s3)
    value = _given_lower(at_noisy, p.at("plus", s1), p.at("plus", as_matrix(s2))) + _hermite(at_noisy, p.noise, p)
    return weighted_mean(value, None if weight is None else p.at("plus", weight))


def d3sm_vr(s1: Tensor, s2: Matrix, s3: SymmetricCP, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """Twice `d3sm`, over mirrored noise. `He(z)` is odd: of `⟨He(z), s3(x₊) − s3(x₋)⟩/σ³` there remains a first
    difference, so that its variance grows with 1/σ⁴ where that of `d3sm` grows with 1/σ⁶. (No value at the clean point
    can help: it would cancel.)

    Args:
        s1, s2, weight: see `d3sm`, at all of `p.inputs`.
        s3: at x₊ and x₋, the first 2B of them.
        p: the batch, perturbed with `antithetic`.

    Returns:
        a scalar in the units of `d3sm`.

    Raises:
        ValueError: where the heads do not reach the mirrored points.

    Source: ours, after Meng et al. 2021, section 4.
    """
    s2 = as_matrix(s2)

    def at(point: str, noise: Tensor) -> Tensor:
        there = p.at(point, s3)
        value = _given_lower(there, p.at(point, s1), p.at(point, s2)) + _hermite(there, noise, p)
        return weighted_mean(value, None if weight is None else p.at(point, weight))

    return at("plus", p.noise) + at("minus", -p.noise)


def d3sm_centered(s1: Tensor, s3: SymmetricCP, p: Perturbation, weight: Tensor | None = None) -> Tensor:
    """`½ ‖s3(x₊) + e⊗e⊗e/σ³‖²`, `e = z + σ s1(x₊)`, without its constant.

    `E[e⊗e⊗e|x̃] = −κ3/σ³ = −σ³ s3` where s1 is exact: there are no lower orders beside s3, and where a denoiser works
    the target is many times smaller than `He(z)/σ³`.

    Args:
        s1: scores at `p.inputs`, `(n·B, D)`.
        s3: at the first B of `p.inputs` or at more.
        p: the perturbed batch.
        weight: of each of s3's points; a function of the point, not of its noise, so that the minimiser stays.

    Returns:
        a scalar in the units of `d3sm`, times those of the weight.

    Source: ours; for the second order, Lu et al., ICML 2022, arXiv 2206.08265, whose third order takes traces.
    """
    at_noisy = p.at("plus", s3)
    value = at_noisy.squared_norm() / 2 + at_noisy.form(_residual(s1, p)) / p.sigma_power(3, len(at_noisy))
    return weighted_mean(value, None if weight is None else p.at("plus", weight))


def d3sm_diagonal(s1: Tensor, s3: SymmetricCP, p: Perturbation, weight: Tensor) -> Tensor:
    """`½ Σ_d w_d (s3_ddd + e_d³/σ³)²`: the diagonal of `d3sm_centered`, each entry with a weight of its own.

    In the norm of the whole tensor an entry counts with the sixth power of its standard deviation.

    Args:
        s1, s3, p: see `d3sm_centered`.
        weight: of each entry, `(B, D)`; a function of the point, not of its noise.

    Returns:
        a scalar in the units of `d3sm`, times those of the weight.

    Raises:
        ValueError: where the weight has another shape.

    Source: ours; weighted least squares, see `losses.trace_weight`.
    """
    entries = p.at("plus", s3).diagonal()
    if weight.shape != entries.shape:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; {tuple(entries.shape)} is expected")
    return (weight * (entries + (_residual(s1, p) / p.sigma) ** 3).square()).sum(1).mean() / 2


def second_derivative_matching(s3: SymmetricCP, v: Tensor, product: Tensor, weight: Tensor | None = None) -> Tensor:
    """`½ ‖s3(v, v, ·) − ∇²s1(v, v)‖²`: an s3 that is to be the second derivative of s1, or the first of s2, seen along
    probes.

    Args:
        s3: at B points.
        v: a probe for each of them, `(B, D)`, given the noisy point independent of its noise. Normal ones tell of every
            entry; signs, with v_i² = 1, do not tell the entries T_iij of one j from each other.
        product: `∇²s1(v, v)` or `∇(s2 v) v` there, `(B, D)`, held fixed; see `linalg.SecondDerivative` and
            `linalg.MatrixDerivative`.
        weight: of each of the points, `(B,)`.

    Returns:
        a scalar, the mean over the points, in units of 1/σ⁶.

    Source: ours; for the second order, `losses.jacobian_matching`.
    """
    return weighted_mean((s3.contract(v) - product.detach()).square().sum(1) / 2, weight)


def _residual(s1: Tensor, p: Perturbation) -> Tensor:
    return (p.noise + p.sigma * p.at("plus", s1)).detach()


def _given_lower(s3: SymmetricCP, s1: Tensor, s2: SymmetricMatrix) -> Tensor:
    """`½‖s3‖² + ⟨s3, 3 sym(s2 ⊗ s1) + s1⊗s1⊗s1⟩`, `(B,)`: what depends on s3 in `½‖ψ‖²`."""
    s1 = s1.detach()
    return s3.squared_norm() / 2 + 3 * s3.slice(s1).inner(s2.detach()) + s3.form(s1)


def _hermite(s3: SymmetricCP, z: Tensor, p: Perturbation) -> Tensor:
    """`⟨s3, He(z)⟩/σ³ = (s3(z, z, z) − 3 s3(I, z))/σ³`, `(B,)`."""
    return (s3.form(z) - 3 * s3.slice(z).trace()) / p.sigma_power(3, len(s3))
