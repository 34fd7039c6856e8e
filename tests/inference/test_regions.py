"""A region of a picture, against the rows and columns of the whole covariance."""

import pytest
import torch

import inference
import models
from linalg import DiagonalPlusLowRank, MatrixDerivative, SymmetricCP, TaperedLowRank
from models import Locality, Scores

close = torch.testing.assert_close
SHAPE = (2, 9, 12)
SIZE = 216
SIGMA = 0.5
BOX = (3, 4, 3, 5)


def kernel() -> torch.Tensor:
    return torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 9


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A denoiser whose answer looks one pixel far."""
    smooth = torch.nn.functional.conv2d(x, kernel(), padding=1).tanh()
    return torch.nn.functional.conv_transpose2d(smooth, kernel(), padding=1)


def picture() -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mask_of_box() -> torch.Tensor:
    mask = torch.zeros(SHAPE[1:], dtype=torch.bool)
    mask[3:6, 4:9] = True
    return mask


def some_pixels() -> torch.Tensor:
    mask = mask_of_box()
    mask[4, 5:7] = False
    return mask


def rows_of(mask: torch.Tensor) -> torch.Tensor:
    return mask.expand(SHAPE).flatten().nonzero().flatten()


def learned(kind: str) -> Scores:
    generator = torch.Generator().manual_seed(2)
    alpha = torch.rand(1, SIZE, generator=generator, dtype=torch.float64) + 0.1
    beta = torch.randn(1, SIZE, 3, generator=generator, dtype=torch.float64)
    ranges = torch.tensor([1.0, 3.0, torch.inf], dtype=torch.float64)
    matrix = TaperedLowRank(alpha, beta, ranges, SHAPE) if kind == "tapered" else DiagonalPlusLowRank(alpha, beta)
    base = models.from_denoiser(blurred, (SIGMA, SIGMA), SHAPE).at(SIGMA)
    return Scores(SIGMA, base.s1, lambda x: matrix, shape=SHAPE)


@pytest.mark.parametrize("kind", ["tapered", "low rank", "Jacobian", "local Jacobian"])
@pytest.mark.parametrize(
    "where", [BOX, mask_of_box(), some_pixels(), some_pixels().numpy()], ids=["box", "mask of a box", "mask", "array"]
)
def test_mean_and_covariance_are_those_of_its_rows(kind, where):
    reach = 2 if kind == "local Jacobian" else None
    model = models.from_denoiser(blurred, (SIGMA, SIGMA), SHAPE, reach=reach)
    scores = model.at(SIGMA) if "Jacobian" in kind else learned(kind)
    whole = inference.posterior(scores, picture())
    region = whole.region(where)
    rows = rows_of(mask_of_box() if isinstance(where, tuple) else torch.as_tensor(where))
    expected = whole.covariance.dense()[:, rows][:, :, rows]
    close(region.covariance.dense(), expected)
    close(region.mean, whole.mean[:, rows])
    close(region.std(), expected.diagonal(dim1=1, dim2=2).sqrt())
    values, vectors = region.principal_components(2)
    close(values, torch.linalg.eigvalsh(expected).flip(1)[:, :2], rtol=1e-3, atol=1e-6)
    close((vectors.mT @ vectors)[0], torch.eye(2, dtype=torch.float64))
    assert region.sample(3).shape == (3, 1, len(rows))


def test_components_are_refined_by_the_jacobian_of_the_region():
    whole = inference.posterior(learned("tapered"), picture())
    rows = rows_of(mask_of_box())
    exact = inference.posterior(models.from_denoiser(blurred, (SIGMA, SIGMA), SHAPE).at(SIGMA), picture())
    expected = torch.linalg.eigvalsh(exact.covariance.dense()[:, rows][:, :, rows]).flip(1)[:, :3]
    close(whole.region(BOX).principal_components(3, refine=20)[0], expected, rtol=1e-6, atol=1e-8)


def test_a_tapered_box_is_tapered_and_has_a_density():
    region = inference.posterior(learned("tapered"), picture()).region(BOX)
    assert isinstance(region.covariance, TaperedLowRank)
    x = region.mean + 0.1
    density = torch.distributions.MultivariateNormal(region.mean[0], region.covariance.dense()[0])
    close(region.log_prob(x), density.log_prob(x))


def test_only_the_surroundings_are_computed():
    """Of a picture of 2 × 60 × 60, s1 of a box of 3 × 5 is asked at 7 × 9 pixels, its ends at even places."""
    asked = []

    def watched(x, sigma):
        asked.append(tuple(x.shape[1:]))
        return blurred(x, sigma)

    model = models.from_denoiser(watched, (SIGMA, SIGMA), (2, None, None), reach=2, multiple=2)
    whole = inference.posterior(model.at(SIGMA, (2, 60, 60)), torch.randn(1, 2, 60, 60, dtype=torch.float64))
    asked.clear()
    whole.region((21, 31, 3, 5)).covariance.trace()
    assert set(asked) == {(2, 8, 10)}


def test_places_outside_of_the_picture_are_refused():
    whole = inference.posterior(learned("tapered"), picture())
    for where, message in [
        ((7, 0, 3, 3), r"3×3 pixels from \(7, 0\) on does not lie in a picture of 9×12"),
        ((0, 0, 0, 3), "does not lie in a picture"),
        ((0, 0, 3), "four whole numbers are expected"),
        ((0.5, 0, 3, 3), "four whole numbers are expected"),
        ("cell", "four whole numbers are expected"),
        (torch.ones(9, 12), "of type bool, is expected"),
        (torch.zeros(9, 12, dtype=torch.bool), "with 0 pixels"),
    ]:
        with pytest.raises(ValueError, match=message):
            whole.region(where)
    with pytest.raises(ValueError, match="one picture"):
        inference.posterior(learned("tapered"), picture().repeat(2, 1, 1, 1)).region(BOX)


def test_locality_is_what_the_model_says():
    model = models.from_denoiser(blurred, (SIGMA, SIGMA), SHAPE, reach=2, multiple=2)
    locality = model.at(SIGMA).locality
    assert isinstance(locality, Locality)
    assert (locality.reach, locality.multiple) == (2, 2)
    assert models.from_denoiser(blurred, (SIGMA, SIGMA), SHAPE).at(SIGMA).locality is None


@pytest.mark.parametrize("where", [BOX, some_pixels()], ids=["box", "mask"])
def test_the_third_cumulant_is_that_of_its_entries(where):
    generator = torch.Generator().manual_seed(3)
    parts = (torch.randn(1, *shape, generator=generator, dtype=torch.float64) for shape in ((2,), (SIZE, 2), (SIZE,)))
    tensor, base = SymmetricCP(*parts), learned("low rank")
    scores = Scores(SIGMA, base.s1, base.s2, shape=SHAPE, s3=lambda x: tensor)
    whole = inference.posterior(scores, picture())
    region = whole.region(where)
    rows = rows_of(some_pixels() if where is not BOX else mask_of_box())
    close(region.third_cumulant.dense(), (SIGMA**6 * tensor).restricted(rows).dense())
    close(region.skewness(), whole.skewness()[:, rows])
    close(region.interval()[0], whole.interval()[0][:, rows])


def test_without_s3_its_skewness_is_that_of_its_entries_too():
    """By the derivative of s2, of pictures whose s2 depends on them."""
    base = learned("low rank")

    def curved(x: torch.Tensor) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank(1 + x.sin() / 3, base.s2(x).beta.expand(len(x), -1, -1) * x[:, :, None].cos())

    whole = inference.posterior(Scores(SIGMA, base.s1, curved, shape=SHAPE), picture())
    rows = rows_of(mask_of_box())
    close(whole.region(BOX).skewness(), whole.skewness()[:, rows])
    known = Scores(SIGMA, base.s1, curved, shape=SHAPE, s3=lambda x: MatrixDerivative(curved, x))
    region = inference.posterior(known, picture()).region(BOX)
    close(region.skewness(), whole.skewness()[:, rows])
