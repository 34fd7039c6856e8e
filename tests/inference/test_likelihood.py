"""Against densities that are known: the flow's likelihood, whatever the trace is taken by, and its change of units."""

import math

import pytest
import torch

import datasets
import inference
from datasets import generator_of
from inference import GaussianPrior
from models import Scores, from_denoiser

close = torch.testing.assert_close


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("low", [None, 0.3])
@pytest.mark.parametrize(("name", "dimension"), [("gaussians", 2), ("normal", 20), ("two_moons", 2), ("logistics", 3)])
def test_likelihood_is_the_closed_form(name, dimension, low, dtype):
    """To 1e-3 nats at the default tolerance; at σ = 0, where it begins by default, and at a level above."""
    density = datasets.DENSITIES[name](dimension)
    x = density.sample(30, generator_of(0)).to(dtype)
    nats = inference.log_likelihood(density, x, sigmas=None if low is None else (low, 100.0))
    exact = density.log_prob(x.double(), low or 0.0)
    close(nats.double(), exact, rtol=0, atol=1e-3)


def test_every_trace_of_exact_scores_is_the_same_but_for_the_probes():
    density = datasets.DENSITIES["gaussians"](2)
    x = density.sample(20, generator_of(0)).double()
    exact = density.log_prob(x)
    close(inference.log_likelihood(density, x, trace="jacobian"), exact, rtol=0, atol=1e-3)
    estimates = [inference.log_likelihood(density, x, trace="hutchinson", probes=64, seed=seed) for seed in range(4)]
    spread = torch.stack(estimates).std(0)
    assert ((torch.stack(estimates).mean(0) - exact).abs() < 5 * spread / 2 + 0.02).all()


def test_an_answer_does_not_depend_on_its_neighbours():
    density = datasets.DENSITIES["two_moons"](2)
    x = density.sample(20, generator_of(0)).double()
    alone = torch.cat([inference.log_likelihood(density, one[None]) for one in x[:4]])
    close(inference.log_likelihood(density, x)[:4], alone, rtol=0, atol=1e-3)


def test_a_denoiser_takes_the_jacobian_and_needs_a_prior():
    variance = 0.5
    model = from_denoiser(lambda x, sigma: x * variance / (variance + sigma**2), (0.1, 5.0), (3,))
    prior = GaussianPrior.isotropic(0.0, variance**0.5, 3)
    x = torch.randn(6, 3, generator=generator_of(0))
    exact = prior.log_prob(x, 0.1)
    close(inference.log_likelihood(model, x, prior=prior), exact, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="give a prior"):
        inference.log_likelihood(model, x)
    with pytest.raises(ValueError, match="the scores have no s2"):
        inference.log_likelihood(model, x, prior=prior, trace="s2")


def test_bad_arguments_are_refused_in_a_line():
    density = datasets.DENSITIES["gaussians"](2)
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"sigmas is \(1.0, 0.5\)"):
        inference.log_likelihood(density, x, sigmas=(1.0, 0.5))
    with pytest.raises(ValueError, match="trace is 'exact'; s2, jacobian or hutchinson is expected"):
        inference.log_likelihood(density, x, trace="exact")
    with pytest.raises(ValueError, match="tolerance is 0"):
        inference.log_likelihood(density, x, tolerance=0)
    with pytest.raises(ValueError, match="probes is 0"):
        inference.log_likelihood(density, x, probes=0)
    with pytest.raises(ValueError, match="edges"):
        inference.log_likelihood(datasets.DENSITIES["checkerboard"](2), x)
    with pytest.raises(ValueError, match="model is of type Scores"):
        inference.log_likelihood(Scores(1.0, lambda x: -x), x)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_a_uniform_density_takes_eight_bits_in_every_unit(low, high):
    """256 numbers, each in an interval of its own: those at the ends reach half a spacing out."""
    spacing = (high - low) / 255
    log_density = torch.full((4,), -3 * math.log(256 * spacing))
    close(inference.bits_per_entry(log_density, 3, spacing), torch.full((4,), 8.0))


def test_dequantised_entries_stay_in_their_intervals():
    x = torch.arange(256.0).repeat(20, 1) / 255
    spread = inference.dequantised(x, 1 / 255, generator_of(0))
    assert torch.equal((spread * 255).round(), (x * 255).round())
    assert (spread - x).std() * 255 == pytest.approx(1 / 12**0.5, rel=0.05)
