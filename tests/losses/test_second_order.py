from functools import cache

import pytest
import torch
from torch import Tensor

import losses
from datasets import GaussianMixture
from linalg import DiagonalPlusLowRank
from losses import Perturbation, perturb

FILES = ["losses_B3_D12_r4.npz", "losses_B4_D20_r3.npz"]
PLAIN, ANTITHETIC = ["d2sm", "d2sm_centered"], ["d2sm_vr", "d2sm_centered_vr"]
close = torch.testing.assert_close


@pytest.fixture(params=FILES)
def numbers(request, reference):
    """The file, its perturbation, and its heads at all points."""
    content = reference(request.param)
    sigma = round(float(content["sigma"]), 6)  # 0.1 and 0.5, kept as float32 in the files
    p = perturb(content["clean"], sigma, antithetic=True, noise=content["noise"])
    heads = (torch.cat([content[f"{head}_{point}"] for point in ("plus", "minus", "clean")])
             for head in ("s1", "diagonal", "factor"))  # fmt: skip
    return content, p, *heads


@pytest.mark.parametrize("name", ["d2sm", "d2sm_vr"])
@pytest.mark.parametrize("form", ["diagonal", "low_rank"])
def test_equal_the_published_losses(numbers, name, form):
    content, p, s1, diagonal, factor = numbers
    s2 = DiagonalPlusLowRank(diagonal, factor if form == "low_rank" else None)
    published = content[f"loss_{name}_{form}"]
    close(getattr(losses, name)(s1, s2, p), published, rtol=1e-9, atol=0)
    close(getattr(losses, name)(s1, s2.dense(), p), published, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [*PLAIN, *ANTITHETIC, "weighted d2sm_centered", "weighted d2sm_centered_vr"])
@pytest.mark.parametrize("form", ["diagonal", "low_rank"])
@pytest.mark.parametrize("sigma_as", ["float", "tensor"])
def test_structured_is_dense_with_its_gradients(numbers, name, form, sigma_as):
    _, p, *heads = numbers
    if sigma_as == "tensor":
        sigma = torch.linspace(0.3, 1, len(p.clean), dtype=torch.float64)[:, None]
        p = perturb(p.clean, sigma, antithetic=True, noise=p.noise)
    if form == "diagonal":
        heads = heads[:2]
    weighted, _, name = name.rpartition(" ")
    options = {"weight": torch.linspace(0.5, 2, len(heads[0]), dtype=torch.float64)} if weighted else {}

    def value_and_gradients(dense: bool) -> list[Tensor]:
        leaves = [head.clone().requires_grad_() for head in heads]
        s2 = DiagonalPlusLowRank(*leaves[1:])
        value = getattr(losses, name)(leaves[0], s2.dense() if dense else s2, p, **options)
        return [value, *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)]

    for ours, oracle in zip(value_and_gradients(False), value_and_gradients(True), strict=True):
        close(ours, oracle, rtol=1e-9, atol=1e-9 * oracle.abs().max().item())


@pytest.mark.parametrize("name", ["d2sm_centered", "d2sm_centered_vr"])
def test_the_centred_losses_leave_s1_alone(numbers, name):
    _, p, s1, diagonal, factor = numbers
    s1 = s1.clone().requires_grad_()
    diagonal = diagonal.clone().requires_grad_()
    s2 = DiagonalPlusLowRank(diagonal.abs() + 0.1, factor)
    getattr(losses, name)(s1, s2, p).backward()
    assert s1.grad is None
    assert diagonal.grad.abs().sum() > 0


def test_points_that_are_missing_are_named():
    p = perturb(torch.zeros(2, 3), 0.5)
    s2 = DiagonalPlusLowRank(torch.zeros(2, 3))
    for name in ANTITHETIC:
        with pytest.raises(ValueError, match="do not include those at 'minus'"):
            getattr(losses, name)(torch.zeros(2, 3), s2, p)


# --- exact truth: a Gaussian and a mixture of two, whose scores are known in closed form ---


def mixture(weights: list[float], means: list, roots: list) -> GaussianMixture:
    roots = torch.tensor(roots, dtype=torch.float64)
    return GaussianMixture(torch.tensor(weights), torch.tensor(means), roots @ roots.mT)


GAUSSIAN = mixture([1.0], [[0.3, -1.0]], [[[1.0, 0.0], [0.8, 0.4]]])
BIMODAL = mixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[[0.6, 0.0], [0.3, 0.3]], [[0.3, 0.0], [-0.2, 0.5]]])
SIGMA, PARTS = 0.5, 40


