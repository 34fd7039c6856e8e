"""Of numbers drawn from the very distributions that are predicted, and of others."""

import pytest
import torch

from evaluation import Marginals
from inference import SplitNormal


def drawn(skewness: float, images: int = 400, each: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws about a mean of zero, and their standard deviations."""
    generator = torch.Generator().manual_seed(0)
    deviations = 0.5 + torch.rand(images, each, generator=generator, dtype=torch.float64)
    levels = torch.rand(images, each, generator=generator, dtype=torch.float64)
    zero = torch.zeros_like(deviations)
    return SplitNormal.of_moments(zero, deviations, zero + skewness).quantile(levels), deviations


@pytest.mark.parametrize("skewness", [0.65, -0.65])
def test_a_right_skewness_gains_and_has_right_tails(skewness):
    values, deviations = drawn(skewness)
    collected = Marginals()
    for rows in (slice(150), slice(150, 400)):
        collected.add(values[rows], deviations[rows], torch.full_like(deviations[rows], skewness))
    metrics = collected.metrics()
    assert metrics["numbers"] == 20_000
    assert metrics["rms_skewness"] == pytest.approx(0.65)
    assert metrics["clipped"] == 0
    for tail in ("lower", "upper", "short", "long"):
        assert metrics[tail] == pytest.approx(0.05, abs=0.006)
    sides = ("lower", "upper") if skewness > 0 else ("upper", "lower")
    for side, tail in zip(sides, ("short", "long"), strict=True):
        assert metrics[f"{side}_normal"] == metrics[f"{tail}_normal"]
    assert metrics["short_normal"] < 0.02
    assert metrics["long_normal"] > 0.06
    for gain in ("log_score_gain", "crps_gain"):
        assert metrics[gain] > 5 * metrics[f"{gain}_error"] > 0


def test_a_wrong_skewness_loses():
    values, deviations = drawn(0.0)
    collected = Marginals()
    collected.add(values, deviations, torch.full_like(deviations, 2.0))
    metrics = collected.metrics()
    assert metrics["clipped"] == 1
    assert metrics["log_score_gain"] < 0
    assert metrics["crps_gain"] < 0
    assert metrics["lower_normal"] == pytest.approx(0.05, abs=0.006)


def test_the_standard_error_is_over_images():
    """Images whose numbers are all alike: as many independent ones as images."""
    values, deviations = drawn(0.5, each=1)
    alone, repeated = Marginals(), Marginals()
    alone.add(values, deviations, torch.full_like(deviations, 0.5))
    repeated.add(*(part.expand(-1, 30) for part in (values, deviations, torch.full_like(deviations, 0.5))))
    for gain in ("log_score_gain", "crps_gain"):
        assert repeated.metrics()[gain] == pytest.approx(alone.metrics()[gain])
        assert repeated.metrics()[f"{gain}_error"] == pytest.approx(alone.metrics()[f"{gain}_error"])


def test_only_what_is_kept_counts():
    values, deviations = drawn(0.5, images=20)
    collected = Marginals()
    collected.add(values, deviations, torch.zeros_like(values), deviations > 1)
    assert collected.metrics()["numbers"] == int((deviations > 1).sum())
    empty = Marginals()
    empty.add(values, deviations, torch.zeros_like(values), deviations > 9)
    with pytest.raises(ValueError, match="no numbers"):
        empty.metrics()
