"""What every kind of matrix can do, against its dense form in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import linalg
from linalg import (
    Dense,
    DiagonalPlusLowRank,
    Jacobian,
    Restricted,
    SymmetricMatrix,
    TaperedLowRank,
    hutchinson_diagonal,
    phi,
)

BATCH = 3
KINDS = ["rank 0", "rank 1", "rank 5", "rank 4, tapered", "dense", "Jacobian"]
KINDS += ["rank 4, tapered, restricted", "Jacobian, restricted"]  # to some of the entries of one that is larger
SHAPES = {7: (1, 1, 7), 11: (1, 1, 11), 60: (3, 4, 5), 90: (3, 5, 6)}  # of images of D entries
LARGER = {7: 11, 60: 90}
FORMS = ["plain", "scaled", "indefinite"]
close = torch.testing.assert_close


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tapers(ranges: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """`exp(−d²/2ℓ²)` between every two entries of an image, `(r, D, D)`."""
    grid = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in shape), indexing="ij")
    places = torch.stack(grid[1:], dim=-1).view(-1, 2)  # whatever the channel
    return torch.exp(-(places[:, None] - places).square().sum(2) * ranges[:, None, None] ** -2 / 2)


def low_rank(beta: torch.Tensor, taper: torch.Tensor | float = 1.0) -> torch.Tensor:
    return (torch.einsum("bdr,ber->brde", beta, beta) * taper).sum(1)


def make(kind: str, dimension: int, dtype: torch.dtype) -> tuple[SymmetricMatrix, torch.Tensor]:
    """A positive definite matrix of the kind, and its dense form in float64."""
    if kind.endswith("restricted"):
        whole, dense = make(kind.removesuffix(", restricted"), LARGER[dimension], dtype)
        places = torch.randperm(LARGER[dimension], generator=torch.Generator().manual_seed(0))[:dimension]
        return Restricted(whole, places), dense[:, places[:, None], places]
    if kind.startswith("rank"):
        alpha = normal(BATCH, dimension, seed=0).abs() + 0.1
        beta = normal(BATCH, dimension, int(kind[5]), seed=1) / dimension**0.5
        if kind.endswith("tapered"):
            ranges = torch.tensor([0.7, 2.0, 2.0, torch.inf], dtype=torch.float64)
            matrix = TaperedLowRank(alpha.to(dtype), beta.to(dtype), ranges.to(dtype), SHAPES[dimension])
            return matrix, torch.diag_embed(alpha) + low_rank(beta, tapers(ranges, SHAPES[dimension]))
        matrix = DiagonalPlusLowRank(alpha.to(dtype), beta.to(dtype) if beta.numel() else None)
        return matrix, torch.diag_embed(alpha) + low_rank(beta)
    root = normal(BATCH, dimension, dimension, seed=2) / dimension**0.5
    if kind == "dense":
        dense = root @ root.mT + 0.1 * torch.eye(dimension, dtype=torch.float64)
        return Dense(dense.to(dtype)), dense
    x, axes = normal(BATCH, dimension, seed=3), root[0]

    def gradient(x: torch.Tensor) -> torch.Tensor:  # of Σ log cosh (Ax)_i + x²/5
        return (x @ axes.mT.to(x)).tanh() @ axes.to(x) + 0.4 * x

    slope = 1 - (x @ axes.mT).tanh().square()
    dense = torch.einsum("ij,bi,ik->bjk", axes, slope, axes) + 0.4 * torch.eye(dimension, dtype=torch.float64)
    return Jacobian(gradient, x.to(dtype)), dense


BOTH_WAYS = pytest.mark.parametrize("dimension", [7, 60])  # functions by eigenvectors, and by Lanczos' method


@pytest.fixture
def dimension():
    return 7


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def case(kind, form, dimension, dtype):
    """The matrix, and its dense form in float64."""
    matrix, dense = make(kind, dimension, dtype)
    eye = torch.eye(dimension, dtype=torch.float64)
    if form == "scaled":
        scale, shift = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([[0.1], [0.2], [0.0]])
        matrix = 0.5 * (scale.to(dtype) * matrix) + shift.to(dtype)
        return matrix, 0.5 * scale[:, None, None] * dense + shift[:, :, None].double() * eye
    return (0.5 * matrix - 2.0, 0.5 * dense - 2 * eye) if form == "indefinite" else (matrix, dense)


@pytest.fixture
def near(dtype):
    """Asserts that values of the matrix's type are those in float64, to rounding."""

    def compare(actual: torch.Tensor, expected: torch.Tensor, factor: float = 1.0) -> None:
        assert actual.dtype == dtype
        error = factor * (1e-5 if dtype == torch.float32 else 1e-12) * max(1.0, float(expected.abs().max()))
        close(actual.double(), expected, rtol=0, atol=error)

    return compare


