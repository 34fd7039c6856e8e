import torch

from linalg import apply_by_eigenvectors, phi

close = torch.testing.assert_close


def test_phi_is_its_integral():
    values = torch.tensor([-50.0, -2.0, -1e-9, 0.0, 1e-9, 2.0], dtype=torch.float64)
    s = torch.linspace(0, 0.7, 20_001, dtype=torch.float64)
    expected = torch.trapezoid((s * values[:, None]).exp(), s)
    close(phi(values, 0.7), expected, rtol=1e-6, atol=0)
    assert phi(values.float(), 0.7).dtype == torch.float32


def test_phi_stays_finite_in_float32():
    values = torch.tensor([-1e30, -1e-30, 0.0, 1e-30, 1e30])
    assert phi(values, 0.1).isfinite().all()
    close(phi(values, 0.1)[:4], torch.tensor([0.0, 0.1, 0.1, 0.1]))
    close(phi(values, 0.1, max_exponent=1.0)[4], 0.1 * torch.tensor(1.0).expm1())


def test_a_function_by_eigenvectors_is_the_matrix_function():
    root = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = (root + root.mT) / 2
    v = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close(apply_by_eigenvectors(matrix, torch.exp, v), torch.linalg.matrix_exp(matrix) @ v)
    close(apply_by_eigenvectors(matrix, torch.square, v), matrix @ matrix @ v)
