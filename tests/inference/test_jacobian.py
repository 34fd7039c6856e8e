"""The baselines, on scores whose Jacobian is known, and on a RefineNet."""

import pytest
import torch

import inference
from datasets import GaussianMixture, multivariate_normal
from models import RefineNet

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
    close(inference.jacobian(lambda x: density.s1(x, SIGMA), x, rows), density.s2(x, SIGMA))


def test_products(density, x):
    v = torch.randn(3, 8, 4, dtype=torch.float64)
    close(inference.jacobian_product(lambda x: density.s1(x, SIGMA), x, v), density.s2(x, SIGMA) @ v)


def test_hutchinson_is_unbiased(density, x):
    exact = density.s2(x, SIGMA)
    estimate = inference.jacobian_diagonal(lambda x: density.s1(x, SIGMA), x, 4000, torch.Generator().manual_seed(0))
    off = exact - torch.diag_embed(exact.diagonal(dim1=1, dim2=2))
    standard_error = off.square().sum(2).sqrt() / 4000**0.5
    assert ((estimate - exact.diagonal(dim1=1, dim2=2)).abs() < 5 * standard_error).all()


def test_forward_and_reverse_agree_on_a_refinenet():
    torch.manual_seed(0)
    network = RefineNet(1, 8, 4).double()
    x = torch.randn(2, 64, dtype=torch.float64)
    reverse = torch.stack([torch.func.jacrev(lambda p: network(p[None])[0])(point) for point in x])
    v = torch.randn(2, 64, 3, dtype=torch.float64)
    close(inference.jacobian_product(network, x, v), reverse @ v)
    close(inference.jacobian(network, x), (reverse + reverse.mT) / 2)


def test_products_are_in_full_precision_under_autocast():
    s1 = RefineNet(1, 28, 8)
    x, v = torch.rand(2, 784), torch.randn(2, 784, 3)
    exact = inference.jacobian_product(s1, x, v)
    with torch.autocast("cpu", torch.bfloat16):
        s1(x)  # fills the cache of weights in bfloat16
        assert torch.equal(inference.jacobian_product(s1, x, v), exact)


def test_components_of_a_denoiser_without_training_or_derivatives():
    """On a normal the posterior covariance is known, and its leading components are well apart."""
    spectrum = torch.tensor([4.0, 2.0, 1.0, 0.1, 0.1, 0.05, 0.05, 0.02], dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    normal = multivariate_normal(torch.zeros(8), axes * spectrum @ axes.T)
    x = torch.randn(5, 8, dtype=torch.float64)
    variances, directions, calls = inference.denoiser_components(
        lambda x: normal.s1(x, SIGMA), x, SIGMA, 3, tolerance=1e-4, generator=torch.Generator().manual_seed(0)
    )
    close(variances, (spectrum * SIGMA**2 / (spectrum + SIGMA**2))[:3].expand(5, 3), rtol=1e-3, atol=0)
    close(
        (axes[:, :3].T @ directions).square().sum((1, 2)), torch.full((5,), 3.0, dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert (calls > 4).all()
    assert (calls < 301).all()


def test_iteration_knows_the_sign_of_an_eigenvalue():
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.2, -3.0]))[None]
    start = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0))
    variances, directions, _ = inference.subspace_iteration(lambda v, rows: matrix[rows] @ v, start, 60)
    close(variances, torch.tensor([[1.0, -3.0]]))
    close(directions[0].abs(), torch.eye(4)[:, [0, 3]], rtol=0, atol=1e-4)


def test_iteration_stops_matrix_by_matrix():
    easy, hard = torch.diag(torch.tensor([1.0, 0.01, 0.0])), torch.diag(torch.tensor([1.0, 0.9, 0.0]))
    matrices = torch.stack([easy, hard])
    start = torch.ones(2, 3, 1)
    _, directions, steps = inference.subspace_iteration(lambda v, rows: matrices[rows] @ v, start, 100, 0.01)
    assert steps[0] < steps[1] < 100
    close(directions[:, 0, 0].abs(), torch.ones(2), rtol=0, atol=5e-3)
