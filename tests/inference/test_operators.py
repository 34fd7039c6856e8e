"""Linear operators against their matrices, which are had column by column or written out."""

import math

import numpy as np
import pytest
import torch

from inference.operators import Blur, Dense, Downsample, Mask, Operator

close = torch.testing.assert_close
SHAPE = (2, 6, 4)
SIZE = 48
generator = torch.Generator().manual_seed(0)
PIXELS = torch.rand(SHAPE[1:], generator=generator) < 0.4
ENTRIES = torch.rand(SHAPE, generator=generator) < 0.4
FULL = torch.randn(7, SIZE, generator=generator, dtype=torch.float64)
APART = FULL * (torch.randint(7, (SIZE,), generator=generator) == torch.arange(7)[:, None])
OPERATORS = {
    "mask of pixels": Mask(PIXELS, SHAPE),
    "mask of entries": Mask(ENTRIES, SHAPE),
    "mask of points": Mask(ENTRIES.flatten().numpy(), (SIZE,)),
    "downsample": Downsample(2, SHAPE),
    "downsample by one": Downsample(1, SHAPE),
    "blur": Blur(1.3, SHAPE),
    "blur of little": Blur(0.05, SHAPE),
    "dense": Dense(FULL),
    "dense with disjoint rows": Dense(APART),
}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def matrix_of(operator: Operator) -> torch.Tensor:
    """A, from the images of the unit vectors."""
    return operator(torch.eye(operator.shape[1], dtype=torch.float64)).T


def written_out(name: str) -> torch.Tensor:
    """A, by its definition, entry by entry."""
    identity = torch.eye(SIZE, dtype=torch.float64)
    if name.startswith("mask"):
        return identity[(PIXELS.expand(SHAPE) if name.endswith("pixels") else ENTRIES).flatten()]
    if name.startswith("dense"):
        return APART if "disjoint" in name else FULL
    if name == "downsample":
        return torch.nn.functional.avg_pool2d(identity.view(SIZE, *SHAPE), 2).flatten(1).T
    if name in ("downsample by one", "blur of little"):
        return identity
    columns = []
    for place in np.ndindex(SHAPE):
        image = torch.zeros(SHAPE, dtype=torch.float64)
        for row, column in np.ndindex(SHAPE[1:]):
            near = math.exp(-((row - place[1]) ** 2 + (column - place[2]) ** 2) / (2 * 1.3**2))
            image[place[0], row, column] = near / total_weight(row, column)
        columns.append(image.flatten())
    return torch.stack(columns, dim=1)


def total_weight(row: int, column: int) -> float:
    """Of the Gaussian about a pixel, the part in the image."""
    return sum(math.exp(-((row - i) ** 2 + (column - j) ** 2) / (2 * 1.3**2)) for i, j in np.ndindex(SHAPE[1:]))


@pytest.fixture(params=OPERATORS)
def operator(request):
    return OPERATORS[request.param]


@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_the_matrix_of_its_definition(name):
    operator, expected = OPERATORS[name], written_out(name)
    assert operator.shape == tuple(expected.shape)
    close(matrix_of(operator), expected, atol=1e-14, rtol=0)


def test_the_transpose_is_that_of_the_matrix(operator):
    close(
        operator.transposed(torch.eye(operator.shape[0], dtype=torch.float64)), matrix_of(operator), rtol=1e-14, atol=0
    )
    x, y = normal(5, SIZE), normal(5, operator.shape[0])
    close((operator(x) * y).sum(1), (x * operator.transposed(y)).sum(1))


def test_axes_before_the_last_are_left_alone(operator):
    x, y = normal(2, 3, SIZE), normal(2, 3, operator.shape[0])
    close(operator(x)[1, 2], operator(x[1, 2]))
    close(operator.transposed(y)[1, 2], operator.transposed(y[1, 2]))
    close(operator(x), x @ matrix_of(operator).T)
    close(operator.transposed(y), y @ matrix_of(operator))


def test_blocks_are_columns(operator):
    block, measured = normal(2, SIZE, 3), normal(2, operator.shape[0], 3)
    close(operator.columns(block), matrix_of(operator) @ block)
    close(operator.transposed_columns(measured), matrix_of(operator).T @ measured)


def test_the_diagonal_of_a_measured_diagonal_matrix(operator):
    v = normal(3, SIZE).square()
    close(
        operator.squares(v), torch.stack([(matrix_of(operator) * row @ matrix_of(operator).T).diagonal() for row in v])
    )


def test_disjoint_rows_leave_a_diagonal_matrix_diagonal(operator):
    product = matrix_of(operator).abs() @ matrix_of(operator).abs().T
    assert operator.disjoint == bool((product == product.diagonal().diag()).all())


def test_measurements_as_pictures():
    assert Downsample(2, SHAPE).measured_shape == (2, 3, 2)
    assert Blur(1.0, SHAPE).measured_shape == SHAPE
    assert Mask(PIXELS, SHAPE).measured_shape == (2 * int(PIXELS.sum()),)
    assert Dense(FULL).measured_shape == (7,)


def test_what_is_smooth_stays_as_it_is():
    flat = torch.full((1, SIZE), 0.7, dtype=torch.float64)
    close(Blur(2.0, SHAPE)(flat), flat)
    close(Downsample(2, SHAPE)(flat), flat[:, :12])


def test_the_type_is_that_of_the_points(operator):
    for dtype in (torch.float32, torch.float64):
        x, y = normal(2, SIZE).to(dtype), normal(2, operator.shape[0]).to(dtype)
        assert {part.dtype for part in (operator(x), operator.transposed(y), operator.squares(x))} == {dtype}


def test_gradients_pass(operator):
    x, y = normal(SIZE).requires_grad_(), normal(operator.shape[0])
    (gradient,) = torch.autograd.grad(operator(x) @ y, x)
    close(gradient, operator.transposed(y))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Mask(PIXELS.float(), SHAPE),
            r"mask \(6, 4\) of torch.float32; bool, \(6, 4\) or \(2, 6, 4\), is expec",
        ),
        (lambda: Mask(PIXELS.T, SHAPE), r"mask \(4, 6\) of torch.bool; bool, \(6, 4\) or \(2, 6, 4\), is expected"),
        (lambda: Mask(PIXELS.flatten(), (SIZE,)), r"mask \(24,\) of torch.bool; bool, \(48,\), is expected"),
        (lambda: Mask(PIXELS & False, SHAPE), "the mask measures nothing; true entries are expected"),
        (lambda: Downsample(4, SHAPE), "images of 6×4 cannot be divided into blocks of 4×4 pixels"),
        (lambda: Downsample(0, SHAPE), "factor is 0; a whole number, 1 or more, is expected"),
        (lambda: Blur(0.0, SHAPE), r"std is 0.0; a positive, finite number is expected"),
        (lambda: Blur(float("nan"), SHAPE), r"std is nan; a positive, finite number is expected"),
        (lambda: Dense(FULL[0]), r"a matrix \(48,\) of torch.float64; floats \(m, D\) are expected"),
        (lambda: Dense(FULL.int()), r"a matrix \(7, 48\) of torch.int32; floats \(m, D\) are expected"),
        (lambda: Dense(FULL)(normal(3, 47)), r"x has shape \(3, 47\); \(…, 48\) is expected"),
        (lambda: Dense(FULL).transposed(normal(3, 48)), r"y has shape \(3, 48\); \(…, 7\) is expected"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
