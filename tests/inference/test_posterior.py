"""On a Gaussian mixture the posterior is a mixture too, and its moments are known in closed form."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import inference
import models
from configs import Config
from datasets import GaussianMixture
from linalg import DiagonalPlusLowRank, Jacobian
from models import Scores

SIGMA = 0.7
close = torch.testing.assert_close


def mixture(dimension: int = 5) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(3, dimension, dimension, generator=generator, dtype=torch.float64)
    means = 2 * torch.randn(3, dimension, generator=generator, dtype=torch.float64)
    return GaussianMixture([0.5, 0.2, 0.3], means, roots @ roots.mT / dimension + 0.05 * torch.eye(dimension))


def noisy_points(density: GaussianMixture, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = density.sample(count, generator).double()
    return x + SIGMA * torch.randn(x.shape, generator=generator, dtype=torch.float64)


def exact_moments(density: GaussianMixture, noisy: Tensor) -> tuple[Tensor, Tensor]:
    """Bayes' rule, component by component, and the law of total covariance: nothing of Tweedie."""
    eye = torch.eye(density.dimension, dtype=torch.float64)
    shares = density.shares(noisy, SIGMA)
    gains = density.covariances @ torch.linalg.inv(density.covariances + SIGMA**2 * eye)
    means = density.means + torch.einsum("kij,bkj->bki", gains, noisy[:, None] - density.means)
    covariances = (eye - gains) @ density.covariances
    mean = (shares[:, :, None] * means).sum(1)
    apart = means - mean[:, None]
    between = torch.einsum("bk,bki,bkj->bij", shares, apart, apart)
    return mean, torch.einsum("bk,kij->bij", shares, covariances) + between


@pytest.fixture(scope="module")
def setting():
    density = mixture()
    noisy = noisy_points(density)
    return density, noisy, inference.posterior(density.at(SIGMA), noisy), *exact_moments(density, noisy)


def test_mean_and_covariance_are_exact(setting):
    _, _, posterior, mean, covariance = setting
    close(posterior.mean, mean)
    close(posterior.covariance.dense(), covariance)
    close(posterior.std(), covariance.diagonal(dim1=1, dim2=2).sqrt())
    assert (posterior.clipped == 0).all()


def test_principal_components_are_exact(setting):
    _, _, posterior, _, covariance = setting
    variances, directions = posterior.principal_components(3)
    values, vectors = torch.linalg.eigh(covariance)
    close(variances, values.flip(1)[:, :3])
    close((directions * vectors.flip(2)[:, :, :3]).sum(1).abs(), torch.ones(8, 3, dtype=torch.float64))
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_refining_goes_to_the_components_that_s1_implies(setting):
    """From directions that are far off, with the exact score: subspace iteration reaches the exact components."""
    density, noisy, _, mean, covariance = setting
    generator = torch.Generator().manual_seed(2)
    wrong = DiagonalPlusLowRank(
        -torch.ones(8, 5, dtype=torch.float64), torch.randn(8, 5, 2, generator=generator, dtype=torch.float64)
    )
    posterior = inference.posterior(Scores(SIGMA, density.at(SIGMA).s1, lambda x: wrong), noisy)
    exact, vectors = torch.linalg.eigh(covariance)
    leading = vectors[:, :, -2:]

    def caught(directions: Tensor) -> Tensor:
        return (leading.mT @ directions).square().sum((1, 2)) / 2

    before, after = (caught(posterior.principal_components(2, refine)[1]) for refine in (0, 1))
    assert (after > before - 1e-9).float().mean() > 0.8
    variances, directions = posterior.principal_components(2, 300)
    close(caught(directions), torch.ones(8, dtype=torch.float64), rtol=1e-3, atol=0)
    close(variances, exact.flip(1)[:, :2], rtol=1e-3, atol=0)