@cache
def normal_equations(
    name: str, density: GaussianMixture, sigma: float = SIGMA, count: int = 80_000
) -> tuple[Tensor, Tensor]:
    """Heads `s2 = Σ_j c_j F_j(x̃)`, the features F the exact s2, three constant matrices that span the symmetric
    ones, and s1s1ᵀ: a loss is quadratic in c. Its gradient at c = 0 and its Hessian, in parts of the sample.

    The _vr losses are sums over two points: they are halved.
    """
    torch.manual_seed(0)
    constants = torch.tensor([[[1.0, 0], [0, 0]], [[0, 0], [0, 1.0]], [[0, 1.0], [1.0, 0]]], dtype=torch.float64)
    gradients, hessians = [], []
    for _ in range(PARTS):
        p = perturb(density.sample(count // PARTS).double(), sigma, antithetic=True)
        s1, s2 = density.s1(p.inputs, sigma), density.s2(p.inputs, sigma)
        outer = s1[:, :, None] * s1[:, None, :]
        features = torch.stack([s2, *constants[:, None].expand(-1, len(s1), 2, 2), outer], dim=1)

        def loss(c: Tensor, p: Perturbation = p, s1: Tensor = s1, features: Tensor = features) -> Tensor:
            value = getattr(losses, name)(s1, torch.einsum("j,bjkl->bkl", c, features), p)
            return value / 2 if name.endswith("_vr") else value

        zero = torch.zeros(features.shape[1], dtype=torch.float64)
        gradients.append(torch.func.grad(loss)(zero))
        hessians.append(torch.func.hessian(loss)(zero))
    return torch.stack(gradients), torch.stack(hessians)


def within_five_standard_errors(parts: Tensor, expected: Tensor) -> bool:
    return bool(((parts.mean(0) - expected).abs() <= 5 * parts.std(0) / PARTS**0.5 + 1e-12).all())


@pytest.mark.parametrize("name", PLAIN + ANTITHETIC)
def test_minimiser_for_a_gaussian_is_the_exact_s2(name):
    """s2 is constant: the least-squares solution over the constant matrices, from 80 000 samples, within five
    standard errors, and these are below 5 % of s2."""
    gradients, hessians = normal_equations(name, GAUSSIAN)
    rows = slice(1, 4)
    solutions = -torch.linalg.solve(hessians[:, rows, rows], gradients[:, rows])
    s2 = GAUSSIAN.s2(torch.zeros(1, 2, dtype=torch.float64), SIGMA)[0]
    assert within_five_standard_errors(solutions, torch.stack([s2[0, 0], s2[1, 1], s2[0, 1]]))
    assert (solutions.std(0) / PARTS**0.5 < 0.05 * s2.abs().max()).all()


@pytest.mark.parametrize("name", PLAIN + ANTITHETIC)
def test_minimiser_for_a_mixture_is_the_exact_s2(name):
    """Over all features the solution is (1, 0, 0, 0, 0): the exact s2 and nothing else."""
    gradients, hessians = normal_equations(name, BIMODAL)
    solutions = -torch.linalg.solve(hessians, gradients)
    assert within_five_standard_errors(solutions, torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64))
    assert (solutions.std(0)[0] / PARTS**0.5) < 0.2


@pytest.mark.parametrize("density", [GAUSSIAN, BIMODAL], ids=["gaussian", "mixture"])
def test_expected_gradients_agree_at_the_exact_s1(density):
    gradients = {name: normal_equations(name, density)[0] for name in PLAIN + ANTITHETIC}
    for name in gradients:
        assert within_five_standard_errors(gradients[name] - gradients["d2sm"], torch.zeros(5, dtype=torch.float64))


def test_centring_and_mirroring_reduce_the_variance():
    """Of the gradient: centring where the denoiser works (σ = 0.5), mirroring at σ = 0.01, where the plain ones
    have a spread of order 1/σ²."""

    def spread(name: str, sigma: float) -> float:
        return normal_equations(name, GAUSSIAN, sigma, count=4000)[0].std(0).norm().item()

    assert spread("d2sm_centered", 0.5) < 0.7 * spread("d2sm", 0.5)
    for name in PLAIN:
        assert spread(name + "_vr", 0.01) < 0.02 * spread(name, 0.01)


@pytest.mark.parametrize("form", ["diagonal", "low_rank"])
def test_jacobian_matching_is_the_frobenius_error_on_average(form):
    """Over all probes of signs, of which D = 4 has sixteen: exactly."""
    generator = torch.Generator().manual_seed(0)
    diagonal, factor, jacobian = (
        torch.randn(1, 4, *more, generator=generator, dtype=torch.float64) for more in ((), (2,), (4,))
    )
    s2 = DiagonalPlusLowRank(diagonal, factor if form == "low_rank" else None)
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    for ours in (s2, s2.dense()):
        values = [losses.jacobian_matching(ours, v[None], (jacobian @ v)) for v in probes]
        close(torch.stack(values).mean(), (s2.dense() - jacobian).square().sum() / 2)