def block(dimension: int, dtype: torch.dtype, columns: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    v = normal(BATCH, dimension, columns, seed=9)
    return v.to(dtype), v


def test_size(case, dimension, dtype):
    matrix, _ = case
    assert (len(matrix), matrix.dimension, matrix.dtype, matrix.device.type) == (BATCH, dimension, dtype, "cpu")


def test_entries(case, near):
    matrix, dense = case
    near(matrix.dense(), dense)
    near(matrix.diagonal(), dense.diagonal(dim1=1, dim2=2))
    near(matrix.trace(), dense.diagonal(dim1=1, dim2=2).sum(1))


def test_products(case, near, dimension, dtype):
    matrix, dense = case
    v, exact = block(dimension, dtype)
    near(matrix @ v, dense @ exact)
    near(matrix @ v[:, :, 0], (dense @ exact)[:, :, 0])
    near(matrix.matvec(v[:, :, 0]), (dense @ exact)[:, :, 0])
    quadratic = torch.einsum("bik,bij,bjk->bk", exact, dense, exact)
    near(matrix.quadratic(v), quadratic)
    near(matrix.quadratic(v[:, :, 0]), quadratic[:, 0])


def test_rows(case, near):
    matrix, dense = case
    for rows in (slice(1, 3), [2, 0], torch.tensor([True, False, True])):
        assert type(matrix[rows]) is type(matrix)
        near(matrix[rows].dense(), dense[rows])


def test_scale_and_shift(case, near, dtype):
    matrix, dense = case
    eye = torch.eye(matrix.dimension, dtype=torch.float64)
    numbers = torch.tensor([0.5, 1.0, 2.0], dtype=dtype)
    each = numbers[:, None, None].double()
    near((2 * matrix).dense(), 2 * dense)
    near((matrix * numbers).dense(), each * dense)
    near((numbers[:, None] * matrix).dense(), each * dense)
    near((numbers[0] * matrix + 1).dense(), 0.5 * dense + eye)
    near((numbers + matrix).dense(), dense + each * eye)
    near((matrix - numbers[:, None]).dense(), dense - each * eye)
    near((1 + matrix).dense(), dense + eye)
    for misfit in (numbers[:2], numbers[None], torch.ones(3, matrix.dimension)):
        with pytest.raises(ValueError, match="for 3 matrices; expected: a float"):
            misfit * matrix
        with pytest.raises(ValueError, match="for 3 matrices; expected: a float"):
            matrix + misfit
    for other in (matrix, "2"):
        with pytest.raises(TypeError):
            other * matrix
        with pytest.raises(TypeError):
            matrix + other


def test_leading_eigenpairs(case, near):
    matrix, dense = case
    for k in (4, matrix.dimension):
        values, vectors = matrix.eigh_top(k)
        near(values, torch.linalg.eigvalsh(dense).flip(1)[:, :k])
        near(matrix @ vectors, vectors.double() * values[:, None].double(), 3)
        near(vectors.mT @ vectors, torch.eye(k, dtype=torch.float64).expand(BATCH, k, k))
    for k in (0, matrix.dimension + 1):
        with pytest.raises(ValueError, match=f"from 1 to {matrix.dimension} can be had"):
            matrix.eigh_top(k)


@BOTH_WAYS
def test_functions(case, near, dimension, dtype):
    matrix, dense = case
    v, exact = block(dimension, dtype, 2)
    values, vectors = torch.linalg.eigh(dense)

    def expected(function):
        return vectors @ (function(values)[:, :, None] * (vectors.mT @ exact))

    tolerance = 1e-13 if dtype == torch.float64 else 1e-6  # of Lanczos' method, where it is taken
    near(matrix.apply(torch.exp, v, tolerance), expected(torch.exp), 3)
    near(matrix.apply(torch.exp, v[:, :, 0], tolerance), expected(torch.exp)[:, :, 0], 3)

    def one_each(eigenvalues):
        return torch.stack([phi(eigenvalues[:, 0], 0.3), eigenvalues[:, 1].sin()], dim=1)

    both = torch.stack([expected(lambda e: phi(e, 0.3))[:, :, 0], expected(torch.sin)[:, :, 1]], dim=2)
    near(matrix.apply(one_each, v, tolerance), both, 3)


def test_solves_and_determinants(case, near, kind, form, dimension, dtype):
    matrix, dense = case
    v, exact = block(dimension, dtype)
    if kind == "Jacobian":
        for ask in (lambda: matrix.solve(v), matrix.logdet):
            with pytest.raises(NotImplementedError, match=r"of a Jacobian cannot be had; .* Dense\(matrix.dense"):
                ask()
    elif form == "indefinite":
        for ask in (lambda: matrix.solve(v), matrix.logdet):
            with pytest.raises(ValueError, match="not positive"):
                ask()
    else:
        near(matrix.solve(v), torch.linalg.solve(dense, exact), 10)
        near(matrix.solve(v[:, :, 0]), torch.linalg.solve(dense, exact)[:, :, 0], 10)
        near(matrix.logdet(), torch.logdet(dense))


@BOTH_WAYS
def test_whitening(case, near, kind, form, dimension, dtype):
    """With the rows of the identity, one a matrix: W = A⁻ᵀ has `WᵀMW = I`."""
    matrix, dense = case
    eye = torch.eye(dimension, dtype=dtype)
    if kind == "Jacobian" or form == "indefinite":
        error, message = (NotImplementedError, "cannot be had") if kind == "Jacobian" else (ValueError, "not positive")
        with pytest.raises(error, match=message):
            matrix.whiten(eye[:BATCH])
        return
    white, logdet = matrix[[0] * dimension].whiten(eye)
    near(white @ white.mT, torch.linalg.inv(dense[0]), 10)
    near(white.mT @ dense[0].to(dtype) @ white, torch.eye(dimension, dtype=torch.float64), 10)
    near(logdet, torch.logdet(dense[0]).expand(dimension), 3)


def test_a_floor_under_the_eigenvalues(case, near, kind, form):
    matrix, dense = case
    clamped, count = matrix.clamp(0.05)
    lowest = torch.linalg.eigvalsh(clamped.dense().double()).amin()
    assert lowest > 0.05 - 1e-5
    if form != "indefinite":
        assert count == 0
        near(clamped.dense(), dense)
    elif kind.startswith("rank"):
        alpha = matrix.whole.alpha[:, matrix.places] if isinstance(matrix, Restricted) else matrix.alpha
        assert count == (alpha < 0.05).sum()
        near(clamped.diagonal(), dense.diagonal(dim1=1, dim2=2) + (0.05 - alpha).clamp(min=0).double())
    else:
        assert count == (torch.linalg.eigvalsh(dense) < 0.05).sum()
        above = torch.linalg.eigvalsh(dense).clamp(min=0.05)
        close(torch.linalg.eigvalsh(clamped.dense()).double(), above, rtol=0, atol=1e-5)


@BOTH_WAYS
@pytest.mark.parametrize("form", ["plain", "scaled"])
def test_draws(case, form, dimension, dtype):
    matrix, dense = case
    count = 4000 if dimension == 7 else 200
    draws = matrix.draw(count, torch.Generator().manual_seed(0)).double()
    assert draws.shape == (count, BATCH, dimension)
    variances = dense.diagonal(dim1=1, dim2=2)
    assert (draws.mean(0).abs() < 5 * (variances / count).sqrt()).all()
    standard_error = ((variances[:, :, None] * variances[:, None] + dense.square()) / count).sqrt()
    covariance = torch.einsum("nbi,nbj->bij", draws, draws) / count
    assert ((covariance - dense).abs() < 6 * standard_error).all()
    again = matrix.draw(count, torch.Generator().manual_seed(0))
    assert torch.equal(again.double(), draws)


def test_diagonal_from_probes(case):
    matrix, dense = case
    estimate, standard_error = linalg.hutchinson_diagonal(matrix, 400, torch.Generator().manual_seed(0))
    exact = dense.diagonal(dim1=1, dim2=2)
    expected = ((dense - torch.diag_embed(exact)).square().sum(2) / 400).sqrt()
    assert ((estimate - exact).abs() < 5 * expected + 1e-4).all()
    close(standard_error.double(), expected, rtol=0.4, atol=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        linalg.hutchinson_diagonal(matrix, 1)


def test_detached_and_converted(case, near, dtype):
    matrix, dense = case
    near(matrix.detach().dense(), dense)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    converted = matrix.to(other)
    assert type(converted) is type(matrix)
    assert converted.dtype == converted.dense().dtype == other
    close(converted.dense().double(), dense, rtol=0, atol=2e-5 * max(1.0, float(dense.abs().max())))


@pytest.mark.parametrize("other_kind", KINDS)
@pytest.mark.parametrize("form", ["plain", "indefinite"])
def test_inner_products(case, near, other_kind, dimension, dtype):
    matrix, dense = case
    other, other_dense = make(other_kind, dimension, dtype)
    near(matrix.inner(other), (dense * other_dense).sum((1, 2)))
    near(matrix.squared_norm(), torch.linalg.matrix_norm(dense) ** 2)
    with pytest.raises(ValueError, match="the same are expected"):
        matrix.inner(other[:2])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("Jacobian")])
