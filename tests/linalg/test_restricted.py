"""Rows and columns of a matrix at some places, against those of its dense form."""

import io
import sys

import pytest
import torch

from linalg import (
    Dense,
    DiagonalPlusLowRank,
    Jacobian,
    Restricted,
    TaperedLowRank,
    hutchinson_diagonal,
    jacobians,
    restrict,
)

close = torch.testing.assert_close
SHAPE = (3, 9, 8)
SIZE = 3 * 9 * 8


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tapered() -> TaperedLowRank:
    ranges = torch.tensor([1.0, 3.0, torch.inf], dtype=torch.float64)
    return TaperedLowRank(normal(2, SIZE, seed=0).abs(), normal(2, SIZE, 3, seed=1), ranges, SHAPE)


def field(x: torch.Tensor) -> torch.Tensor:
    """The gradient of Σ log cosh (Ax)_i: its Jacobian is `Aᵀ diag(1 − tanh²) A`."""
    axes = normal(SIZE, SIZE, seed=2) * 0.6 ** torch.arange(SIZE)[:, None] / SIZE**0.5
    return (x @ axes.mT).tanh() @ axes


MATRICES = {
    "diagonal plus low rank": lambda: DiagonalPlusLowRank(normal(2, SIZE, seed=0), normal(2, SIZE, 3, seed=1)),
    "dense": lambda: Dense(tapered().dense()),
    "tapered": tapered,
    "Jacobian": lambda: Jacobian(field, normal(2, SIZE, seed=3)),
}
KEPT = {"diagonal plus low rank", "dense"}  # their own kind, whatever the places


def box(top: int, left: int, height: int, width: int) -> torch.Tensor:
    entries = torch.arange(SIZE).view(SHAPE)
    return entries[:, top : top + height, left : left + width].flatten()


PLACES = {
    "box": box(2, 1, 4, 5),
    "corner": box(0, 0, 3, 8),
    "everything": torch.arange(SIZE),
    "one channel of a box": box(2, 1, 4, 5)[:20],
    "mask": torch.arange(SIZE)[normal(SIZE, seed=4) > 0.3],
    "another order": box(2, 1, 4, 5).flip(0),
    "one entry": torch.tensor([100]),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("where", PLACES)
def test_it_has_the_entries_of_the_whole(name, where):
    matrix, places = MATRICES[name](), PLACES[where]
    part, expected = restrict(matrix, places), matrix.dense()[:, places[:, None], places]
    v = normal(2, len(places), 2, seed=5)
    close(part.dense(), expected)
    close(part.diagonal(), expected.diagonal(dim1=1, dim2=2))
    close(part @ v, expected @ v)
    own = name in KEPT or (name == "tapered" and where in ("box", "corner", "everything"))
    assert type(part) is (type(matrix) if own else Restricted)
    assert part.products_only == (name == "Jacobian")


def test_a_box_of_a_tapered_one_is_as_small_as_the_box():
    part = restrict(tapered(), PLACES["box"])
    assert (part.shape, part.beta.shape) == ((3, 4, 5), (2, 60, 3))
    masked = restrict(tapered(), PLACES["one channel of a box"])
    assert masked.whole.shape == (3, 4, 5)


def test_a_part_of_a_part():
    matrix, inner = tapered(), torch.tensor([0, 7, 3])
    part = restrict(restrict(matrix, PLACES["mask"]), inner)
    close(part.dense(), restrict(matrix, PLACES["mask"][inner]).dense())
    assert not isinstance(part.whole, Restricted)


@pytest.mark.parametrize("name", ["tapered", "Jacobian"])
def test_eigenpairs_of_a_part(name):
    """Of 200 entries, by products alone: of a Jacobian by subspace iteration, whose tolerance is a sine."""
    matrix, places = MATRICES[name](), torch.arange(SIZE)[:200]
    values, vectors = restrict(matrix, places).eigh_top(3, 1e-4)
    exact = torch.linalg.eigh(matrix.dense()[:, :200, :200])
    close(values, exact.eigenvalues.flip(1)[:, :3], rtol=1e-4, atol=0)
    overlap = (vectors.mT @ exact.eigenvectors.flip(2)[:, :, :3]).diagonal(dim1=1, dim2=2).abs()
    assert (overlap > 0.999).all()


def test_a_diagonal_from_probes_in_pieces_is_that_of_all_at_once(monkeypatch):
    matrix = tapered()
    whole = hutchinson_diagonal(matrix, 30, torch.Generator().manual_seed(0))
    monkeypatch.setattr(jacobians, "ENTRIES", 7 * 2 * SIZE)
    for one, all_at_once in zip(hutchinson_diagonal(matrix, 30, torch.Generator().manual_seed(0)), whole, strict=True):
        close(one, all_at_once)


def test_a_bar_says_how_many_products_are_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    hutchinson_diagonal(tapered(), 4, progress=False)
    assert not sys.stderr.getvalue()
    hutchinson_diagonal(tapered(), 4, progress=True)
    assert "products" in sys.stderr.getvalue()
    assert "/4" in sys.stderr.getvalue()


def test_products_with_a_jacobian_in_pieces_are_those_of_all_at_once(monkeypatch):
    matrix, v, sizes = MATRICES["Jacobian"](), normal(2, SIZE, 9, seed=6), []
    whole = matrix @ v

    def watched(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return field(x)

    monkeypatch.setattr(jacobians, "ENTRIES", 6 * SIZE)
    close(Jacobian(watched, matrix.x) @ v, whole)
    assert max(sizes) == 6
