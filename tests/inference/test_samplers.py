"""Against exact truth: the stationary laws of chains whose scores are those of a known density."""

import math

import pytest
import torch
from torch import Tensor

import inference
from datasets import GaussianMixture, multivariate_normal
from inference.matrix_functions import lanczos, phi
from models import DiagonalPlusLowRank

close = torch.testing.assert_close

# A normal in four dimensions whose variances span a factor of 400; Langevin diverges above a step of 2·0.01.
SPECTRUM = torch.tensor([4.0, 1.0, 0.09, 0.01])
MEAN = torch.tensor([1.0, -2.0, 0.5, 0.0])


def target(form: str):
    """The mean, covariance and scores of a normal, s2 in one of the three forms."""
    if form == "diagonal":
        axes = torch.eye(4)
    else:
        axes = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
    covariance, precision = axes * SPECTRUM @ axes.T, axes / SPECTRUM @ axes.T

    def s1(x: Tensor) -> Tensor:
        return (MEAN - x) @ precision

    def s2(x: Tensor):
        if form == "diagonal":
            return DiagonalPlusLowRank(-1 / SPECTRUM.expand(len(x), 4))
        dense = (-precision).expand(len(x), 4, 4)
        return dense if form == "dense" else DiagonalPlusLowRank.from_dense(dense)

    return covariance, s1, s2


@pytest.mark.parametrize("form", ["diagonal", "dense", "low rank"])
@pytest.mark.parametrize("step_size", [0.05, 0.3, 3.0])
def test_ozaki_has_the_exact_law_of_a_normal_at_any_step(form, step_size):
    """4000 chains, 16 states of each at least e-folds apart: mean and covariance within five standard errors, these
    below 1.5 % of the standard deviations."""
    covariance, s1, s2 = target(form)
    apart = max(1, math.ceil(2 / step_size)) if step_size < 1 else 8
    start = MEAN + 0.5 * torch.randn(4000, 4, generator=torch.Generator().manual_seed(1))
    burned = inference.ozaki(s1, s2, start, 40.0, 2, seed=0, progress=False)
    _, chain = inference.ozaki(s1, s2, burned, step_size, 2 * apart, seed=1, keep_every=apart, progress=False)
    for x in chain:
        error = (x.mean(0) - MEAN).abs() / covariance.diagonal().sqrt()
        assert (error < 5 / 4000**0.5).all()
        spread = covariance.diagonal().sqrt()
        difference = (x.T.cov() - covariance) / (spread[:, None] * spread)
        assert (difference.abs() < 5 * (2 / 4000) ** 0.5).all()


def test_where_langevin_is_biased_or_diverges():
    """Langevin's stationary variance is v/(1 − ε/(2v)): visibly too large at half its largest step, and none above."""
    covariance, s1, _ = target("diagonal")
    start = MEAN + SPECTRUM.sqrt() * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    x = inference.langevin(s1, start, 0.01, 500, seed=0, progress=False)
    assert x[:, 3].var().item() == pytest.approx(0.01 / (1 - 0.01 / 0.02), rel=0.05)
    with pytest.raises(
        inference.DivergedError, match=r"langevin diverged at step \d+ with step size 0.1; take a smaller"
    ):
        inference.langevin(s1, start, 0.1, 500, seed=0, progress=False)


def test_ozaki_without_curvature_is_langevin():
    _, s1, _ = target("diagonal")
    x = torch.randn(50, 4)
    zeros = {
        "diagonal": lambda x: DiagonalPlusLowRank(torch.zeros_like(x)),
        "dense": lambda x: torch.zeros(len(x), 4, 4),
        "low rank": lambda x: DiagonalPlusLowRank(torch.zeros_like(x), torch.zeros(len(x), 4, 2)),
    }
    plain = inference.langevin(s1, x, 0.01, 5, seed=7, progress=False)
    for s2 in zeros.values():
        close(inference.ozaki(s1, s2, x, 0.01, 5, seed=7, progress=False), plain)