@pytest.mark.parametrize("dtype", [torch.float64])
def test_gradients_are_those_of_the_dense_formulas(kind, dimension, dtype):
    matrix, _ = make(kind, dimension, dtype)
    whole = matrix.whole if isinstance(matrix, Restricted) else matrix
    names = [name for name in ("matrix", "alpha", "beta", "ranges") if hasattr(whole, name)]
    v, _ = block(dimension, dtype)
    other = make("dense", dimension, dtype)[0]
    pairs = {
        "product": (lambda m: m @ v, lambda d: d @ v),
        "inner": (lambda m: m.inner(other), lambda d: (d * other.matrix).sum((1, 2))),
        "squared norm": (lambda m: m.squared_norm(), lambda d: d.square().sum((1, 2))),
        "quadratic": (lambda m: m.quadratic(v), lambda d: torch.einsum("bik,bij,bjk->bk", v, d, v)),
        "trace": (lambda m: m.trace(), lambda d: torch.einsum("bii->b", d)),
        "diagonal": (lambda m: m.diagonal(), lambda d: torch.einsum("bii->bi", d)),
        "solve": (lambda m: m.solve(v), lambda d: torch.linalg.solve(d, v)),
        "logdet": (lambda m: m.logdet(), torch.logdet),
        "scaled and shifted": (lambda m: (0.5 * m + 2).quadratic(v), lambda d: ((0.5 * d @ v + 2 * v) * v).sum(1)),
    }

    def gradients(function, of_dense: bool):
        leaves = [getattr(whole, name).clone().requires_grad_() for name in names]
        if kind == "dense":
            dense = leaves[0]
        else:
            taper = tapers(leaves[2], SHAPES[whole.dimension]) if "tapered" in kind else 1.0
            dense = torch.diag_embed(leaves[0]) + low_rank(leaves[1], taper)
        structured: SymmetricMatrix = replace(whole, **dict(zip(names, leaves, strict=True)))
        if isinstance(matrix, Restricted):
            dense = dense[:, matrix.places[:, None], matrix.places]
            structured = Restricted(structured, matrix.places)
        values = function(dense if of_dense else structured)
        weights = torch.linspace(0.5, 2, values.numel(), dtype=dtype).view(values.shape)
        return torch.autograd.grad((weights * values).sum(), leaves, allow_unused=True, materialize_grads=True)

    for name, (structured, dense) in pairs.items():
        for ours, expected in zip(gradients(structured, False), gradients(dense, True), strict=True):
            if kind == "dense":  # of a symmetric matrix only the symmetric part of a gradient has a meaning
                ours, expected = ours + ours.mT, expected + expected.mT
            close(ours, expected, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_dense_tensors_are_taken_for_matrices():
    tensor = torch.eye(3).expand(2, 3, 3)
    assert linalg.as_matrix(tensor).matrix is tensor
    matrix = DiagonalPlusLowRank(torch.ones(2, 3))
    assert linalg.as_matrix(matrix) is matrix
    for misfit in (torch.eye(3), torch.zeros(2, 3, 4)):
        with pytest.raises(ValueError, match=r"\(B, D, D\) is expected"):
            linalg.as_matrix(misfit)


class TestEmptyBatches:
    @pytest.mark.parametrize("kind", ["low rank", "dense", "jacobian"])
    @pytest.mark.parametrize("dimension", [6, 300])
    def test_have_empty_answers(self, kind, dimension):
        empty = torch.zeros(0, dimension)
        m = {
            "low rank": lambda: DiagonalPlusLowRank(empty, torch.zeros(0, dimension, 2)),
            "dense": lambda: Dense(torch.zeros(0, dimension, dimension)),
            "jacobian": lambda: Jacobian(torch.sin, empty),
        }[kind]()
        values, vectors = m.eigh_top(2)
        assert (values.shape, vectors.shape) == ((0, 2), (0, dimension, 2))
        assert m.apply(torch.exp, empty).shape == (0, dimension)
        assert m.diagonal().shape == (0, dimension)


def test_a_number_of_numpy_is_a_number():
    m = DiagonalPlusLowRank(torch.ones(2, 3), torch.ones(2, 3, 1))
    torch.testing.assert_close((np.float64(2.0) * m).dense(), 2 * m.dense())


def test_an_estimate_does_not_depend_on_its_neighbours():
    x = torch.randn(1, 20, generator=torch.Generator().manual_seed(0)).expand(3, 20)
    estimate, _ = hutchinson_diagonal(Jacobian(lambda x: (x @ x.new_ones(20, 20)).sin(), x), 8)
    torch.testing.assert_close(estimate[0], estimate[2])


def test_norm_and_trace_can_be_differentiated_again_and_again():
    alpha, beta = torch.ones(2, 5, requires_grad=True), torch.ones(2, 5, 2, requires_grad=True)
    m = DiagonalPlusLowRank(alpha, beta)
    for _ in range(2):
        m.squared_norm().sum().backward()
        m.diagonal().sum().backward()
    with torch.no_grad():
        beta.mul_(2)
    torch.testing.assert_close(m.squared_norm(), m.dense().square().sum((1, 2)))
    variance = torch.func.jacrev(lambda b: DiagonalPlusLowRank(alpha.detach(), b).diagonal().sum())(beta.detach())
    torch.testing.assert_close(variance, 2 * beta.detach())
