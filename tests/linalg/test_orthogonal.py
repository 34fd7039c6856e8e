"""Gram–Schmidt: the columns of a QR decomposition, and gradients that go to a column's own alone."""

import torch

from linalg import orthogonal_columns

close = torch.testing.assert_close


def test_columns_are_those_of_a_qr_decomposition():
    columns = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, r = torch.linalg.qr(columns)
    close(orthogonal_columns(columns), q * r.diagonal(dim1=1, dim2=2)[:, None])
    assert orthogonal_columns(columns[:, :, :0]).shape == (3, 6, 0)


def test_columns_before_get_no_gradient():
    columns = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(orthogonal_columns(columns)[:, 0, 2].sum(), columns)
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2] != 0).any()
