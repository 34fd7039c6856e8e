"""On a Gaussian mixture the posterior is a mixture too, and its moments are known in closed form."""

import pytest
import torch
from torch import Tensor

import inference
import models
from datasets import GaussianMixture, multivariate_normal
from models import DiagonalPlusLowRank

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
    found = inference.posterior(lambda x: density.s1(x, SIGMA), lambda x: density.s2(x, SIGMA), noisy, SIGMA)
    return density, noisy, found, *exact_moments(density, noisy)


def test_mean_and_covariance_are_exact(setting):
    _, _, found, mean, covariance = setting
    close(found.mean, mean)
    close(found.covariance.dense(), covariance)
    close(found.std(), covariance.diagonal(dim1=1, dim2=2).sqrt())
    assert (found.clipped == 0).all()


def test_principal_components_are_exact(setting):
    _, _, found, _, covariance = setting
    variances, directions = found.principal_components(3)
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
    found = inference.posterior(lambda x: density.s1(x, SIGMA), wrong, noisy, SIGMA)
    exact, vectors = torch.linalg.eigh(covariance)
    leading = vectors[:, :, -2:]

    def caught(refine: int) -> Tensor:
        _, directions = found.principal_components(2, refine)
        return (leading.mT @ directions).square().sum((1, 2)) / 2

    assert (caught(1) > caught(0) - 1e-9).float().mean() > 0.8
    close(caught(300), torch.ones(8, dtype=torch.float64), rtol=1e-3, atol=0)
    variances, _ = found.principal_components(2, 300)
    close(variances, exact.flip(1)[:, :2], rtol=1e-3, atol=0)


def test_intervals_samples_and_log_density_are_those_of_the_gaussian(setting):
    _, _, found, mean, covariance = setting
    low, high = found.interval(0.9)
    close((high + low) / 2, mean)
    draws = found.sample(40_000, torch.Generator().manual_seed(0))
    assert draws.shape == (40_000, 8, 5)
    inside = ((draws > low) & (draws < high)).double().mean((0,))
    close(inside, torch.full_like(inside, 0.9), rtol=0, atol=0.01)
    close(draws.mean(0), mean, rtol=0, atol=0.02)
    apart = draws - draws.mean(0)
    close(torch.einsum("nbi,nbj->bij", apart, apart) / len(draws), covariance, rtol=0, atol=0.03)
    x = mean + 0.1
    close(found.log_prob(x), torch.distributions.MultivariateNormal(mean, covariance).log_prob(x))


def test_noise_levels_of_their_own():
    """A (B, 1) σ is each point's own."""
    normal = multivariate_normal(torch.zeros(3), torch.eye(3))
    x = torch.randn(4, 3, dtype=torch.float64)
    sigma = torch.tensor([[0.1], [0.5], [1.0], [2.0]], dtype=torch.float64)
    s1 = torch.cat([normal.s1(x[i : i + 1], sigma[i].item()) for i in range(4)])
    s2 = torch.cat([normal.s2(x[i : i + 1], sigma[i].item()) for i in range(4)])
    found = inference.posterior(s1, s2, x, sigma)
    close(found.mean, x / (1 + sigma**2))
    close(found.variance(), (sigma**2 / (1 + sigma**2)).expand(4, 3))
    refined = inference.posterior(lambda x: -x / (1 + sigma.repeat_interleave(len(x) // 4, 0) ** 2), s2, x, sigma)
    variances, _ = refined.principal_components(2, refine=1)
    close(variances, (sigma**2 / (1 + sigma**2)).expand(4, 2))
    close(found[1:3].std(), found.std()[1:3])


def test_negative_variances_are_clipped_and_counted():
    s2 = DiagonalPlusLowRank(torch.tensor([[0.0, -10.0, -3.0]]), torch.tensor([[[0.0], [0.0], [2.0]]]))
    found = inference.posterior(torch.zeros(1, 3), s2, torch.zeros(1, 3), 1.0, floor=0.01)
    assert found.clipped.tolist() == [1]
    with pytest.warns(RuntimeWarning, match="1 of 3 predicted variances lie below 0.01"):
        close(found.variance(), torch.tensor([[1.0, 0.01, 2.0]]))
    with pytest.warns(RuntimeWarning, match="2 of 3 entries of the covariance's diagonal part"):
        assert found.sample(10).isfinite().all()
    with pytest.warns(RuntimeWarning, match="2 of 3 entries"):
        assert found.log_prob(torch.zeros(1, 3)).isfinite().all()
    with pytest.warns(RuntimeWarning, match="1 of 3 variances of components"):
        variances, _ = found.principal_components(3)
    assert variances.min().item() == pytest.approx(0.01)
    assert found.covariance.full_diagonal().min() == -9


def test_what_cannot_be_asked():
    values = inference.posterior(torch.zeros(1, 3), DiagonalPlusLowRank(torch.zeros(1, 3)), torch.zeros(1, 3), 1.0)
    with pytest.raises(ValueError, match="s1 is wanted as a function"):
        values.principal_components(1, refine=1)
    for level in (0, 1, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            values.interval(level)


def test_one_call_of_a_shared_network():
    calls = []

    class Trunk(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.repeat(1, 4)

    model = models.SharedScoreModel(Trunk(), 2, "positive", 0.5)
    x = torch.randn(3, 6)
    found = inference.posterior(model.s1, model.s2, x, 0.5)
    assert calls == [3]
    score, s2 = model(x)
    close(found.covariance.dense(), 0.5**4 * s2.dense() + 0.25 * torch.eye(6))
    close(found.mean, x + 0.25 * score)
