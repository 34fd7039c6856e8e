"""On chains and samples whose metrics are known."""

import math

import numpy as np
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


class TestAChainThatDidNotMove:
    """It gets no answer, and never the best one; the entries in which every chain moved keep theirs."""

    MOVING = autoregressive(0.0, 200)

    @pytest.mark.parametrize("metric", ["autocorrelation_time", "effective_sample_size", "r_hat"])
    @pytest.mark.parametrize("where", ["one place", "a place for each", "one of the chains"])
    def test_has_no_answer(self, metric, where):
        chain = self.MOVING.clone()
        if where == "one place":
            chain[..., 1] = 0.5
        elif where == "a place for each":
            chain[..., 1] = torch.arange(4.0)
        else:
            chain[:, 2, 1] = 0
        measure = getattr(evaluation, metric)
        with pytest.warns(RuntimeWarning, match="1 of 2 entries have a chain that did not move; NaN stands for them"):
            answer = measure(chain)
        assert answer.isnan().tolist() == [False, True]
        assert answer[0] == measure(self.MOVING)[0]

    @pytest.mark.parametrize("kind", ["bulk", "tail", "mean"])
    def test_at_all(self, kind):
        with pytest.warns(RuntimeWarning, match="2 of 2 entries"):
            assert evaluation.effective_sample_size(torch.zeros(50, 4, 2), kind).isnan().all()


@pytest.mark.parametrize("metric", ["autocorrelation_time", "effective_sample_size", "r_hat"])
def test_a_chain_without_an_answer_is_refused(metric):
    measure = getattr(evaluation, metric)
    with pytest.raises(ValueError, match=r"a chain of 3 step\(s\); 4 at least are expected"):
        measure(torch.randn(3, 4, 2))
    with pytest.raises(ValueError, match="not finite"):
        measure(torch.full((10, 4, 2), math.nan))
    with pytest.raises(ValueError, match=r"a chain of shape \(10, 0, 2\)"):
        measure(torch.zeros(10, 0, 2))
    with pytest.raises(ValueError, match=r"a chain of type list; a tensor \(steps, B, D\) is expected"):
        measure([[1.0]])


def test_r_hat_compares_chains():
    with pytest.raises(ValueError, match="this is one chain; R̂ compares chains, two at least are expected"):
        evaluation.r_hat(autoregressive(0.0, 100, chains=1))


class TestSamples:
    X = torch.randn(5, 3)
    WRONG = {
        "another dimension": (torch.zeros(5, 2), r"x has shape \(5, 2\), y has \(5, 3\); samples of one dimension"),
        "one axis": (torch.zeros(5), r"x has shape \(5,\); \(N, D\) is expected"),
        "none": (torch.zeros(0, 3), r"x has 0 point\(s\); . at least are expected"),
        "not finite": (torch.full((5, 3), math.nan), "x has values that are not finite"),
        "integers": (torch.zeros(5, 3, dtype=torch.int64), r"x is of type torch.int64; a tensor of floats \(N, D\)"),
        "an array": (np.zeros((5, 3)), r"x is of type ndarray; a tensor of floats \(N, D\) is expected"),
    }

    @pytest.mark.parametrize("case", WRONG)
    @pytest.mark.parametrize("distance", ["mmd", "sliced_wasserstein"])
    def test_that_are_none_are_refused(self, case, distance):
        x, message = self.WRONG[case]
        with pytest.raises(ValueError, match=message):
            getattr(evaluation, distance)(x, self.X)

    def test_of_one_point_have_no_discrepancy(self):
        for x, y in ((self.X[:1], self.X), (self.X, self.X[:1])):
            with pytest.raises(ValueError, match=r"[xy] has 1 point\(s\); 2 at least are expected"):
                evaluation.mmd(x, y)

    def test_of_one_place_have_no_bandwidth(self):
        with pytest.raises(ValueError, match="the median distance within y is 0: .* give a bandwidth"):
            evaluation.mmd(self.X, torch.zeros(5, 3))
        assert math.isfinite(evaluation.mmd(self.X, torch.zeros(5, 3), 1.0))

    @pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan, "1"])
    def test_have_a_kernel_of_some_width(self, bandwidth):
        with pytest.raises(ValueError, match="bandwidth is .*; a positive, finite number is expected"):
            evaluation.mmd(self.X, self.X, bandwidth)

    def test_are_projected(self):
        with pytest.raises(ValueError, match="projections is 0; a whole number, 1 or more, is expected"):
            evaluation.sliced_wasserstein(self.X, self.X, 0)
        with pytest.raises(ValueError, match="seed is -1; a whole number from 0 to"):
            evaluation.sliced_wasserstein(self.X, self.X, seed=-1)

    def test_have_modes_at_one_noise_level(self):
        density = multivariate_normal(torch.zeros(3), torch.eye(3))
        with pytest.raises(ValueError, match=r"sigma has shape \(5, 1\); scores have one noise level"):
            evaluation.mode_weights(self.X, density, torch.ones(5, 1))
        with pytest.raises(ValueError, match="sigma is -1; a finite number, not negative, is expected"):
            evaluation.mode_weights(self.X, density, -1)
        with pytest.raises(ValueError, match=r"x has shape \(5, 2\); \(N, 3\) is expected, as the mixture has it"):
            evaluation.mode_weights(self.X[:, :2], density)


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
