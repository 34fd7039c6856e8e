"""Against exact truth: the stationary laws of chains whose scores are those of a known density."""

import math

import pytest
import torch
from torch import Tensor

import evaluation
import inference
from datasets import GaussianMixture, multivariate_normal
from linalg import Dense, DiagonalPlusLowRank, SymmetricMatrix
from models import Scores

close = torch.testing.assert_close

# A normal in four dimensions whose variances span a factor of 400; Langevin diverges above a step of 2·0.01.
SPECTRUM = torch.tensor([4.0, 1.0, 0.09, 0.01])
MEAN = torch.tensor([1.0, -2.0, 0.5, 0.0])


def target(form: str) -> tuple[Tensor, Scores]:
    """The covariance and scores of a normal, s2 in one of the three forms."""
    if form == "diagonal":
        axes = torch.eye(4)
    else:
        axes = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
    covariance, precision = axes * SPECTRUM @ axes.T, axes / SPECTRUM @ axes.T

    def s1(x: Tensor) -> Tensor:
        return (MEAN - x) @ precision

    def s2(x: Tensor) -> SymmetricMatrix:
        if form == "diagonal":
            return DiagonalPlusLowRank(-1 / SPECTRUM.expand(len(x), 4))
        if form == "dense":
            return Dense((-precision).expand(len(x), 4, 4))
        lowest = torch.full((len(x), 4), -1 / SPECTRUM.min().item())
        return DiagonalPlusLowRank(lowest, (axes * (1 / SPECTRUM.min() - 1 / SPECTRUM).sqrt()).expand(len(x), 4, 4))

    return covariance, Scores(0.0, s1, s2)


def step(scores: Scores | Tensor, s2: SymmetricMatrix, step_size: float, noise: Tensor, **options) -> Tensor:
    """How far an Ozaki step goes, from values of the scores."""
    fixed = Scores(1.0, lambda x: scores, lambda x: s2)
    return inference.ozaki_step(fixed, torch.zeros_like(noise), step_size, noise, **options)


@pytest.mark.parametrize("form", ["diagonal", "dense", "low rank"])
@pytest.mark.parametrize("step_size", [0.05, 0.3, 3.0])
def test_ozaki_has_the_exact_law_of_a_normal_at_any_step(form, step_size):
    """4000 chains, 16 states of each at least e-folds apart: mean and covariance within five standard errors, these
    below 1.5 % of the standard deviations."""
    covariance, scores = target(form)
    apart = max(1, math.ceil(2 / step_size)) if step_size < 1 else 8
    start = MEAN + 0.5 * torch.randn(4000, 4, generator=torch.Generator().manual_seed(1))
    burned = inference.ozaki(scores, start, 40.0, 2, seed=0, progress=False)
    _, chain = inference.ozaki(scores, burned, step_size, 2 * apart, seed=1, keep_every=apart, progress=False)
    for x in chain:
        error = (x.mean(0) - MEAN).abs() / covariance.diagonal().sqrt()
        assert (error < 5 / 4000**0.5).all()
        spread = covariance.diagonal().sqrt()
        difference = (x.T.cov() - covariance) / (spread[:, None] * spread)
        assert (difference.abs() < 5 * (2 / 4000) ** 0.5).all()


def test_where_langevin_is_biased_or_diverges():
    """Langevin's stationary variance is v/(1 − ε/(2v)): visibly too large at half its largest step, and none above."""
    covariance, scores = target("diagonal")
    start = MEAN + SPECTRUM.sqrt() * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    x = inference.langevin(scores, start, 0.01, 500, seed=0, progress=False)
    assert x[:, 3].var().item() == pytest.approx(0.01 / (1 - 0.01 / 0.02), rel=0.05)
    with pytest.raises(
        inference.DivergedError, match=r"langevin diverged at step \d+ with step size 0.1; take a smaller"
    ):
        inference.langevin(scores, start, 0.1, 500, seed=0, progress=False)


