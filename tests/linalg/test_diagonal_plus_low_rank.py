"""Against dense matrices in float64; see also `test_matrices`, which every kind of matrix passes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from linalg import DiagonalPlusLowRank, block_krylov


def matrix(rank: int | None, seed: int = 0, batch: int = 3, dimension: int = 7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    diagonal = torch.randn(batch, dimension, generator=generator, dtype=dtype)
    factor = None if rank is None else torch.randn(batch, dimension, rank, generator=generator, dtype=dtype)
    return DiagonalPlusLowRank(diagonal, factor)


def positive(rank: int | None, **options) -> DiagonalPlusLowRank:
    m = matrix(rank, **options)
    return DiagonalPlusLowRank(m.alpha.abs() + 0.1, m.beta)


@pytest.fixture(params=[None, 1, 4, 9], ids=lambda rank: f"rank {rank}")
def rank(request):
    return request.param


@pytest.fixture
def v():
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


close = torch.testing.assert_close


class TestAgainstTheDenseMatrix:
    def test_dense(self, rank):
        m = matrix(rank)
        for b in range(3):
            expected = torch.diag(m.alpha[b])
            if rank:
                expected = expected + sum(torch.outer(u, u) for u in m.beta[b].T)
            close(m.dense()[b], expected)

    def test_products(self, rank, v):
        m = matrix(rank)
        close(m.matvec(v), torch.einsum("bij,bj->bi", m.dense(), v))
        close(m @ v, torch.einsum("bij,bj->bi", m.dense(), v))
        block = torch.stack([v, 2 * v, v**2], dim=2)
        close(m @ block, m.dense() @ block)
        close(m.quadratic(v), torch.einsum("bi,bij,bj->b", v, m.dense(), v))

    def test_diagonal_and_trace(self, rank):
        m = matrix(rank)
        close(m.diagonal(), m.dense().diagonal(dim1=1, dim2=2))
        close(m.trace(), torch.stack([torch.trace(one) for one in m.dense()]))

    @pytest.mark.parametrize("other_rank", [None, 2])
    def test_inner_product_and_norm(self, rank, other_rank):
        m, n = matrix(rank), matrix(other_rank, seed=1)
        close(m.inner(n), (m.dense() * n.dense()).sum((1, 2)))
        close(m.squared_norm(), torch.linalg.matrix_norm(m.dense()) ** 2)

    def test_sums(self, rank):
        m = matrix(rank)
        eye = torch.eye(7, dtype=torch.float64)
        close((0.3 * m + 2.0).dense(), 0.3 * m.dense() + 2 * eye)
        scale = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
        close((scale * m + scale).dense(), scale[:, :, None] * (m.dense() + eye))
        close((scale[0, 0] * m + scale[1, 0]).dense(), 0.5 * m.dense() + eye)

    def test_solve_and_logdet(self, rank, v):
        m = positive(rank)
        close(m.solve(v), torch.linalg.solve(m.dense(), v[:, :, None])[:, :, 0])
        close(m.logdet(), torch.logdet(m.dense()))

    @pytest.mark.parametrize("k", [1, 3, 7])
    def test_eigenpairs(self, rank, k):
        m = matrix(rank)
        values, vectors = m.eigh_top(k)
        close(values, torch.linalg.eigvalsh(m.dense()).flip(1)[:, :k])
        close(m @ vectors, vectors * values[:, None, :])
        close(vectors.mT @ vectors, torch.eye(k, dtype=torch.float64).expand(3, k, k))

    def test_rows(self, rank):
        m = matrix(rank)
        assert len(m) == 3
        close(m[1:].dense(), m.dense()[1:])

    def test_detached_and_converted(self, rank):
        m = matrix(rank)
        m.alpha.requires_grad_()
        assert not m.detach().dense().requires_grad
        assert m.to(torch.float32).dense().dtype == torch.float32
        close(m.to(torch.float32).dense().double(), m.dense(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 3])
def test_gradients(rank, v):
    def leaves(m):
        return [part.clone().requires_grad_() for part in (m.alpha, m.beta) if part.numel()]

    other = matrix(2, seed=5)
    scale = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)

    def top_projector(*parts):  # eigenvectors less their arbitrary signs
        vectors = DiagonalPlusLowRank(*parts).eigh_top(2)[1]
        return vectors @ vectors.mT

    for function in (
        lambda *parts: DiagonalPlusLowRank(*parts) @ v[:, :, None],
        lambda *parts: DiagonalPlusLowRank(*parts).trace(),
        lambda *parts: DiagonalPlusLowRank(*parts).diagonal(),
        lambda *parts: DiagonalPlusLowRank(*parts).dense(),
        lambda *parts: (scale * DiagonalPlusLowRank(*parts) - scale).dense(),
        lambda *parts: DiagonalPlusLowRank(*parts).quadratic(v),
        lambda *parts: DiagonalPlusLowRank(*parts).inner(other),
        lambda *parts: DiagonalPlusLowRank(*parts).squared_norm(),
        lambda *parts: (0.5 * DiagonalPlusLowRank(*parts) + 2.0).squared_norm(),
        lambda *parts: DiagonalPlusLowRank(*parts).solve(v),
        lambda *parts: DiagonalPlusLowRank(*parts).logdet(),
        lambda *parts: DiagonalPlusLowRank(*parts).eigh_top(2)[0],
        top_projector,
    ):
        assert torch.autograd.gradcheck(function, leaves(positive(rank)))
    m = positive(rank)
    for function in (m.matvec, m.quadratic, m.solve):
        assert torch.autograd.gradcheck(function, [v.clone().requires_grad_()])


@pytest.mark.parametrize("rank", [None, 3])
def test_single_precision(rank, v):
    double = positive(rank)
    for name, arguments in (
        ("dense", []), ("trace", []), ("diagonal", []), ("squared_norm", []), ("logdet", []),
        ("matvec", [v]), ("quadratic", [v]), ("solve", [v]), ("inner", [matrix(2, seed=5)]),
    ):  # fmt: skip
        found = getattr(double.to(torch.float32), name)(*(one.to(torch.float32) for one in arguments))
        assert found.dtype == torch.float32
        close(found.double(), getattr(double, name)(*arguments), rtol=1e-4, atol=1e-4)
    values, vectors = double.to(torch.float32).eigh_top(2)
    assert values.dtype == vectors.dtype == torch.float32
    close(values.double(), double.eigh_top(2)[0], rtol=1e-4, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation returned."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.entries = max(self.entries, one.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenpairs_of_a_large_matrix_without_forming_it(dtype):
    generator = torch.Generator().manual_seed(0)
    size = torch.logspace(0.5, -1, 30, dtype=dtype)
    m = DiagonalPlusLowRank(
        torch.rand(2, 1500, generator=generator, dtype=dtype),
        torch.randn(2, 1500, 30, generator=generator, dtype=dtype) * size / 40,
    )
    m.alpha[1, 77] += 20  # an axis of its own, outside the factor's span
    with LargestTensor() as largest:
        values, vectors = m.eigh_top(10)
    assert largest.entries < 1500 * 1500 / 2
    tolerance = 1e-4 if dtype == torch.float32 else 1e-8
    expected = torch.linalg.eigvalsh(m.dense().double()).flip(1)[:, :10].to(dtype)
    close(values, expected, rtol=tolerance, atol=tolerance)
    residual = (m @ vectors - vectors * values[:, None, :]).norm(dim=1)
    assert (residual < torch.finfo(dtype).eps ** 0.5 * 1.01 * values[:, :1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["axis that the factor does not reach", "no gaps", "zero factor", "multiple", "many"])
def test_eigenpairs_that_are_hard_to_find(kind, dtype):
    """All are above the size of the dense problem."""
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.rand(2, 300, generator=generator, dtype=dtype)
    factor = torch.randn(2, 300, 30, generator=generator, dtype=dtype) / 20
    k = 5
    if kind.startswith("axis"):
        diagonal[:, 77] += 20
        factor[:, 77] = 0
    elif kind == "no gaps":
        factor *= 0.01
    elif kind == "zero factor":
        factor *= 0
    elif kind == "multiple":
        diagonal, factor, k = torch.ones_like(diagonal), factor[:, :, :2], 10
    else:
        k = 60
    m = DiagonalPlusLowRank(diagonal, factor)
    values, vectors = m.eigh_top(k)
    tolerance = 5e-6 if dtype == torch.float32 else 1e-12
    scale = values[:, :1].max().item()
    close(values, torch.linalg.eigvalsh(m.dense()).flip(1)[:, :k], rtol=0, atol=tolerance * scale)
    assert (
        (m @ vectors - vectors * values[:, None, :]).norm(dim=1) < torch.finfo(dtype).eps ** 0.5 * 1.01 * scale
    ).all()
    close(vectors.mT @ vectors, torch.eye(k, dtype=dtype).expand(2, k, k), rtol=0, atol=1e-5)


def test_eigenpairs_that_are_not_found_are_said_to_be_so():
    m = matrix(30, dimension=300)
    m = DiagonalPlusLowRank(m.alpha, m.beta * 0.02)
    with pytest.warns(RuntimeWarning, match="eigenpairs to"):
        block_krylov(m, m._krylov_start(9), 5, restarts=1)


def test_the_diagonal_alone_is_sorted_exactly_at_any_size():
    diagonal = torch.rand(2, 5000, generator=torch.Generator().manual_seed(0))
    values, vectors = DiagonalPlusLowRank(diagonal).eigh_top(3)
    assert torch.equal(values, diagonal.sort(1, descending=True).values[:, :3])
    assert torch.equal(torch.einsum("bd,bdk->bk", diagonal, vectors), values)


@pytest.mark.parametrize("columns_first", [True, False])
def test_gradients_whatever_the_layout_and_the_order_of_calls(columns_first, v):
    """Networks give β column after column; what one call keeps must not leak into another."""
    alpha, beta = matrix(4).alpha.requires_grad_(), matrix(4).beta
    beta = (beta.mT.contiguous().mT if columns_first else beta).requires_grad_()
    dense = torch.diag_embed(alpha) + beta @ beta.mT
    expected = torch.autograd.grad((dense.square().sum() + torch.einsum("bii->", dense) ** 2), (alpha, beta))
    for norm_first in (True, False):
        m = DiagonalPlusLowRank(alpha, beta)
        with torch.no_grad():
            assert not m.squared_norm().requires_grad
        norm = m.squared_norm() if norm_first else None
        trace = m.trace().sum() ** 2
        norm = m.squared_norm() if norm is None else norm
        for ours, exact in zip(torch.autograd.grad(norm.sum() + trace, (alpha, beta)), expected, strict=True):
            close(ours, exact)


@pytest.mark.parametrize("rank", [0, 3])
def test_draws_are_those_of_their_seed(rank):
    m = positive(rank)
    draws = m.draw(5, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(5, 3, 7, generator=generator, dtype=torch.float64)
    second = torch.randn(5, 3, rank, 1, generator=generator, dtype=torch.float64)
    assert torch.equal(draws, m.alpha.sqrt() * first + (m.beta @ second)[..., 0])


def test_one_batch_of_several():
    parts = [matrix(2), matrix(2, seed=1)]
    close(DiagonalPlusLowRank.cat(parts).dense(), torch.cat([part.dense() for part in parts]))
    for misfit in ([], [matrix(2), matrix(3)], [matrix(2), matrix(None)], [matrix(2), matrix(2, dimension=8)]):
        with pytest.raises(ValueError, match="one size is expected"):
            DiagonalPlusLowRank.cat(misfit)


def test_a_diagonal_matrix_may_be_scaled_by_a_negative_number():
    m = matrix(None)
    close((-2 * m).dense(), -2 * m.dense())
    assert m.rank == 0
    assert m.beta.shape == (3, 7, 0)


def test_what_cannot_be_is_refused(v):
    with pytest.raises(ValueError, match="not positive"):
        matrix(2).logdet()
    with pytest.raises(ValueError, match="not positive"):
        matrix(2).solve(v)
    for scale in (-1.0, torch.tensor([[1.0], [-1.0], [1.0]])):
        with pytest.raises(ValueError, match="scale is negative"):
            scale * matrix(2)
    with pytest.raises(ValueError, match="from 1 to 7"):
        matrix(2).eigh_top(8)
    for alpha, beta in (((2, 3), (2, 4, 1)), ((2, 3), (2, 3)), ((3,), (3, 1)), ((2, 3), (1, 3, 1))):
        with pytest.raises(ValueError, match="does not fit"):
            DiagonalPlusLowRank(torch.zeros(alpha), torch.zeros(beta))
