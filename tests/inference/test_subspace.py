import torch

import inference
from datasets import multivariate_normal

SIGMA = 0.5
close = torch.testing.assert_close


def test_components_of_a_denoiser_without_training_or_derivatives():
    """On a normal the posterior covariance is known, and its leading components are well apart."""
    spectrum = torch.tensor([4.0, 2.0, 1.0, 0.1, 0.1, 0.05, 0.05, 0.02], dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    normal = multivariate_normal(torch.zeros(8), axes * spectrum @ axes.T)
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    variances, directions, calls = inference.denoiser_components(
        normal.at(SIGMA), x, 3, tolerance=1e-4, generator=torch.Generator().manual_seed(0)
    )
    close(variances, (spectrum * SIGMA**2 / (spectrum + SIGMA**2))[:3].expand(5, 3), rtol=1e-3, atol=0)
    caught = (axes[:, :3].T @ directions).square().sum((1, 2))
    close(caught, torch.full((5,), 3.0, dtype=torch.float64), rtol=1e-3, atol=0)
    assert (calls > 4).all()
    assert (calls < 301).all()