def test_ozaki_without_curvature_is_langevin():
    _, scores = target("diagonal")
    x = torch.randn(50, 4)
    zeros = {
        "diagonal": lambda x: DiagonalPlusLowRank(torch.zeros_like(x)),
        "dense": lambda x: Dense(torch.zeros(len(x), 4, 4)),
        "low rank": lambda x: DiagonalPlusLowRank(torch.zeros_like(x), torch.zeros(len(x), 4, 2)),
    }
    plain = inference.langevin(scores, x, 0.01, 5, seed=7, progress=False)
    for s2 in zeros.values():
        flat = Scores(scores.sigma, scores.s1, s2)
        close(inference.ozaki(flat, x, 0.01, 5, seed=7, progress=False), plain)


def test_the_forms_agree_step_by_step():
    """Lanczos against the dense form at image size, to 1e-5 of the step's length."""
    generator = torch.Generator().manual_seed(0)
    diagonal = -4 + 6 * torch.rand(3, 300, generator=generator)
    factor = 0.3 * torch.randn(3, 300, 10, generator=generator)
    s2 = DiagonalPlusLowRank(diagonal, factor)
    score, noise = (torch.randn(3, 300, generator=generator) for _ in range(2))
    for step_size in (1e-3, 0.1, 1.0):
        ours = step(score, s2, step_size, noise, tolerance=1e-7, max_exponent=3.0)
        exact = step(score.double(), Dense(s2.dense().double()), step_size, noise.double(), max_exponent=3.0)
        assert (ours - exact).norm(dim=1).max() < 1e-5 * exact.norm(dim=1).min()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_curvatures_stay_finite_in_float32(size, sign):
    score, noise = torch.ones(2, 6), torch.ones(2, 6)
    diagonal = DiagonalPlusLowRank(torch.full((2, 6), sign * size))
    dense = Dense(torch.diag_embed(diagonal.alpha))
    factor = DiagonalPlusLowRank(torch.full((2, 6), sign * size), torch.full((2, 6, 1), 1e-3))
    for s2 in (diagonal, dense, factor):
        moved = step(score, s2, 0.1, noise)
        assert moved.isfinite().all()
        if size < 1e-5:
            close(moved, 0.1 * score + 0.2**0.5 * noise, rtol=1e-4, atol=1e-5)
    if sign < 0 and size > 1e3:
        close(step(score, diagonal, 0.1, 0 * noise), score / size)


