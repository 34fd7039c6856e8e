"""On chains and samples whose figures are known."""

import math

import pytest
import torch

import inference
from datasets import GaussianMixture, multivariate_normal


def autoregressive(coefficient: float, steps: int = 20_000, chains: int = 4) -> torch.Tensor:
    """`x ← ρx + √(1 − ρ²) ξ`, in two dimensions; its autocorrelation time is (1 + ρ)/(1 − ρ)."""
    noise = torch.randn(steps, chains, 2, generator=torch.Generator().manual_seed(0))
    states = [noise[0]]
    for z in noise[1:]:
        states.append(coefficient * states[-1] + math.sqrt(1 - coefficient**2) * z)
    return torch.stack(states)


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9])
def test_autocorrelation_of_an_autoregressive_chain(coefficient):
    chain = autoregressive(coefficient)
    expected = (1 + coefficient) / (1 - coefficient)
    assert inference.autocorrelation_time(chain).tolist() == pytest.approx([expected] * 2, rel=0.15)
    draws = 80_000 / expected
    assert inference.effective_sample_size(chain).tolist() == pytest.approx([draws] * 2, rel=0.15)
    assert (inference.effective_sample_size(chain, "tail") < 1.3 * 80_000).all()


def test_r_hat_tells_chains_that_disagree():
    chain = autoregressive(0.5, 2000)
    assert (inference.r_hat(chain) < 1.01).all()
    apart = chain + torch.arange(4.0)[:, None]
    assert (inference.r_hat(apart) > 1.2).all()


def test_a_chain_has_three_axes():
    with pytest.raises(ValueError, match=r"\(steps, B, D\)"):
        inference.r_hat(torch.zeros(10, 2))


def test_sliced_wasserstein_of_shifted_and_stretched_normals():
    """Shift by m in D dimensions: the distance along a direction u is u·m, and E(u·m)² = ‖m‖²/D."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_000, 5, generator=generator)
    shift = torch.tensor([3.0, 0, 0, 0, 0])
    found = inference.sliced_wasserstein(x, x + shift, projections=1000)
    assert found == pytest.approx(3 / 5**0.5, rel=0.05)
    y = 2 * torch.randn(5_000, 5, generator=generator)  # along every direction N(0, 1) against N(0, 4)
    assert inference.sliced_wasserstein(x, y) == pytest.approx(1.0, rel=0.03)
    assert inference.sliced_wasserstein(x, x) == 0


def test_mmd_of_normals_in_closed_form():
    """With a kernel of width h, E k(x, y) of N(0, I) and N(m, I) is (h²/(h² + 2))^{D/2} exp(−‖m‖²/(2(h² + 2)))."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3000, 2, generator=generator), torch.randn(2000, 2, generator=generator)
    shift, h2 = torch.tensor([1.0, 0.5]), 1.5**2
    expected = 2 * h2 / (h2 + 2) * (1 - math.exp(-shift.square().sum().item() / (2 * (h2 + 2))))
    assert inference.mmd(x, y + shift, 1.5) == pytest.approx(expected, rel=0.1)
    assert abs(inference.mmd(x, y)) < 0.002


def test_mode_weights():
    means = torch.tensor([[-5.0, 0.0], [0.0, 5.0], [5.0, 0.0]])
    density = GaussianMixture([0.2, 0.3, 0.5], means, torch.eye(2).expand(3, 2, 2))
    found = inference.mode_weights(density.sample(20_000, torch.Generator().manual_seed(0)), density)
    assert found.tolist() == pytest.approx([0.2, 0.3, 0.5], abs=0.01)
    one = multivariate_normal(torch.zeros(2), torch.eye(2))
    assert inference.mode_weights(torch.zeros(4, 2), one, 0.1).tolist() == [1.0]