def test_the_forms_agree_step_by_step():
    """Lanczos against the dense form at image size, to 1e-5 of the step's length."""
    generator = torch.Generator().manual_seed(0)
    diagonal = -4 + 6 * torch.rand(3, 300, generator=generator)
    factor = 0.3 * torch.randn(3, 300, 10, generator=generator)
    s2 = DiagonalPlusLowRank(diagonal, factor)
    score, noise = (torch.randn(3, 300, generator=generator) for _ in range(2))
    for step_size in (1e-3, 0.1, 1.0):
        ours = inference.ozaki_displacement(score, s2, step_size, noise, tolerance=1e-7, max_exponent=3.0)
        exact = inference.ozaki_displacement(
            score.double(), s2.dense().double(), step_size, noise.double(), max_exponent=3.0
        )
        assert (ours - exact).norm(dim=1).max() < 1e-5 * exact.norm(dim=1).min()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_curvatures_stay_finite_in_float32(size, sign):
    score, noise = torch.ones(2, 6), torch.ones(2, 6)
    diagonal = DiagonalPlusLowRank(torch.full((2, 6), sign * size))
    dense = torch.diag_embed(diagonal.diagonal)
    factor = DiagonalPlusLowRank(torch.full((2, 6), sign * size), torch.full((2, 6, 1), 1e-3))
    for s2 in (diagonal, dense, factor):
        moved = inference.ozaki_displacement(score, s2, 0.1, noise)
        assert moved.isfinite().all()
        if size < 1e-5:
            close(moved, 0.1 * score + 0.2**0.5 * noise, rtol=1e-4, atol=1e-5)
    if sign < 0 and size > 1e3:
        close(inference.ozaki_displacement(score, diagonal, 0.1, 0 * noise), score / size)


def test_phi_is_its_integral():
    values = torch.tensor([-50.0, -2.0, -1e-9, 0.0, 1e-9, 2.0], dtype=torch.float64)
    s = torch.linspace(0, 0.7, 20_001, dtype=torch.float64)
    expected = torch.trapezoid((s * values[:, None]).exp(), s)
    close(phi(values, 0.7), expected, rtol=1e-6, atol=0)
    assert phi(values.float(), 0.7).dtype == torch.float32


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
        close(lanczos(m, v, torch.exp), m.diagonal.exp()[:, :, None] * v)

    def test_too_few_products_are_said(self):
        m = DiagonalPlusLowRank(torch.linspace(-10, 10, 100)[None])
        with pytest.warns(RuntimeWarning, match="8 products leave"):
            lanczos(m, torch.ones(1, 100, 1), torch.exp, max_products=8)


class TestTheChain:
    def test_is_kept_on_request_and_ends_with_the_result(self):
        _, s1, _ = target("diagonal")
        x = torch.zeros(3, 4)
        seen = []
        last, chain = inference.langevin(
            s1, x, 1e-3, 10, seed=0, keep_every=5, callback=lambda step, x: seen.append(step), progress=False
        )
        assert chain.shape == (2, 3, 4)
        assert torch.equal(chain[-1], last)
        assert seen == list(range(1, 11))

    def test_is_that_of_its_seed(self):
        _, s1, s2 = target("diagonal")
        x = torch.zeros(3, 4)
        a, b, c = (inference.ozaki(s1, s2, x, 0.1, 4, seed=seed, progress=False) for seed in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    @pytest.mark.parametrize("step_size", [0.0, -1.0, math.nan])
    def test_needs_a_step(self, step_size):
        with pytest.raises(ValueError, match="a positive one is wanted"):
            inference.langevin(lambda x: -x, torch.zeros(1, 2), step_size, 3)

    def test_that_is_not_finite_stops(self):
        with pytest.raises(inference.DivergedError, match="ozaki diverged at step 1 with step size 0.1"):
            inference.ozaki(
                lambda x: x * torch.nan, lambda x: DiagonalPlusLowRank(-x), torch.ones(1, 2), 0.1, 3, progress=False
            )


class TestAnnealing:
    def test_finds_modes_that_are_far_apart(self):
        """Two modes ten standard deviations apart: all chains start at one, and share themselves out."""
        means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
        density = GaussianMixture([0.3, 0.7], means, 0.09 * torch.eye(2).expand(2, 2, 2))
        levels = [(sigma, lambda x, sigma=sigma: density.s1(x, sigma)) for sigma in (5.0, 2.5, 1.2, 0.6, 0.3, 0.1)]
        start = means[:1].expand(2000, 2)
        x = inference.annealed_langevin(levels, start, 5e-3, 100, seed=0, progress=False)
        assert inference.mode_weights(x, density, 0.1)[1].item() == pytest.approx(0.7, abs=0.1)

    def test_steps_are_counted_through_all_levels(self):
        normal = multivariate_normal(torch.zeros(2), torch.eye(2))
        levels = [(sigma, lambda x, sigma=sigma: normal.s1(x, sigma)) for sigma in (2.0, 1.0)]
        seen = []
        x, chain = inference.annealed_langevin(
            levels, torch.zeros(3, 2), 1e-2, 4, seed=0, keep_every=2, callback=lambda step, _: seen.append(step),
            progress=False,
        )  # fmt: skip
        assert seen == list(range(1, 9))
        assert chain.shape == (4, 3, 2)
        assert torch.equal(chain[-1], x)

    @pytest.mark.parametrize("sigmas", [[], [1.0, 1.0], [0.5, 1.0]])
    def test_levels_descend(self, sigmas):
        with pytest.raises(ValueError, match="descending ones are wanted"):
            inference.annealed_langevin([(s, lambda x: -x) for s in sigmas], torch.zeros(1, 2), 0.1, 1)
