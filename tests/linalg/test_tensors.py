"""Every kind of symmetric tensor against the tensor in full, in float64."""

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from linalg import (
    Dense,
    DiagonalPlusLowRank,
    MatrixDerivative,
    SecondDerivative,
    SymmetricCP,
    SymmetricTensor,
    second_derivative_product,
)
from linalg.tensors import RestrictedTensor

B, D, R = 3, 5, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cp(order: int, seed: int = 0, rank: int = R) -> SymmetricCP:
    return SymmetricCP(
        normal(B, rank, seed=seed), normal(B, D, rank, seed=seed + 1), normal(B, D, seed=seed + 2), order
    )


MIXING = normal(D, D, seed=9)


def potential(x: Tensor) -> Tensor:
    """A function of a point whose third derivative is symmetric."""
    return (MIXING @ x).tanh().square().sum() + x.exp().prod() / 9


def gradient(x: Tensor) -> Tensor:
    return vmap(torch.func.grad(potential))(x)


def hessian(x: Tensor) -> Dense:
    return Dense(vmap(jacfwd(torch.func.grad(potential)))(x))


X = normal(B, D, seed=5)

TENSORS = {
    "cp2": lambda: cp(2),
    "cp3": lambda: cp(3),
    "cp4": lambda: cp(4),
    "cp without vectors": lambda: SymmetricCP.diagonal_only(normal(B, D)),
    "second derivative": lambda: SecondDerivative(gradient, X),
    "restricted": lambda: MatrixDerivative(hessian, X).restricted(torch.tensor([3, 0, 4, 1, 2])),
    "derivative of a matrix": lambda: MatrixDerivative(hessian, X),
}


def full(tensor: SymmetricTensor) -> Tensor:
    """The tensor entry by entry, independent of its own methods."""
    if isinstance(tensor, SecondDerivative):
        scale = torch.as_tensor(tensor.scale, dtype=torch.float64).reshape(-1, 1, 1, 1)
        return scale * vmap(jacfwd(jacfwd(torch.func.grad(potential))))(tensor.x)
    if isinstance(tensor, RestrictedTensor):
        places = tensor.places
        return full(tensor.whole)[:, places][:, :, places][:, :, :, places]
    assert isinstance(tensor, SymmetricCP)
    total = torch.zeros(len(tensor), *[D] * tensor.order, dtype=torch.float64)
    for b in range(len(tensor)):
        for i in range(tensor.rank):
            power = tensor.weights[b, i]
            for _ in range(tensor.order):
                power = power[..., None] * tensor.vectors[b, :, i]
            total[b] += power
        for d in range(D):
            total[(b, *[d] * tensor.order)] += tensor.diagonal_part[b, d]
    return total


def filled(dense: Tensor, v: Tensor, places: int) -> Tensor:
    for _ in range(places):
        dense = torch.einsum("b...d,bd->b...", dense, v)
    return dense


@pytest.mark.parametrize("name", TENSORS)
def test_contractions_and_the_diagonal_are_those_of_the_tensor_in_full(name: str) -> None:
    tensor = TENSORS[name]()
    dense, block = full(tensor), normal(B, D, 7, seed=3)
    torch.testing.assert_close(tensor.dense(), dense)
    for n in range(7):
        v = block[:, :, n]
        torch.testing.assert_close(tensor.contract(v), filled(dense, v, tensor.order - 1))
        torch.testing.assert_close(tensor.form(v), filled(dense, v, tensor.order))
        torch.testing.assert_close(tensor.contract(block)[:, :, n], tensor.contract(v))
        torch.testing.assert_close(tensor.form(block)[:, n], tensor.form(v))
    entries = torch.stack([dense[(slice(None), *[d] * tensor.order)] for d in range(D)], dim=1)
    torch.testing.assert_close(tensor.diagonal(), entries)


@pytest.mark.parametrize("name", TENSORS)
def test_scaling_and_rows(name: str) -> None:
    tensor, v = TENSORS[name](), normal(B, D, seed=3)
    assert (len(tensor), tensor.dimension, tensor.dtype) == (B, D, torch.float64)
    for scale in (2.0, torch.tensor(0.5), torch.arange(3.0, 6.0).double(), torch.arange(3.0, 6.0).double()[:, None]):
        factor = torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1)
        torch.testing.assert_close((scale * tensor).contract(v), factor * tensor.contract(v))
    for rows in (slice(1, 3), [2, 0], torch.tensor([True, False, True])):
        scaled = torch.arange(3.0).double() * tensor
        torch.testing.assert_close(scaled[rows].dense(), scaled.dense()[rows])
    with pytest.raises(ValueError, match=r"a tensor \(2,\) for 3 tensors"):
        torch.ones(2) * tensor


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("ranks", [(R, 2), (0, R), (0, 0)])
def test_inner_products_and_norms_of_powers(order: int, ranks: tuple[int, int]) -> None:
    one, other = cp(order, rank=ranks[0]), cp(order, seed=20, rank=ranks[1])
    both = (full(one) * full(other)).flatten(1).sum(1)
    torch.testing.assert_close(one.inner(other), both)
    torch.testing.assert_close(other.inner(one), both)
    torch.testing.assert_close(one.squared_norm(), full(one).square().flatten(1).sum(1))


