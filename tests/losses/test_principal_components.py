"""The minimiser of NPPC on a normal residual: its principal components in their order, and its variances."""

import itertools

import pytest
import torch

import losses
from linalg import Dense, DiagonalPlusLowRank, orthogonal_columns

SIGMA = 0.5
close = torch.testing.assert_close


def test_minimiser_on_a_normal_is_its_principal_components():
    """The residuals are draws with every combination of signs of their components, which has the moments' symmetry; the
    shortest, which count for most, are left out."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    sizes = torch.randn(40, 1, 4, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 1.4, 1.0, 0.5])
    sizes = sizes[sizes.norm(dim=2)[:, 0] > 1]
    flips = torch.tensor(list(itertools.product([1.0, -1.0], repeat=4)), dtype=torch.float64)
    e = (sizes * flips).flatten(0, 1) @ axes.mT
    p = losses.perturb(torch.zeros_like(e), SIGMA, noise=torch.randn(e.shape, generator=generator).double())
    s1 = (e - p.noise) / SIGMA
    alpha = torch.ones(4, dtype=torch.float64, requires_grad=True)
    columns = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([alpha, columns], lr=0.1)
    steps = 300
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        w = orthogonal_columns(columns[None])
        s2 = DiagonalPlusLowRank(((alpha - 1) / SIGMA**2).expand(len(e), -1), (w / SIGMA).expand(len(e), -1, -1))
        optimizer.zero_grad()
        losses.nppc(s1, s2, p, progress=1.0).backward()
        optimizer.step()
    w = orthogonal_columns(columns[None])[0].detach()
    along = axes[:, :3].mT @ (w / w.norm(dim=0))
    close(along.abs(), torch.eye(3, dtype=torch.float64), rtol=0, atol=5e-3)
    weight = e.square().sum(1, keepdim=True) ** -2
    expected = (weight * (e @ axes[:, :3]).square()).sum(0) / weight.sum()
    close(w.square().sum(0), expected, rtol=1e-2, atol=0)
    close(alpha.detach() + w.square().sum(1), e.square().mean(0), rtol=1e-2, atol=0)


def test_another_kind_of_matrix_is_refused():
    p = losses.perturb(torch.zeros(2, 3), SIGMA)
    with pytest.raises(ValueError, match="s2 is a Dense; a DiagonalPlusLowRank with orthogonal columns is expected"):
        losses.nppc(torch.zeros(2, 3), Dense(torch.zeros(2, 3, 3)), p)
