"""On chains and samples whose metrics are known."""

import math

import pytest
import torch

import evaluation
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
    assert evaluation.autocorrelation_time(chain).tolist() == pytest.approx([expected] * 2, rel=0.15)
    draws = 80_000 / expected
    assert evaluation.effective_sample_size(chain).tolist() == pytest.approx([draws] * 2, rel=0.15)
    assert (evaluation.effective_sample_size(chain, "tail") < 1.3 * 80_000).all()


def test_r_hat_tells_chains_that_disagree():
    chain = autoregressive(0.5, 2000)
    assert (evaluation.r_hat(chain) < 1.01).all()
    apart = chain + torch.arange(4.0)[:, None]
    assert (evaluation.r_hat(apart) > 1.2).all()


@pytest.mark.parametrize("metric", ["autocorrelation_time", "effective_sample_size", "r_hat"])
def test_a_chain_has_three_axes(metric):
    with pytest.raises(ValueError, match=r"\(steps, B, D\)"):
        getattr(evaluation, metric)(torch.zeros(10, 2))


def test_an_unknown_kind_of_effective_sample_size():
    with pytest.raises(ValueError, match="median of medians"):
        evaluation.effective_sample_size(autoregressive(0.0, 100), "median of medians")


def test_sliced_wasserstein_of_shifted_and_stretched_normals():
    """Shift by m in D dimensions: the distance along a direction u is u·m, and E(u·m)² = ‖m‖²/D."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_000, 5, generator=generator)
    shift = torch.tensor([3.0, 0, 0, 0, 0])
    distance = evaluation.sliced_wasserstein(x[:1000], x[:1000] + shift, projections=1000)
    assert distance == pytest.approx(3 / 5**0.5, rel=0.05)
    y = 2 * torch.randn(5_000, 5, generator=generator)  # along every direction N(0, 1) against N(0, 4)
    assert evaluation.sliced_wasserstein(x, y) == pytest.approx(1.0, rel=0.03)
    assert evaluation.sliced_wasserstein(x, x) == 0


def test_mmd_of_normals_in_closed_form():
    """With a kernel of width h, E k(x, y) of N(0, I) and N(m, I) is (h²/(h² + 2))^{D/2} exp(−‖m‖²/(2(h² + 2)))."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3000, 2, generator=generator), torch.randn(2000, 2, generator=generator)
    shift, h2 = torch.tensor([1.0, 0.5]), 1.5**2
    expected = 2 * h2 / (h2 + 2) * (1 - math.exp(-shift.square().sum().item() / (2 * (h2 + 2))))
    assert evaluation.mmd(x, y + shift, 1.5) == pytest.approx(expected, rel=0.1)
    assert abs(evaluation.mmd(x, y)) < 0.002


def test_mode_weights():
    means = torch.tensor([[-5.0, 0.0], [0.0, 5.0], [5.0, 0.0]])
    density = GaussianMixture([0.2, 0.3, 0.5], means, torch.eye(2).expand(3, 2, 2))
    weights = evaluation.mode_weights(density.sample(20_000, torch.Generator().manual_seed(0)), density)
    assert weights.tolist() == pytest.approx([0.2, 0.3, 0.5], abs=0.01)
    one = multivariate_normal(torch.zeros(2), torch.eye(2))
    assert evaluation.mode_weights(torch.zeros(4, 2), one, 0.1).tolist() == [1.0]
