"""Against numerical integrals, and the normal distribution."""

import pytest
import scipy.integrate
import torch

from inference import SplitNormal

close = torch.testing.assert_close
SKEWNESSES = [-0.994, -0.5, -1e-9, 0.0, 0.2, 0.9, 0.99]


def distribution(skewness: float) -> SplitNormal:
    mean, std = torch.tensor(0.7, dtype=torch.float64), torch.tensor(1.8, dtype=torch.float64)
    return SplitNormal.of_moments(mean, std, torch.tensor(skewness, dtype=torch.float64), limit=0.995)


def integral(function, low: float, high: float, *breaks: float) -> float:
    value, _ = scipy.integrate.quad(lambda t: float(function(torch.tensor(t, dtype=torch.float64))), low, high,
                                    points=breaks, limit=400, epsabs=1e-11, epsrel=1e-11)  # fmt: skip
    return value


@pytest.mark.parametrize("skewness", SKEWNESSES)
def test_it_is_a_distribution_of_these_moments(skewness):
    d = distribution(skewness)
    close(torch.stack([d.mean, d.std, d.skewness]), torch.tensor([0.7, 1.8, skewness], dtype=torch.float64))
    mode = float(d.mode)
    ends = mode - 12 * float(d.lower), mode + 12 * float(d.upper)

    def moment(power: int) -> float:
        return integral(lambda t: d.log_prob(t).exp() * (t - 0.7) ** power, *ends, mode)

    assert moment(0) == pytest.approx(1, abs=1e-9)
    assert moment(1) == pytest.approx(0, abs=1e-8)
    assert moment(2) == pytest.approx(1.8**2, abs=1e-7)
    assert moment(3) == pytest.approx(skewness * 1.8**3, abs=1e-6)


@pytest.mark.parametrize("skewness", SKEWNESSES)
@pytest.mark.parametrize("x", [-3.0, 0.4, 2.5])
def test_the_distribution_function_and_its_score(skewness, x):
    d, mode = distribution(skewness), float(distribution(skewness).mode)
    at = torch.tensor(x, dtype=torch.float64)
    low, high = min(x, mode) - 12 * float(d.lower), max(x, mode) + 12 * float(d.upper)
    breaks = (mode,) if low < mode < x else ()
    assert float(d.cdf(at)) == pytest.approx(integral(lambda t: d.log_prob(t).exp(), low, x, *breaks), abs=1e-9)
    score = integral(lambda t: (d.cdf(t) - (t >= x).double()) ** 2, low, high, *sorted({x, mode}))
    assert float(d.crps(at)) == pytest.approx(score, abs=1e-8)


@pytest.mark.parametrize("skewness", SKEWNESSES)
def test_quantiles_are_where_the_distribution_function_says(skewness):
    levels = torch.tensor([1e-6, 0.05, 0.3, 0.5, 0.7, 0.95, 1 - 1e-6], dtype=torch.float64)
    d = distribution(skewness)
    close(d.cdf(d.quantile(levels)), levels, rtol=1e-9, atol=1e-12)
    assert (d.quantile(levels).diff() > 0).all()


def test_without_skewness_it_is_the_normal_distribution():
    d, normal = distribution(0.0), torch.distributions.Normal(0.7, 1.8)
    x = torch.linspace(-5, 6, 23, dtype=torch.float64)
    close(d.log_prob(x), normal.log_prob(x))
    close(d.cdf(x), normal.cdf(x))
    close(d.quantile(0.05), normal.icdf(torch.tensor(0.05, dtype=torch.float64)))


def test_what_is_beyond_the_limit_is_clipped_and_counted():
    skewness = torch.tensor([-7.0, -0.3, 0.0, 0.69, 40.0])
    d = SplitNormal.of_moments(torch.zeros(5), torch.ones(5), skewness)
    close(d.skewness, torch.tensor([-0.7, -0.3, 0.0, 0.69, 0.7]))
    assert d.clipped.tolist() == [True, False, False, False, True]
    assert d.log_prob(torch.tensor(-3.0)).isfinite().all()
    for limit in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="a skewness from 0 to 0.995 can be had"):
            SplitNormal.of_moments(torch.zeros(5), torch.ones(5), skewness, limit=limit)


@pytest.mark.parametrize("level", [1 - 1e-6, 1 - 1e-9, 1e-9])
def test_quantiles_near_the_ends_in_single_precision(level):
    single, double = (
        SplitNormal.of_moments(*(torch.tensor(value, dtype=dtype) for value in (0.7, 1.8, 0.5)))
        for dtype in (torch.float32, torch.float64)
    )
    close(single.quantile(level).double(), double.quantile(level), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "moments", [(0.0, 0.0, 0.1), (0.0, -1.0, 0.1), (0.0, 1.0, float("nan")), (float("nan"), 1.0, 0.0)]
)
def test_moments_of_no_distribution_are_refused(moments):
    with pytest.raises(ValueError, match="a std is not positive, or a moment is not a number"):
        SplitNormal.of_moments(*map(torch.tensor, moments))
