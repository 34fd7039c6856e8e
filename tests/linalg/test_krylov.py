import pytest
import torch

from linalg import DiagonalPlusLowRank, block_krylov, block_lanczos, conjugate_gradients, lanczos, subspace_iteration

close = torch.testing.assert_close


class TestBlockKrylov:
    def test_leading_eigenpairs_of_any_matrix_with_products(self):
        root = torch.randn(2, 90, 90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        matrix = (root + root.mT) / 2
        start = torch.randn(2, 90, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values, vectors = block_krylov(matrix, start, 3)
        close(values, torch.linalg.eigvalsh(matrix).flip(1)[:, :3], rtol=1e-10, atol=0)
        close(matrix @ vectors, vectors * values[:, None, :], rtol=0, atol=1e-6)


class TestBlockLanczos:
    @pytest.mark.parametrize("width", [1, 3])
    def test_leading_eigenpairs_and_how_exact_they_are(self, width):
        root = torch.randn(2, 90, 90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        matrix = (root + root.mT) / 2
        start = torch.randn(2, 90, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        exact = torch.linalg.eigvalsh(matrix).flip(1)
        for tolerance in (1e-9, 0.1):
            values, vectors, error = block_lanczos(matrix, start, 3, tolerance)
            residual = (matrix @ vectors - vectors * values[:, None]).norm(dim=1).amax(1)
            assert (error <= tolerance).all()
            close(residual, error * exact.abs().amax(1), rtol=0.05, atol=1e-12)
            if tolerance < 0.1:
                close(values, exact[:, :3])
        *_, error = block_lanczos(matrix, start, 3, 1e-9, max_products=6)
        assert (error > 1e-9).all()

    @pytest.mark.parametrize("width", [1, 3])
    def test_goes_on_outside_of_an_invariant_space(self, width):
        matrix = torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]))[None]
        values, vectors, _ = block_lanczos(matrix, torch.eye(8)[None, :, :width] + 0.5, 5, 0.0)
        close(values[0], matrix[0].diagonal()[:5], rtol=0, atol=1e-5)
        close(matrix @ vectors, vectors * values[:, None], rtol=0, atol=1e-5)


class TestConjugateGradients:
    def test_solves(self):
        root = torch.randn(2, 50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        matrix = root @ root.mT / 50 + torch.diag(torch.logspace(-2, 2, 50, dtype=torch.float64))
        v = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        v[:, :, 1] = 0
        close(conjugate_gradients(matrix, v, matrix.diagonal(dim1=1, dim2=2)), torch.linalg.solve(matrix, v))
        rough = conjugate_gradients(matrix, v, matrix.diagonal(dim1=1, dim2=2), tolerance=0.1)
        assert ((matrix @ rough - v).norm(dim=1) <= 0.1 * v.norm(dim=1)).all()

    def test_too_few_products_are_said(self):
        matrix = torch.diag(torch.linspace(1, 100, 50))[None]
        with pytest.warns(RuntimeWarning, match="3 products leave M⁻¹v with a residual of"):
            conjugate_gradients(matrix, torch.ones(1, 50, 1), torch.ones(1, 50), max_products=3)


class TestSubspaceIteration:
    def test_knows_the_sign_of_an_eigenvalue(self):
        matrix = torch.diag(torch.tensor([1.0, 0.5, 0.2, -3.0]))[None]
        start = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0))
        values, directions, _ = subspace_iteration(lambda v, rows: matrix[rows] @ v, start, 60)
        close(values, torch.tensor([[1.0, -3.0]]))
        close(directions[0].abs(), torch.eye(4)[:, [0, 3]], rtol=0, atol=1e-4)

    def test_stops_matrix_by_matrix(self):
        easy, hard = torch.diag(torch.tensor([1.0, 0.01, 0.0])), torch.diag(torch.tensor([1.0, 0.9, 0.0]))
        matrices = torch.stack([easy, hard])
        start = torch.ones(2, 3, 1)
        _, directions, steps = subspace_iteration(lambda v, rows: matrices[rows] @ v, start, 100, 0.01)
        assert steps[0] < steps[1] < 100
        close(directions[:, 0, 0].abs(), torch.ones(2), rtol=0, atol=5e-3)


class TestLanczos:
    def test_a_function_of_a_matrix(self):
        generator = torch.Generator().manual_seed(0)
        m = DiagonalPlusLowRank(
            torch.randn(4, 60, generator=generator, dtype=torch.float64),
            torch.randn(4, 60, 3, generator=generator, dtype=torch.float64),
        )
        v = torch.randn(4, 60, 2, generator=generator, dtype=torch.float64)
        ours = lanczos(m, v, torch.sin, 1e-12)
        values, vectors = torch.linalg.eigh(m.dense())
        close(ours, vectors @ (values.sin()[:, :, None] * (vectors.mT @ v)), rtol=0, atol=1e-9)

    def test_an_invariant_subspace_ends_it(self):
        m = DiagonalPlusLowRank(torch.tensor([[1.0, 1.0, 2.0, 2.0, 5.0]]))
        v = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])  # two eigenvalues; none at all
        close(lanczos(m, v, torch.exp), m.alpha.exp()[:, :, None] * v)

    @pytest.mark.parametrize("products", range(1, 10))
    def test_too_few_products_are_said(self, products):
        m = DiagonalPlusLowRank(torch.linspace(-10, 10, 100)[None])
        with pytest.warns(RuntimeWarning, match=f"{products} products leave f\\(M\\)v with an error of \\d"):
            lanczos(m, torch.ones(1, 100, 1), torch.exp, max_products=products)

    @pytest.mark.parametrize("products", range(1, 10))
    def test_few_products_are_enough_for_few_eigenvalues(self, products):
        eigenvalues = torch.linspace(-1, 1, min(products, 3), dtype=torch.float64)
        m = DiagonalPlusLowRank(eigenvalues.repeat(1, 9))
        v = torch.rand(*m.alpha.shape, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        close(lanczos(m, v, torch.exp, max_products=products), m.alpha.exp()[:, :, None] * v)

    @pytest.mark.parametrize("products", range(3, 10))
    def test_few_products_are_enough_for_a_straight_line(self, products):
        """It is exact from the second product on, and seen to be so with the next."""
        m = DiagonalPlusLowRank(torch.linspace(-1, 1, 100)[None])
        v = torch.ones(1, 100, 1)
        close(lanczos(m, v, lambda e: 2 * e + 1, max_products=products), 2 * m.alpha[:, :, None] + 1)

    def test_a_function_that_is_zero_ends_it(self):
        m = DiagonalPlusLowRank(-torch.linspace(1, 10, 100)[None])
        assert not lanczos(m, torch.ones(1, 100, 1), lambda e: e.clamp(min=0)).any()

    def test_no_products_are_refused(self):
        with pytest.raises(ValueError, match="at least 1 is expected"):
            lanczos(DiagonalPlusLowRank(torch.ones(1, 9)), torch.ones(1, 9, 1), torch.exp, max_products=0)