def test_intervals_samples_and_log_density_are_those_of_the_gaussian(setting):
    _, _, posterior, mean, covariance = setting
    low, high = posterior.interval(0.9, skewed=False)
    close((high + low) / 2, mean)
    draws = posterior.sample(40_000, torch.Generator().manual_seed(0))
    assert draws.shape == (40_000, 8, 5)
    inside = ((draws > low) & (draws < high)).double().mean((0,))
    close(inside, torch.full_like(inside, 0.9), rtol=0, atol=0.01)
    close(draws.mean(0), mean, rtol=0, atol=0.02)
    apart = draws - draws.mean(0)
    close(torch.einsum("nbi,nbj->bij", apart, apart) / len(draws), covariance, rtol=0, atol=0.03)
    x = mean + 0.1
    close(posterior.log_prob(x), torch.distributions.MultivariateNormal(mean, covariance).log_prob(x))


def test_negative_variances_are_clipped_and_counted():
    s2 = DiagonalPlusLowRank(torch.tensor([[0.0, -10.0, -3.0]]), torch.tensor([[[0.0], [0.0], [2.0]]]))
    posterior = inference.posterior(Scores(1.0, torch.zeros_like, lambda x: s2), torch.zeros(1, 3), floor=0.01)
    assert posterior.clipped.tolist() == [1]
    with pytest.warns(RuntimeWarning, match="1 of 3 predicted variances lie below 0.01"):
        close(posterior.variance(), torch.tensor([[1.0, 0.01, 2.0]]))
    with pytest.warns(RuntimeWarning, match="2 of 3 entries of the covariance's diagonal part"):
        assert posterior.sample(10).isfinite().all()
    with pytest.warns(RuntimeWarning, match="2 of 3 entries"):
        assert posterior.log_prob(torch.zeros(1, 3)).isfinite().all()
    with pytest.warns(RuntimeWarning, match="1 of 3 variances of components"):
        variances, _ = posterior.principal_components(3)
    assert variances.min().item() == pytest.approx(0.01)
    assert posterior.covariance.diagonal().min() == -9


@pytest.mark.parametrize("level", [0, 1, -0.5, math.nan, "0.9", None])
def test_a_level_is_a_probability(setting, level):
    with pytest.raises(ValueError, match="between 0 and 1 is expected"):
        setting[2].interval(level)


def test_some_of_the_points(setting):
    _, noisy, posterior, mean, _ = setting
    some = posterior[2:4]
    assert (len(some), some.sigma) == (2, SIGMA)
    close(some.mean, mean[2:4])
    close(some.std(), posterior.std()[2:4])
    close(some.noisy, noisy[2:4])


@pytest.fixture(scope="module")
def implied(setting):
    density, noisy, *_ = setting
    return inference.posterior(Scores(SIGMA, density.at(SIGMA).s1), noisy)


class TestWithoutS2:
    """The same posterior from s1 alone, by products with its Jacobian."""

    def test_mean_covariance_and_components_are_exact(self, setting, implied):
        *_, mean, covariance = setting
        assert isinstance(implied.covariance, Jacobian)
        close(implied.mean, mean)
        close(implied.covariance.dense(), covariance)
        variances, directions = implied.principal_components(2)
        values, vectors = torch.linalg.eigh(covariance)
        close(variances, values.flip(1)[:, :2], rtol=1e-2, atol=0)
        caught = (vectors[:, :, -2:].mT @ directions).square().sum((1, 2)) / 2
        close(caught, torch.ones_like(caught), rtol=1e-2, atol=0)

    def test_few_variances_are_exact(self, setting, implied):
        *_, covariance = setting
        close(implied.std(), covariance.diagonal(dim1=1, dim2=2).sqrt())
        assert (implied.standard_error() == 0).all()

    def test_many_are_within_their_standard_error(self):
        """Of 160 entries none is five standard errors off, the errors are of the size that is said, and an answer does
        not depend on its neighbours."""
        density = mixture(80)
        noisy = noisy_points(density, 2)
        posterior = inference.posterior(Scores(SIGMA, density.at(SIGMA).s1), noisy)
        exact = exact_moments(density, noisy)[1].diagonal(dim1=1, dim2=2).sqrt()
        error = posterior.standard_error()
        z = (posterior.std() - exact) / error
        assert (error > 0).all()
        assert z.abs().max() < 5
        assert 0.5 < z.std() < 2
        close(posterior[1:].std(), posterior.std()[1:])

    def test_where_s2_is_known_there_is_no_error(self, setting):
        assert (setting[2].standard_error() == 0).all()

    def test_samples_have_its_moments(self, setting, implied):
        *_, mean, covariance = setting
        draws = implied.sample(20_000, torch.Generator().manual_seed(0))
        close(draws.mean(0), mean, rtol=0, atol=0.03)
        apart = draws - draws.mean(0)
        close(torch.einsum("nbi,nbj->bij", apart, apart) / len(draws), covariance, rtol=0, atol=0.04)

    def test_what_cannot_be_had_says_so(self, implied):
        with pytest.raises(ValueError, match="refine: without s2 the components come from the Jacobian of s1 already"):
            implied.principal_components(1, refine=1)
        with pytest.raises(ValueError, match="log_prob: .* products with the Jacobian of s1"):
            implied.log_prob(implied.mean)