class TestTheChain:
    def test_is_kept_on_request_and_ends_with_the_result(self):
        _, scores = target("diagonal")
        x = torch.zeros(3, 4)
        seen = []
        last, chain = inference.langevin(
            scores, x, 1e-3, 10, seed=0, keep_every=5, callback=lambda step, x: seen.append(step), progress=False
        )
        assert chain.shape == (2, 3, 4)
        assert torch.equal(chain[-1], last)
        assert seen == list(range(1, 11))

    def test_is_that_of_its_seed(self):
        _, scores = target("diagonal")
        x = torch.zeros(3, 4)
        a, b, c = (inference.ozaki(scores, x, 0.1, 4, seed=seed, progress=False) for seed in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    @pytest.mark.parametrize("step_size", [0.0, -1.0, math.nan, math.inf, "0.1", None, torch.ones(3)])
    def test_needs_a_step(self, step_size):
        for sampler in (inference.langevin, inference.ozaki):
            with pytest.raises(ValueError, match=r"step_size .*; a positive, finite number is expected"):
                sampler(Scores(1.0, torch.neg), torch.zeros(1, 2), step_size, 3)

    @pytest.mark.parametrize("wrong", [{"steps": -1}, {"steps": 2.0}, {"keep_every": 0}, {"keep_every": -5}])
    def test_has_a_whole_number_of_steps(self, wrong):
        _, scores = target("diagonal")
        for sampler in (inference.langevin, inference.ozaki):
            with pytest.raises(
                ValueError, match=rf"{next(iter(wrong))} is {next(iter(wrong.values()))}; a whole number"
            ):
                sampler(scores, torch.zeros(1, 4), 0.1, **({"steps": 3} | wrong))

    def test_of_no_steps_is_where_it_began(self):
        _, scores = target("diagonal")
        x = torch.randn(3, 4)
        last, chain = inference.langevin(scores, x, 0.1, 0, keep_every=1)
        assert torch.equal(last, x)
        assert chain.shape == (0, 3, 4)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_begins_at_finite_points(self, value):
        """Also with no step, where nothing else would see it."""
        _, scores = target("diagonal")
        x = torch.zeros(3, 4)
        x[1, 2] = value
        for sampler in (inference.langevin, inference.ozaki):
            with pytest.raises(ValueError, match="x has 1 of 12 values that are not finite; finite are expected"):
                sampler(scores, x, 0.1, 0)

    @pytest.mark.parametrize("shape", [(4,), (2, 3, 4), ()])
    def test_begins_at_points(self, shape):
        _, scores = target("diagonal")
        with pytest.raises(ValueError, match=r"x has shape .*; \(B, D\) is expected, \[None\] adds the axis B"):
            inference.langevin(scores, torch.zeros(shape), 0.1, 3)

    def test_leaves_no_graph(self):
        _, scores = target("diagonal")
        x = torch.zeros(3, 4, requires_grad=True)
        for steps in (0, 2):
            last, chain = inference.langevin(scores, x, 0.01, steps, keep_every=1, progress=False)
            assert not last.requires_grad
            assert not chain.requires_grad

    def test_takes_points_in_any_form(self):
        _, scores = target("diagonal")
        x = torch.randn(3, 4)
        expected = inference.langevin(scores, x, 0.01, 3, seed=0, progress=False)
        assert torch.equal(inference.langevin(scores, x.numpy(), 0.01, 3, seed=0, progress=False), expected)
        assert torch.equal(inference.langevin(scores, list(x), 0.01, 3, seed=0, progress=False), expected)
        half = inference.langevin(scores, x.half(), 0.01, 3, seed=0, progress=False)
        assert half.dtype == torch.float32
        close(half, expected, rtol=0, atol=1e-2)

    @pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "0", True])
    def test_has_a_seed(self, seed):
        _, scores = target("diagonal")
        with pytest.raises(ValueError, match=r"seed is .*; a whole number from 0 to 2⁶³ − 1 is expected"):
            inference.langevin(scores, torch.zeros(3, 4), 0.1, 3, seed=seed)

    def test_has_a_seed_that_no_other_is_taken_for(self):
        """torch's generator on the CPU takes 32 bits: to it 2**32 + 1 is 1."""
        _, scores = target("diagonal")
        seeds = [1, 2**32 + 1, 2**33 + 1, 2**63 - 1, 2**32 - 1]
        ends = [inference.langevin(scores, torch.zeros(1, 4), 0.01, 1, seed=seed, progress=False) for seed in seeds]
        assert len(torch.cat(ends).unique(dim=0)) == len(seeds)

    def test_noise_is_that_of_its_points(self):
        _, scores = target("diagonal")
        for step in (inference.langevin_step, inference.ozaki_step):
            with pytest.raises(ValueError, match=r"noise has shape \(1, 4\), x has \(3, 4\)"):
                step(scores, torch.zeros(3, 4), 0.1, torch.zeros(1, 4))

    def test_needs_s2_for_an_ozaki_step(self):
        with pytest.raises(ValueError, match="the scores have no s2, which an Ozaki step needs"):
            inference.ozaki(Scores(1.0, torch.neg), torch.zeros(1, 2), 0.1, 3, progress=False)

    def test_that_is_not_finite_stops(self):
        broken = Scores(1.0, lambda x: x * torch.nan, lambda x: DiagonalPlusLowRank(-x))
        with pytest.raises(inference.DivergedError, match="ozaki diverged at step 1 with step size 0.1"):
            inference.ozaki(broken, torch.ones(1, 2), 0.1, 3, progress=False)


