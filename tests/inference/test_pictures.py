"""Denoised pictures, in the scale in which they were given."""

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import inference
import models
from configs import Config, UserError
from tests.conftest import ROOT


def digits(count: int) -> np.ndarray:
    return datasets.load(Config(), "test").images[:count, 0].numpy()


def test_denoise_answers_in_the_scale_it_was_asked_in(small_run, tmp_path):
    folder = small_run("LowRankHybridRunner")
    source = models.load(folder)
    images = digits(5)
    noisy = images / np.float32(255) + 0.5 * np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    floats = inference.denoise(folder, noisy)
    assert (floats.dtype, floats.shape) == (np.float32, noisy.shape)
    s1 = source.at(0.5).s1
    flat = torch.from_numpy(noisy).flatten(1)
    with torch.no_grad():
        np.testing.assert_allclose(floats.reshape(5, 64), flat + 0.25 * s1(flat), rtol=1e-5, atol=1e-6)
    assert ((floats - images / 255) ** 2).mean() < 0.9 * ((noisy - images / 255) ** 2).mean()

    bytes_ = inference.denoise(source, images)
    assert (bytes_.dtype, bytes_.shape) == (np.uint8, images.shape)
    tensor = inference.denoise(source, torch.from_numpy(images))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), bytes_)
    one = inference.denoise(source, noisy[0])
    assert one.shape == (8, 8)
    Image.fromarray(images[0]).save(tmp_path / "one.png")
    np.testing.assert_array_equal(inference.denoise(source, tmp_path / "one.png")[0], bytes_[0])


SHAPE = (3, 8, 6)


def a_model(shape: tuple[int, ...] = SHAPE, sigmas: tuple[float, float] = (0.5, 0.5)) -> models.ScoreModel:
    """Its mean is that of x̃ and of its mirror image: channels, rows and columns in a wrong order would be seen."""
    return models.from_denoiser(lambda x, sigma: (x + x.flip(-1)) / 2, sigmas, shape)


def noisy_values() -> torch.Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)).half().float() * 2 - 1


def mirrored(images: torch.Tensor) -> torch.Tensor:
    return (images + images.flip(-1)) / 2


LAYOUTS = {
    "channels first": lambda x: x,
    "channels last": lambda x: x.movedim(1, -1),
    "flat": lambda x: x.flatten(1),
    "one, channels first": lambda x: x[0],
    "one, channels last": lambda x: x[0].movedim(0, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floats_in_any_layout_and_precision(layout, dtype):
    given = LAYOUTS[layout](noisy_values().to(dtype).float())
    expected = LAYOUTS[layout](mirrored(noisy_values().to(dtype).float()))
    tensor = inference.denoise(a_model(), given.to(dtype).clone().requires_grad_())
    assert tensor.dtype == torch.float32
    assert not tensor.requires_grad
    torch.testing.assert_close(tensor, expected)
    if dtype != torch.bfloat16:
        array = inference.denoise(a_model(), given.to(dtype).numpy())
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, tensor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_in_any_layout(layout):
    pixels = torch.randint(256, (4, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given, expected = (LAYOUTS[layout](images) for images in (pixels, mirrored(pixels.float())))
    array = inference.denoise(a_model(), given.numpy())
    assert array.dtype == np.uint8
    np.testing.assert_allclose(array, expected, atol=0.5 + 1e-4)
    np.testing.assert_array_equal(inference.denoise(a_model(), given), array)


def test_a_list_for_a_list_and_pixels_for_pictures():
    pixels = torch.randint(256, (2, 8, 6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    expected = inference.denoise(a_model(), pixels)
    picture = Image.fromarray(pixels[0])
    np.testing.assert_array_equal(inference.denoise(a_model(), picture), expected[0])
    values = noisy_values()
    answer = inference.denoise(a_model(), [picture, pixels, values, values[0].double().numpy()])
    assert [tuple(one.shape) for one in answer] == [(8, 6, 3), (2, 8, 6, 3), (4, *SHAPE), SHAPE]
    np.testing.assert_array_equal(answer[0], expected[0])
    np.testing.assert_array_equal(answer[1], expected)
    torch.testing.assert_close(answer[2], mirrored(values))
    assert isinstance(answer[3], np.ndarray)
    assert inference.denoise(a_model(), values.tolist()).shape == (4, *SHAPE)


WRONG = {
    "another size": (np.zeros((2, 8, 8, 3), np.uint8), "images of 8×6 with 3 channel(s) are expected"),
    "grey": (np.zeros((2, 8, 6), np.float32), "an array of shape (2, 8, 6); images of 8×6 with 3 channel(s) are"),
    "integers": (np.zeros((2, 8, 6, 3), np.int64), "images of type int64; uint8, or floats in the model's range, are"),
    "truths": (torch.zeros(2, *SHAPE, dtype=torch.bool), "images of type bool; uint8, or floats"),
    "complex": (np.zeros((2, *SHAPE), complex), "images of type complex128; uint8, or floats"),
    "not finite": (torch.full((2, *SHAPE), torch.nan), "the images have values that are not finite"),
    "none": (torch.zeros(0, *SHAPE), "an array without images"),
    "an empty list": ([], "an array of shape (0,); images of 8×6 with 3 channel(s) are expected"),
    "nothing": (None, "images of type object; uint8, or floats"),
    "a small picture": (Image.new("RGB", (5, 5)), "images of 8×6 with 3 channel(s) are expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_picture_is_refused(case):
    images, message = WRONG[case]
    with pytest.raises(ValueError, match="expected|images|array") as refusal:
        inference.denoise(a_model(), images)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_model_that_has_no_pictures():
    with pytest.raises(
        ValueError, match=r"a model of points of shape \(16,\); one of images, \(C, H, W\), is expected"
    ):
        inference.denoise(a_model((16,)), noisy_values())
    with pytest.raises(ValueError, match="model is of type Scores; a models.ScoreModel or the path of one is expected"):
        inference.denoise(a_model().at(0.5), noisy_values())
    with pytest.raises(UserError, match=r"sigma: the model has scores at σ from 0.1 to 2; say which"):
        inference.denoise(a_model(sigmas=(0.1, 2.0)), noisy_values())
    with pytest.raises(UserError, match=r"the model has scores at σ = 0.5, not at σ = 0.4"):
        inference.denoise(a_model(), noisy_values(), 0.4)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        inference.denoise(tmp_path, digits(1))


def test_pictures_of_any_size_for_a_model_that_takes_them(tmp_path):
    """One that was trained on crops has a shape of its own, and takes others."""
    folder = str(ROOT / "checkpoints/ffdnet")
    rng = np.random.default_rng(0)
    pixels = [rng.integers(256, size=(20, width, 3), dtype=np.uint8) for width in (26, 26, 30)]
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match="images of 2 sizes; those of one size are expected"):
        inference.denoise(folder, tmp_path, sigma=0.1)
    (tmp_path / "2.png").unlink()
    expected = inference.denoise(folder, np.stack(pixels[:2]), sigma=0.1)
    assert expected.shape == (2, 20, 26, 3)
    assert np.array_equal(inference.denoise(folder, tmp_path, sigma=0.1), expected)