def test_of_order_two_it_is_diagonal_plus_low_rank() -> None:
    alpha, beta, v = normal(B, D), normal(B, D, R, seed=1), normal(B, D, 2, seed=2)
    matrix = DiagonalPlusLowRank(alpha, beta)
    tensor = SymmetricCP(torch.ones(B, R, dtype=torch.float64), beta, alpha, order=2)
    torch.testing.assert_close(tensor.dense(), matrix.dense())
    torch.testing.assert_close(tensor.contract(v), matrix @ v)
    torch.testing.assert_close(tensor.form(v), matrix.quadratic(v))
    torch.testing.assert_close(tensor.diagonal(), matrix.diagonal())
    torch.testing.assert_close(tensor.trace(), matrix.trace())
    torch.testing.assert_close(tensor.squared_norm(), matrix.squared_norm())
    other = DiagonalPlusLowRank(normal(B, D, seed=7), normal(B, D, 2, seed=8))
    torch.testing.assert_close(tensor.inner(other), matrix.inner(other))


def test_a_slice_has_one_place_filled() -> None:
    tensor, v, w = cp(4), normal(B, D, seed=3), normal(B, D, seed=4)
    torch.testing.assert_close(tensor.slice(v).dense(), filled(full(tensor), v, 1))
    matrix = tensor.slice(v).slice(w)
    torch.testing.assert_close(matrix.dense(), filled(filled(full(tensor), v, 1), w, 1))
    torch.testing.assert_close(matrix.trace(), torch.einsum("bii->b", matrix.dense()))


def test_restricted_to_some_places() -> None:
    places = torch.tensor([3, 0])
    tensor = cp(3)
    torch.testing.assert_close(
        tensor.restricted(places).dense(), full(tensor)[:, places][:, :, places][:, :, :, places]
    )


def test_several_batches_become_one_and_tensors_leave_the_graph() -> None:
    one, other = cp(3), cp(3, seed=20)
    torch.testing.assert_close(SymmetricCP.cat([one, other]).dense(), torch.cat([one.dense(), other.dense()]))
    one.vectors.requires_grad_()
    assert one.inner(other).requires_grad
    assert not one.detach().inner(other).requires_grad
    assert one.to(torch.float32).dense().dtype == torch.float32
    with pytest.raises(ValueError, match="one size is expected"):
        SymmetricCP.cat([one, cp(4)])


def test_gradients_of_norms_and_forms() -> None:
    parts = normal(1, 2), normal(1, 3, 2, seed=1), normal(1, 3)
    weights, vectors, diagonal = (part.requires_grad_() for part in parts)
    v = normal(1, 3, seed=4)
    torch.autograd.gradcheck(lambda *parts: SymmetricCP(*parts).squared_norm(), (weights, vectors, diagonal))
    torch.autograd.gradcheck(lambda *parts: SymmetricCP(*parts).form(v), (weights, vectors, diagonal))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, r\), \(B, D, r\), \(B, D\) are expected"):
        SymmetricCP(normal(B, 2), normal(B, D, 3), normal(B, D))
    with pytest.raises(ValueError, match="order is 1"):
        SymmetricCP(normal(B, R), normal(B, D, R), normal(B, D), order=1)
    with pytest.raises(ValueError, match="contract gives it"):
        cp(2).slice(normal(B, D))
    with pytest.raises(ValueError, match="trace of a tensor of order 3"):
        cp(3).trace()
    with pytest.raises(ValueError, match="the same are expected"):
        cp(3).inner(cp(2))
    with pytest.raises(ValueError, match="the same are expected"):
        cp(3).inner(DiagonalPlusLowRank(normal(B, D)))


def test_a_second_derivative_along_a_vector_leaves_no_graph() -> None:
    layer = torch.nn.Linear(D, D).double()
    product = second_derivative_product(lambda x: layer(x).sin(), X, X)
    inner = layer(X).detach()
    expected = -inner.sin() * (X @ layer.weight.detach().mT).square()
    torch.testing.assert_close(product, expected)
    assert not product.requires_grad


@pytest.mark.parametrize("function", [torch.nn.functional.silu, torch.nn.SiLU(), torch.nn.functional.gelu])
def test_second_derivatives_of_what_torch_cannot_differentiate_twice_forward(function) -> None:
    product = second_derivative_product(function, X, X)
    leaf = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(product, second * X.square(), rtol=1e-8, atol=1e-8)