class TestAnnealing:
    def test_finds_modes_that_are_far_apart(self):
        """Two modes ten standard deviations apart: all chains start at one, and share themselves out."""
        means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
        density = GaussianMixture([0.3, 0.7], means, 0.09 * torch.eye(2).expand(2, 2, 2))
        start = means[:1].expand(2000, 2)
        x = inference.annealed_langevin(
            density, [5.0, 2.5, 1.2, 0.6, 0.3, 0.1], start, 5e-3, 100, seed=0, progress=False
        )
        assert evaluation.mode_weights(x, density, 0.1)[1].item() == pytest.approx(0.7, abs=0.1)

    def test_steps_are_counted_through_all_levels(self):
        normal = multivariate_normal(torch.zeros(2), torch.eye(2))
        seen = []
        x, chain = inference.annealed_langevin(
            normal, [2.0, 1.0], torch.zeros(3, 2), 1e-2, 4, seed=0, keep_every=2, progress=False,
            callback=lambda step, _: seen.append(step),
        )  # fmt: skip
        assert seen == list(range(1, 9))
        assert chain.shape == (4, 3, 2)
        assert torch.equal(chain[-1], x)

    def test_no_two_seeds_or_levels_share_noise(self):
        """Where s1 is zero, a step is its noise. Any two of 36 are uncorrelated, to five standard errors."""

        class Flat:
            def at(self, sigma):
                return Scores(sigma, torch.zeros_like)

        entries, levels = 2000, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
        steps = []
        for seed in range(6):
            start = torch.zeros(1, entries)
            _, chain = inference.annealed_langevin(
                Flat(), levels, start, 0.01, 1, seed=seed, keep_every=1, progress=False
            )
            steps.append(torch.cat([start[None], chain]).diff(dim=0)[:, 0])
        correlations = torch.corrcoef(torch.cat(steps)) - torch.eye(36)
        assert correlations.abs().max() < 5 / entries**0.5

    def test_one_level_is_langevin(self):
        normal = multivariate_normal(torch.zeros(2), torch.eye(2))
        x = torch.randn(3, 2)
        annealed = inference.annealed_langevin(normal, [0.5], x, 0.01, 4, seed=3, progress=False)
        assert torch.equal(annealed, inference.langevin(normal.at(0.5), x, 0.01, 4, seed=3, progress=False))

    @pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, "1", torch.ones(2)])
    def test_levels_are_numbers(self, sigma):
        with pytest.raises(ValueError, match=r"sigma .* number is expected"):
            inference.annealed_langevin(
                multivariate_normal([0.0, 0.0], torch.eye(2)), [2.0, sigma], torch.zeros(1, 2), 0.1, 1
            )

    def test_levels_and_a_model_are_needed(self):
        normal = multivariate_normal([0.0, 0.0], torch.eye(2))
        with pytest.raises(ValueError, match="sigmas is 0.5; a sequence of noise levels is expected"):
            inference.annealed_langevin(normal, 0.5, torch.zeros(1, 2), 0.1, 1)
        with pytest.raises(ValueError, match=r"model is of type Scores; .* is expected: model.at\(sigma\)"):
            inference.annealed_langevin(normal.at(0.5), [0.5], torch.zeros(1, 2), 0.1, 1)
        with pytest.raises(ValueError, match=r"scores is of type GaussianMixture; a models.Scores is expected"):
            inference.langevin(normal, torch.zeros(1, 2), 0.1, 1)

    @pytest.mark.parametrize("sigmas", [[], [1.0, 1.0], [0.5, 1.0]])
    def test_levels_descend(self, sigmas):
        with pytest.raises(ValueError, match="descending ones are expected"):
            inference.annealed_langevin(
                multivariate_normal([0.0, 0.0], torch.eye(2)), sigmas, torch.zeros(1, 2), 0.1, 1
            )
