"""Eigenpairs of a matrix from few products with it and a matrix near it."""

import pytest
import torch

import linalg
from linalg import Dense


def pair(dimension: int = 12, batch: int = 3, error: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix with eigenvalues 1, 1/2, 1/3, …, and one near it, `(B, D, D)` each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, batch, dimension, dimension, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(noise[0]).Q
    values = 1 / torch.arange(1, dimension + 1, dtype=torch.float64)
    exact = vectors * values @ vectors.mT
    return exact, exact + error * (noise[1] + noise[1].mT) / dimension**0.5


def caught(exact: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The share of the leading eigenvectors' span that the directions hold, of each matrix."""
    leading = torch.linalg.eigh(exact).eigenvectors[:, :, -directions.shape[2] :]
    return (leading.mT @ directions).square().sum((1, 2)) / directions.shape[2]


@pytest.mark.parametrize(("dimension", "k"), [(12, 3), (5, 2), (4, 4)])
def test_enough_steps_give_the_exact_eigenpairs(dimension, k):
    exact, near = pair(dimension)
    values, vectors = linalg.refine_eigenpairs(Dense(near), exact.matmul, k, steps=100)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(exact).flip(1)[:, :k])
    torch.testing.assert_close(exact @ vectors, vectors * values[:, None, :], rtol=0, atol=1e-9)
    torch.testing.assert_close(caught(exact, vectors), torch.ones(3, dtype=torch.float64))


def test_a_step_catches_more_than_one_of_subspace_iteration():
    exact, near = pair(40, batch=20, error=0.05)
    _, start = Dense(near).eigh_top(3)
    _, iterated, _ = linalg.subspace_iteration(lambda v, rows: exact[rows] @ v, start, 1)
    _, refined = linalg.refine_eigenpairs(Dense(near), exact.matmul, 3, steps=1)
    before, by_iteration, by_secants = (1 - caught(exact, part).mean() for part in (start, iterated, refined))
    assert by_secants < 0.7 * by_iteration < by_iteration < before


def test_products_are_those_that_were_asked_for():
    exact, near = pair(300, batch=1, error=0.01)
    asked = []

    def multiply(v):
        asked.append(v.shape[2])
        return exact @ v

    values, vectors = linalg.refine_eigenpairs(Dense(near), multiply, 3, steps=2)
    assert asked == [3, 3]
    assert caught(exact, vectors) > 0.999
    torch.testing.assert_close(values, torch.tensor([[1, 1 / 2, 1 / 3]], dtype=torch.float64), rtol=1e-2, atol=0)
