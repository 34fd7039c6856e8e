"""Against the tensors in full, against exact scores, and against each other."""

from functools import cache

import pytest
import torch
from torch import Tensor

import losses
from datasets import GaussianMixture
from linalg import DiagonalPlusLowRank, SymmetricCP, SymmetricMatrix
from losses import Perturbation, perturb

B, D, R, SIGMA = 3, 4, 2, 0.7
NAMES = ["d3sm", "d3sm_vr", "d3sm_centered"]
close = torch.testing.assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(
    name: str, s1: Tensor, s2: SymmetricMatrix | Tensor, s3: SymmetricCP, p: Perturbation, weight: Tensor | None = None
) -> Tensor:
    if name == "d3sm_centered":
        return losses.d3sm_centered(s1, s3, p, weight)
    return getattr(losses, name)(s1, s2, s3, p, weight)


# --- the tensors in full ---


def symmetric(matrix: Tensor, v: Tensor) -> Tensor:
    """3 sym(M ⊗ v)."""
    product = torch.einsum("bij,bk->bijk", matrix, v)
    return product + product.permute(0, 1, 3, 2) + product.permute(0, 3, 2, 1)


def cube(v: Tensor) -> Tensor:
    return torch.einsum("bi,bj,bk->bijk", v, v, v)


def in_full(name: str, s1: Tensor, s2: Tensor, s3: Tensor, p: Perturbation, weight: Tensor) -> Tensor:
    """`½ ‖ψ − T‖²`, the constant included: its gradient in s3 is that of the loss."""
    total = 0.0
    for point, z in (("plus", p.noise), ("minus", -p.noise))[: 2 if name == "d3sm_vr" else 1]:
        if name == "d3sm_centered":
            difference = p.at(point, s3) + cube(z + p.sigma * p.at(point, s1)) / p.sigma**3
        else:
            first, second = p.at(point, s1), p.at(point, s2)
            psi = p.at(point, s3) + symmetric(second, first) + cube(first)
            hermite = cube(z) - symmetric(torch.eye(D).double().expand(len(z), -1, -1), z)
            difference = psi + hermite / p.sigma**3
        total = total + (p.at(point, weight) * difference.square().sum((1, 2, 3))).mean() / 2
    return total


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("levels", ["one", "each its own"])
def test_gradients_are_those_of_the_squared_distance_in_full(name, levels):
    sigma = SIGMA if levels == "one" else torch.linspace(0.4, 1, B, dtype=torch.float64)[:, None, None, None]
    p = perturb(
        normal(B, D), sigma if levels == "one" else sigma.flatten(), antithetic=True, noise=normal(B, D, seed=1)
    )
    rows = 2 * B
    s1, weight = normal(3 * B, D, seed=2), torch.linspace(0.5, 2, rows, dtype=torch.float64)
    s2 = DiagonalPlusLowRank(normal(3 * B, D, seed=3), normal(3 * B, D, 2, seed=4))

    def gradients(dense: bool) -> tuple[Tensor, ...]:
        parts = [
            part.requires_grad_()
            for part in (normal(rows, R, seed=5), normal(rows, D, R, seed=6), normal(rows, D, seed=7))
        ]
        s3 = SymmetricCP(*parts)
        if not dense:
            value = loss(name, s1, s2, s3, p, weight)
        elif levels == "one":
            value = in_full(name, s1, s2.dense(), s3.dense(), p, weight)
        else:  # the batch one by one, with a number for σ
            points = []
            for b in range(B):
                own = [b, B + b] if name == "d3sm_vr" else [b]
                single = perturb(p.clean[b : b + 1], float(p.sigma[b]), antithetic=True, noise=p.noise[b : b + 1])
                every = [b, B + b, 2 * B + b]
                points.append(in_full(name, s1[every], s2.dense()[every], s3.dense()[own], single, weight[own]))
            value = torch.stack(points).mean()
        return torch.autograd.grad(value, parts, allow_unused=True, materialize_grads=True)

    for ours, oracle in zip(gradients(False), gradients(True), strict=True):
        close(ours, oracle, rtol=1e-9, atol=1e-9 * oracle.abs().max().item())


