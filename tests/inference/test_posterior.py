"""On a Gaussian mixture the posterior is a mixture too, and its moments are known in closed form."""

import pytest
import torch
from torch import Tensor

import inference
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
    low, high = posterior.interval(0.9)
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


@pytest.mark.parametrize("level", [0, 1, -0.5])
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

    def test_std_is_within_its_standard_error(self, setting, implied):
        """Of 40 entries none is five standard errors off, and the errors are of the size that is said."""
        *_, covariance = setting
        exact, error = covariance.diagonal(dim1=1, dim2=2).sqrt(), implied.standard_error()
        z = (implied.std() - exact) / error
        assert (error > 0).all()
        assert z.abs().max() < 5
        assert 0.5 < z.std() < 2

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
