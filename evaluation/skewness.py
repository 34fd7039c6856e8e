"""Is a predicted skewness right? Marginal distributions with and without it, against what happened.

Of each number x there are a predicted mean, standard deviation and skewness. The normal distribution of the first two
and the split normal one of all three are compared by the tails that x falls into, by the logarithmic score and by the
CRPS: proper scores, which the true distribution has the best of on average.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

import inference
from datasets import ImageData
from evaluation.denoising import noisy_batches
from inference import SplitNormal
from inference.arguments import noise_of
from models import Scores

__all__ = ["Marginals", "skewness_metrics"]

TAIL = 0.05
TOLERANCE = 0.02  # of the components
UNCERTAIN = 0.02  # standard deviation, in the units of the data, from which on a pixel counts
MOST = 1000
COMPONENTS = 3


@dataclass
class Marginals:
    """Numbers and their predicted moments, by the image that they are of: tensors of any length, one an image or more.

    Attributes:
        values: x, less the predicted mean.
        deviations: the predicted standard deviations.
        skewnesses: the predicted ones.
        images: the number of the image.
        count: how many images there were.
    """

    values: list[Tensor] = field(default_factory=list)
    deviations: list[Tensor] = field(default_factory=list)
    skewnesses: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    count: int = 0

    def __len__(self) -> int:
        """How many numbers there are."""
        return sum(map(len, self.values))

    def add(self, values: Tensor, deviations: Tensor, skewnesses: Tensor, keep: Tensor | None = None) -> None:
        """Takes up a batch, `(B, n)` each: n numbers of each image, or those of them that `keep` has."""
        images = self.count + torch.arange(len(values))[:, None].expand(values.shape)
        keep = torch.ones_like(values, dtype=torch.bool) if keep is None else keep
        kept = (part.double().cpu()[keep.cpu()] for part in (values, deviations, skewnesses, images))
        for into, part in zip((self.values, self.deviations, self.skewnesses, self.images), kept, strict=True):
            into.append(part)
        self.count += len(values)

    def metrics(self) -> dict[str, float]:
        """What the skewness gains.

        Returns:
            `numbers`: how many; `rms_skewness`, the root of its mean square as it was predicted, and `clipped`, the
            share of those beyond the limit of `SplitNormal`;
            `lower`, `upper`: the shares below the 5 % and above the 95 % quantile of the split normal distribution, and
            `short`, `long`: those on the side of the tail that is predicted to be the shorter and the longer one;
            `lower_normal` and so on: those of the normal distribution;
            `log_score_gain`, in nats, and `crps_gain`, as a share of the normal distribution's CRPS: what the split
            normal one is better by, each with its standard error over images, `…_error`.

        Raises:
            ValueError: where there is no number.
        """
        if not len(self):
            raise ValueError("no numbers; a pixel of a predicted deviation above the least, or a component is expected")
        x, deviations, skewnesses = map(torch.cat, (self.values, self.deviations, self.skewnesses))
        zero = torch.zeros_like(deviations)
        normal = SplitNormal.of_moments(zero, deviations, zero)
        skewed = SplitNormal.of_moments(zero, deviations, skewnesses)
        right = skewnesses > 0
        found = {"numbers": float(len(x)), "rms_skewness": float(skewnesses.square().mean().sqrt())}
        found["clipped"] = float(skewed.clipped.double().mean())
        for name, distribution in (("", skewed), ("_normal", normal)):
            share = distribution.cdf(x)
            below, above = share < TAIL, share > 1 - TAIL
            tails = {"lower": below, "upper": above}
            tails |= {"short": torch.where(right, below, above), "long": torch.where(right, above, below)}
            found |= {tail + name: float(inside.double().mean()) for tail, inside in tails.items()}
        crps = normal.crps(x)
        gains = {"log_score_gain": skewed.log_prob(x) - normal.log_prob(x)}
        gains["crps_gain"] = (crps - skewed.crps(x)) / crps.mean()
        for name, gain in gains.items():
            found[name], found[f"{name}_error"] = self._mean(gain)
        return found

    def _mean(self, numbers: Tensor) -> tuple[float, float]:
        """The mean, and its standard error, images being independent and not the numbers of one."""
        images = torch.cat(self.images).long()
        sums, counts = (torch.zeros(self.count, dtype=torch.float64) for _ in range(2))
        sums.index_add_(0, images, numbers)
        counts.index_add_(0, images, torch.ones_like(numbers))
        mean = float(numbers.mean())
        return mean, float((sums - mean * counts).square().sum().sqrt() / len(numbers))


@torch.no_grad()
def skewness_metrics(scores: Scores, data: ImageData, seed: int) -> dict[str, dict[str, float]]:
    """What the third order adds, over the first 1000 images of a test set.

    Args:
        scores: of three orders, at a σ above 0.
        data: the test set.
        seed: of the noise.

    Returns:
        `Marginals.metrics` of `pixels`, those with a predicted standard deviation above 0.02, and, where s2 is not
        diagonal, of the `components`, the first three; of what there is none of, nothing.

    Raises:
        ValueError: where there is no s3, or the scores are at σ = 0.
        UserError: where an image file cannot be read.
    """
    if scores.s3 is None:
        raise ValueError("s3 is None; scores of three orders are expected")
    pixels, components = Marginals(), Marginals()
    for p in noisy_batches(data, noise_of(scores), seed):
        rows = slice(MOST - pixels.count)
        posterior = inference.posterior(scores, p.inputs[rows])
        error, deviation = p.clean[rows] - posterior.mean, posterior.std()
        pixels.add(error, deviation, posterior.skewness(), deviation > UNCERTAIN)
        if getattr(posterior.covariance, "rank", 0):
            variances, directions = posterior.principal_components(min(COMPONENTS, error.shape[1]), tolerance=TOLERANCE)
            along = (directions.mT @ error[:, :, None])[:, :, 0]
            components.add(along, variances.sqrt(), posterior.skewness(directions))
        if pixels.count == MOST:
            break
    return {name: part.metrics() for name, part in (("pixels", pixels), ("components", components)) if len(part)}