def test_the_diagonal_is_regressed_on_the_cubes_of_the_residual():
    p = perturb(normal(B, D), SIGMA, noise=normal(B, D, seed=1))
    s1, weight = normal(B, D, seed=2), normal(B, D, seed=3).abs()
    s3 = SymmetricCP(normal(B, R), normal(B, D, R, seed=6), normal(B, D, seed=7))
    e = p.noise + SIGMA * s1
    entries = torch.einsum("biii->bi", s3.dense() + cube(e) / SIGMA**3)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\); \(3, 4\) is expected"):
        losses.d3sm_diagonal(s1, s3, p, weight[:, 0])
    close(losses.d3sm_diagonal(s1, s3, p, weight), (weight * entries.square()).sum(1).mean() / 2)


@pytest.mark.parametrize("name", NAMES)
def test_lower_orders_are_held_fixed(name):
    p = perturb(normal(B, D), SIGMA, antithetic=True, noise=normal(B, D, seed=1))
    s1, alpha = normal(3 * B, D, seed=2).requires_grad_(), normal(3 * B, D, seed=3).requires_grad_()
    weights = normal(2 * B, R).requires_grad_()
    s3 = SymmetricCP(weights, normal(2 * B, D, R, seed=6), normal(2 * B, D, seed=7))
    loss(name, s1, DiagonalPlusLowRank(alpha), s3, p).backward()
    assert s1.grad is None
    assert alpha.grad is None
    assert weights.grad.abs().sum() > 0


def test_second_derivative_matching_is_zero_where_it_is_right_and_tells_of_every_entry():
    """Over normal probes its mean is a positive definite form of the error: the minimiser from 4000 is exact."""
    basis = normal(1, D, 20, seed=1)
    truth = normal(1, 20, seed=2)
    v = normal(4000, D, seed=3)
    product = SymmetricCP(truth, basis, torch.zeros(1, D).double()).contract(v.mT[None])[0].mT

    def value(weights: Tensor) -> Tensor:
        many = [part.expand(len(v), *part.shape[1:]) for part in (weights[None], basis, torch.zeros(1, D).double())]
        return losses.second_derivative_matching(SymmetricCP(*many), v, product)

    assert value(truth[0]) < 1e-20
    hessian = torch.func.hessian(value)(torch.zeros(20).double())
    solution = torch.linalg.solve(hessian, -torch.func.grad(value)(torch.zeros(20).double()))
    close(solution, truth[0], rtol=1e-6, atol=1e-6)  # twenty powers span the twenty symmetric tensors


# --- exact truth: a Gaussian, whose s3 is zero, and a mixture of two ---

PARTS = 40
GAUSSIAN = GaussianMixture([1.0], [[0.3, -1.0]], [[[1.0, 0.8], [0.8, 0.8]]])
BIMODAL = GaussianMixture(
    [0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[[0.36, 0.18], [0.18, 0.18]], [[0.09, -0.06], [-0.06, 0.29]]]
)
ANGLES = torch.arange(4, dtype=torch.float64) * torch.pi / 4
BASIS = torch.stack([ANGLES.cos(), ANGLES.sin()])  # (2, 4): the cubes of the four span the symmetric tensors
SPANNED = torch.einsum("ir,jr,kr->rijk", BASIS, BASIS, BASIS).flatten(1)