SHAPE = (1, 4, 4)


def a_model(head: str = "low_rank") -> models.ScoreModel:
    torch.manual_seed(0)
    runner = "UnetDSMRunner" if head == "none" else "LowRankHybridRunner"
    config = Config(runner=runner, rank=2, noise=SIGMA, model={"ngf": 8, "network": "mlp", "head": head})
    return models.score_model(models.build(config, SHAPE), config, SHAPE)


@pytest.fixture(scope="module", params=["low_rank", "none"])
def network_scores(request):
    return a_model(request.param).at(SIGMA)


class TestInput:
    """One posterior, in whatever form the noisy images come; or a line that says what is expected."""

    IMAGES = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)).half()  # so that no form loses anything

    FORMS = {
        "float64": lambda x: x.double(),
        "float32": lambda x: x.float(),
        "float16": lambda x: x,
        "image-shaped": lambda x: x.float().unflatten(1, SHAPE),
        "array": lambda x: x.numpy(),
        "float64 array": lambda x: x.double().numpy(),
        "image-shaped array": lambda x: x.float().unflatten(1, SHAPE).numpy(),
        "reversed array": lambda x: x.float().numpy()[::-1][::-1],
        "list": lambda x: list(x.float()),
        "list of arrays": lambda x: list(x.numpy()),
        "list of images": lambda x: list(x.float().unflatten(1, SHAPE)),
        "lists": lambda x: x.double().tolist(),
        "with a gradient": lambda x: x.float().requires_grad_(),
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_in_any_form(self, network_scores, form):
        flat = self.IMAGES.flatten(1)
        expected = inference.posterior(network_scores, flat.float())
        posterior = inference.posterior(network_scores, self.FORMS[form](flat))
        assert posterior.mean.dtype == torch.float32
        assert torch.equal(posterior.mean, expected.mean)
        close(posterior.std(), expected.std())

    def test_in_bfloat16(self, network_scores):
        images = self.IMAGES.bfloat16()
        posterior = inference.posterior(network_scores, images)
        assert torch.equal(posterior.mean, inference.posterior(network_scores, images.float()).mean)

    @pytest.mark.filterwarnings("ignore:.* lie below:RuntimeWarning")  # nothing was trained
    def test_tracks_no_gradient(self, network_scores):
        """Of the points or of the network, in any of the answers."""
        noisy = self.IMAGES.float().requires_grad_()
        posterior = inference.posterior(network_scores, noisy)
        answers = [posterior.mean, posterior.noisy, posterior.covariance.dense(), posterior.variance(), posterior.std()]
        answers += [*posterior.interval(), *posterior.principal_components(2), posterior.sample(2)]
        answers += [posterior.standard_error(), posterior.clipped, posterior[:1].mean]
        answers += inference.denoiser_components(network_scores, noisy, 2)
        if network_scores.s2 is not None:
            answers.append(posterior.log_prob(noisy))
        assert not any(answer.requires_grad for answer in answers)
        assert noisy.grad is None

    WRONG = {
        "another D": (torch.zeros(2, 15), "noisy has shape (2, 15); (B, 16) or (B, 1, 4, 4) is expected"),
        "one image": (
            torch.zeros(SHAPE),
            "noisy has shape (1, 4, 4); (B, 16) or (B, 1, 4, 4) is expected, [None] adds",
        ),
        "another image": (torch.zeros(2, 1, 4, 5), "noisy has shape (2, 1, 4, 5); (B, 16) or (B, 1, 4, 4) is expected"),
        "pixels": (torch.zeros(2, 16, dtype=torch.uint8), "noisy is of type torch.uint8; floats in the units of the"),
        "integers": (np.zeros((2, 16), np.int32), "noisy is of type torch.int32; floats in the units of the scores"),
        "a picture": (Image.new("L", (4, 4)), "noisy is of type Image; a tensor or array of floats (B, D) is expected"),
        "not finite": (torch.full((2, 16), math.inf), "noisy has 32 of 32 values that are not finite"),
        "a path": ("noisy.png", "noisy is of type str; a tensor or array of floats (B, D) is expected"),
    }

    @pytest.mark.parametrize("case", WRONG)
    def test_that_is_none(self, network_scores, case):
        noisy, message = self.WRONG[case]
        for call in (inference.posterior, lambda *given: inference.denoiser_components(*given, 2)):
            with pytest.raises(ValueError, match="noisy") as refusal:
                call(network_scores, noisy)
            assert message in str(refusal.value)

    def test_that_are_no_scores(self):
        with pytest.raises(ValueError, match=r"scores is a ScoreModel, of many noise levels; .*: model.at\(sigma\)"):
            inference.posterior(a_model(), self.IMAGES)
        with pytest.raises(ValueError, match="the scores are at σ = 0, of points without noise"):
            inference.posterior(mixture().at(0.0), torch.zeros(2, 5))


def test_wrong_questions_to_a_posterior(setting):
    _, _, posterior, mean, _ = setting
    with pytest.raises(ValueError, match=r"posterior\[2\] has no axis B; a slice is expected: posterior\[2:3\]"):
        posterior[2]
    for k in (0, 1.5, -1, "2"):
        with pytest.raises(ValueError, match="k is .*; a whole number, 1 or more, is expected"):
            posterior.principal_components(k)
    with pytest.raises(ValueError, match="6 eigenpairs of a 5×5 matrix; from 1 to 5 can be had"):
        posterior.principal_components(6)
    with pytest.raises(ValueError, match="refine is -1; a whole number, 0 or more, is expected"):
        posterior.principal_components(2, -1)
    with pytest.raises(ValueError, match="n is -3; a whole number, 1 or more, is expected"):
        posterior.sample(-3)
    for x in (mean[:1], mean[:3]):
        with pytest.raises(ValueError, match=r"; \(8, 5\) is expected, a clean point for each noisy one"):
            posterior.log_prob(x)
    with pytest.raises(ValueError, match=r"x has shape \(5,\); \(B, 5\) is expected, \[None\] adds the axis B"):
        posterior.log_prob(mean[0])
    for floor in (0.0, -1.0, math.nan, "0"):
        with pytest.raises(ValueError, match="floor is .*; a positive, finite number is expected"):
            inference.posterior(posterior.scores, posterior.noisy, floor)


# --- the third order ---


def exact_third_cumulant(density: GaussianMixture, noisy: Tensor) -> Tensor:
    """By the law of total cumulance of the posterior's components: nothing of Tweedie."""
    eye = torch.eye(density.dimension, dtype=torch.float64)
    shares = density.shares(noisy, SIGMA)
    gains = density.covariances @ torch.linalg.inv(density.covariances + SIGMA**2 * eye)
    means = density.means + torch.einsum("kij,bkj->bki", gains, noisy[:, None] - density.means)
    within = (eye - gains) @ density.covariances
    apart = means - (shares[:, :, None] * means).sum(1, keepdim=True)
    mixed = torch.einsum("bk,kij,bkl->bijl", shares, within, apart)
    between = torch.einsum("bk,bki,bkj,bkl->bijl", shares, apart, apart, apart)
    return mixed + mixed.permute(0, 1, 3, 2) + mixed.permute(0, 3, 2, 1) + between


@pytest.fixture(params=["exact s3", "derivative of s2", "second derivative of s1", "some of the points"])
def third_setting(request, setting):
    density, noisy, posterior, mean, covariance = setting
    scores = density.at(SIGMA)
    if request.param == "derivative of s2":
        posterior = inference.posterior(Scores(SIGMA, scores.s1, scores.s2), noisy)
    if request.param == "second derivative of s1":
        posterior = inference.posterior(Scores(SIGMA, scores.s1), noisy)
    rows = slice(2, 6) if request.param == "some of the points" else slice(None)
    posterior = posterior[rows]
    return posterior, mean[rows], covariance[rows], exact_third_cumulant(density, noisy)[rows]


def test_the_third_cumulant_and_its_skewness_are_exact(third_setting):
    posterior, _, covariance, third = third_setting
    close(posterior.third_cumulant.dense(), third, rtol=1e-6, atol=1e-8)
    variances = covariance.diagonal(dim1=1, dim2=2)
    close(posterior.skewness(), torch.einsum("biii->bi", third) / variances**1.5, rtol=1e-6, atol=1e-7)
    values, directions = posterior.principal_components(2)
    along = torch.einsum("bijk,bin,bjn,bkn->bn", third, *[directions] * 3)
    close(posterior.skewness(directions), along / values**1.5, rtol=1e-6, atol=1e-7)
    close(posterior.skewness(directions, differentiate=True), along / values**1.5, rtol=1e-6, atol=1e-7)
    close(posterior.skewness(3 * directions[:, :, 0]), along[:, 0] / values[:, 0] ** 1.5, rtol=1e-6, atol=1e-7)


def test_marginals_have_the_three_moments(third_setting):
    posterior, mean, covariance, _ = third_setting
    entries = posterior.marginal()
    close(entries.mean, mean)
    close(entries.std, covariance.diagonal(dim1=1, dim2=2).sqrt())
    close(entries.skewness, posterior.skewness().clamp(-0.7, 0.7))
    assert torch.equal(entries.clipped, posterior.skewness().abs() > 0.7)
    values, directions = posterior.principal_components(2)
    along = posterior.marginal(5 * directions)
    close(along.mean, torch.zeros_like(values), rtol=0, atol=1e-12)
    close(along.std, values.sqrt())
    close(along.skewness, posterior.skewness(directions).clamp(-0.7, 0.7))
    low, high = posterior.interval(0.8, skewed=True)
    close(entries.cdf(low), torch.full_like(low, 0.1))
    close(entries.cdf(high), torch.full_like(low, 0.9))
    chosen = posterior.interval(0.8)
    skewed = posterior.scores.s3 is not None
    close(chosen[0], posterior.interval(0.8, skewed)[0])


def test_a_skewed_interval_leaves_as_much_below_as_above():
    """Of the posterior of a density whose tail is to one side: 40,000 draws of points and noise."""
    density = GaussianMixture([0.7, 0.3], [[0.0], [1.2]], [[[0.04]], [[0.5]]])
    generator = torch.Generator().manual_seed(0)
    x = density.sample(40_000, generator).double()
    noisy = x + 0.6 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    posterior = inference.posterior(density.at(0.6), noisy)
    outside = {}
    for skewed in (False, True):
        low, high = posterior.interval(0.9, skewed)
        outside[skewed] = torch.stack([(x < low).double().mean(), (x > high).double().mean()])
    assert ((outside[True] - 0.05).abs() < 0.6 * (outside[False] - 0.05).abs()).all()


def test_directions_that_do_not_fit_are_refused(setting):
    posterior = setting[2]
    for question in (posterior.skewness, posterior.marginal):
        with pytest.raises(ValueError, match="differentiate is true and there are no directions"):
            question(differentiate=True)
    for directions in (torch.ones(8, 4), torch.ones(5), torch.ones(8, 5, 2, 1)):
        with pytest.raises(ValueError, match=r"\(8, 5\) or \(8, 5, k\), real, is expected"):
            posterior.skewness(directions)
        with pytest.raises(ValueError, match=r"\(8, 5\) or \(8, 5, k\), real, is expected"):
            posterior.marginal(directions)
    for directions in (torch.zeros(8, 5), torch.full((8, 5), math.nan)):
        with pytest.raises(ValueError, match="no length, or are not finite"):
            posterior.skewness(directions)


def test_directions_in_any_form_and_of_any_length(setting):
    posterior = setting[2]
    direction = torch.randn(8, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = posterior.skewness(direction)
    for given in (direction.numpy(), direction.tolist(), 1e-200 * direction, 1e200 * direction):
        close(posterior.skewness(given), expected)
