"""Jacobians of scores that are known, and of a RefineNet; see also `test_matrices`."""

import pytest
import torch

import linalg
from datasets import GaussianMixture
from linalg import Jacobian
from models.refinenet import RefineNet

SIGMA = 0.5
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def density():
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)
    means = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    return GaussianMixture([0.4, 0.6], means, roots @ roots.mT / 8 + 0.1 * torch.eye(8))


@pytest.fixture
def x():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("rows", [3, 64])
def test_full_jacobian_of_an_exact_score(density, x, rows):
    close(linalg.jacobian(lambda x: density.s1(x, SIGMA), x, rows), density.s2(x, SIGMA))


def test_products(density, x):
    v = torch.randn(3, 8, 4, dtype=torch.float64)
    close(linalg.jacobian_product(lambda x: density.s1(x, SIGMA), x, v), density.s2(x, SIGMA) @ v)


def test_hutchinson_is_unbiased(density, x):
    exact = density.s2(x, SIGMA)
    jacobian = Jacobian(lambda x: density.s1(x, SIGMA), x)
    estimate, _ = linalg.hutchinson_diagonal(jacobian, 4000, torch.Generator().manual_seed(0))
    off = exact - torch.diag_embed(exact.diagonal(dim1=1, dim2=2))
    standard_error = off.square().sum(2).sqrt() / 4000**0.5
    assert ((estimate - exact.diagonal(dim1=1, dim2=2)).abs() < 5 * standard_error).all()


def test_forward_and_reverse_agree_on_a_refinenet():
    torch.manual_seed(0)
    network = RefineNet(1, 8, 4).double()
    x = torch.randn(2, 64, dtype=torch.float64)
    reverse = torch.stack([torch.func.jacrev(lambda p: network(p[None])[0])(point) for point in x])
    v = torch.randn(2, 64, 3, dtype=torch.float64)
    close(linalg.jacobian_product(network, x, v), reverse @ v)
    close(linalg.jacobian(network, x), (reverse + reverse.mT) / 2)


def test_products_are_in_full_precision_under_autocast():
    s1 = RefineNet(1, 28, 8)
    x, v = torch.rand(2, 784), torch.randn(2, 784, 3)
    exact = linalg.jacobian_product(s1, x, v)
    with torch.autocast("cpu", torch.bfloat16):
        s1(x)  # fills the cache of weights in bfloat16
        assert torch.equal(linalg.jacobian_product(s1, x, v), exact)


def linear(eigenvalues: list[float], rest: float, dimension: int = 80) -> tuple[Jacobian, torch.Tensor]:
    """The Jacobian of a linear function at two points, and its eigenvectors, the leading ones first."""
    values = torch.full((dimension,), rest, dtype=torch.float64)
    values[: len(eigenvalues)] = torch.tensor(eigenvalues, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
    return Jacobian(lambda x: x @ (axes * values) @ axes.T, torch.zeros(2, dimension, dtype=torch.float64)), axes


@pytest.mark.parametrize("low", [0.05, -9.0], ids=["positive", "with a large negative eigenvalue"])
def test_leading_eigenpairs_by_iteration(low):
    """As exact as the iteration's tolerance, a sine of 0.03: its square, in the values."""
    matrix, axes = linear([4.0, 3.0, 2.0, low], rest=0.01)
    values, vectors = matrix.eigh_top(3)
    close(values, torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64).expand(2, 3), rtol=5e-3, atol=0)
    assert ((axes[:, :3].T @ vectors).square().sum((1, 2)) > 3 - 0.01).all()
    close(vectors.mT @ vectors, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert torch.equal(matrix.eigh_top(3)[0], values)


def test_eigenpairs_that_are_not_found_are_said_to_be_so():
    matrix = Jacobian(lambda x: x.roll(1, dims=1), torch.zeros(2, 80))  # far from symmetric: directions go round
    with pytest.warns(RuntimeWarning, match="100 steps leave eigenpairs of 2 of 2 matrices unfinished"):
        matrix.eigh_top(3)


def test_few_points_at_a_time():
    """Whatever is asked of it, not all D·B points go through the function at once."""
    sizes = []

    def function(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x.square()

    matrix = Jacobian(function, torch.rand(20, 300, generator=torch.Generator().manual_seed(0)))
    close(matrix.diagonal(), 2 * matrix.x)
    close(matrix.dense(), torch.diag_embed(2 * matrix.x))
    assert max(sizes) <= 512


def test_what_a_large_one_does_not_have():
    matrix = Jacobian(lambda x: x, torch.zeros(1, 1500))
    with pytest.raises(NotImplementedError, match="a floor under the eigenvalues of a Jacobian cannot be had"):
        matrix.clamp(0.1)
    with pytest.raises(ValueError, match="up to 93 can be had"):
        matrix.eigh_top(94)