@cache
def normal_equations(name: str, density: GaussianMixture, sigma: float, count: int) -> tuple[Tensor, Tensor]:
    """Heads `s3 = c_0 s3_exact + Σ_i c_i u_i⊗u_i⊗u_i`: a loss is quadratic in c. Its gradient at c = 0 and its Hessian,
    in parts of the sample; d3sm_vr, a sum over two points, is halved."""
    torch.manual_seed(0)
    gradients, hessians = [], []
    for _ in range(PARTS):
        p = perturb(density.sample(count // PARTS).double(), sigma, antithetic=True)
        s1, s2, exact = density.s1(p.inputs, sigma), density.s2(p.inputs, sigma), density.s3(p.inputs, sigma)
        weights = torch.linalg.lstsq(SPANNED.mT, exact.dense().flatten(1).mT).solution.mT
        features = torch.stack([weights, *torch.eye(4).double()[:, None].expand(-1, len(s1), 4)], dim=1)
        vectors, none = BASIS.expand(len(s1), 2, 4), torch.zeros(len(s1), 2).double()

        def value(c: Tensor, p=p, s1=s1, s2=s2, features=features, vectors=vectors, none=none) -> Tensor:
            s3 = SymmetricCP(torch.einsum("j,bjr->br", c, features), vectors, none)
            return loss(name, s1, s2, s3, p) / (2 if name == "d3sm_vr" else 1)

        zero = torch.zeros(5, dtype=torch.float64)
        gradients.append(torch.func.grad(value)(zero))
        hessians.append(torch.func.hessian(value)(zero))
    return torch.stack(gradients), torch.stack(hessians)


def within_five_standard_errors(parts: Tensor, expected: Tensor) -> bool:
    return bool(((parts.mean(0) - expected).abs() <= 5 * parts.std(0) / PARTS**0.5 + 1e-12).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_minimiser_for_a_gaussian_is_zero(name):
    """Over the constant tensors, from 80,000 samples; standard errors are below 5 % of the mean ‖x − D‖³/σ⁶."""
    gradients, hessians = normal_equations(name, GAUSSIAN, 0.5, 80_000)
    solutions = -torch.linalg.solve(hessians[:, 1:, 1:], gradients[:, 1:])
    assert within_five_standard_errors(solutions, torch.zeros(4).double())
    assert (solutions.std(0) / PARTS**0.5 < 0.4).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_minimiser_for_a_mixture_is_the_exact_s3(name):
    """Over all features the solution is (1, 0, 0, 0, 0): the exact s3 and nothing else."""
    gradients, hessians = normal_equations(name, BIMODAL, 0.5, 160_000)
    solutions = -torch.linalg.solve(hessians, gradients)
    assert within_five_standard_errors(solutions, torch.tensor([1.0, 0, 0, 0, 0]).double())
    assert solutions.std(0)[0] / PARTS**0.5 < 0.2


@pytest.mark.parametrize("density", [GAUSSIAN, BIMODAL], ids=["gaussian", "mixture"])
def test_expected_gradients_agree_at_the_exact_lower_orders(density):
    gradients = {name: normal_equations(name, density, 0.5, 80_000)[0] for name in NAMES}
    for name in NAMES:
        assert within_five_standard_errors(gradients[name] - gradients["d3sm_centered"], torch.zeros(5).double())


def test_centring_and_mirroring_reduce_the_variance():
    def spread(name: str, sigma: float) -> float:
        return normal_equations(name, BIMODAL, sigma, 4000)[0].std(0)[0].item()

    assert spread("d3sm_centered", 2.5) < 0.7 * spread("d3sm", 2.5)
    assert spread("d3sm_vr", 0.005) < 0.15 * spread("d3sm", 0.005)


def test_points_that_are_missing_are_named():
    p = perturb(torch.zeros(2, 3), 0.5)
    s3 = SymmetricCP.diagonal_only(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="do not include those at 'minus'"):
        losses.d3sm_vr(torch.zeros(2, 3), DiagonalPlusLowRank(torch.zeros(2, 3)), s3, p)


@pytest.mark.parametrize("own_level", [False, True])
def test_entries_weigh_by_their_predicted_variance(own_level):
    sigma = torch.tensor([[0.5], [1.0]], dtype=torch.float64) if own_level else 0.5
    unit = sigma**2 / 0.3 if own_level else None  # σ⁴/v with v = 0.3 σ²
    covariance = torch.tensor([[0.2, 0.001, 0.1], [0.3, 0.02, 0.1]], dtype=torch.float64)
    s2 = DiagonalPlusLowRank((covariance - sigma**2) / sigma**4)
    v = 0.3 * sigma**2 if own_level else sigma**2
    close(losses.entry_weight(s2, sigma, unit), (covariance / v + 0.05) ** -2)
    t = (covariance / v).sum(1).clamp(min=0.03)
    close(losses.trace_weight(s2, sigma, unit, power=1), 3 / t)
    probe = normal(2, 3)
    along = (covariance * probe.square()).sum(1, keepdim=True) / v
    close(losses.probe_weight(s2, probe, sigma, unit), 9 / along[:, 0] ** 3)
