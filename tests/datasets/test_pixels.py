"""Users' own images: which arrays are taken, which are refused, and in which scale they are."""

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from configs import Config

GREY = (1, 8, 8)
COLOURED = (3, 4, 4)


def digits(count: int) -> np.ndarray:
    return datasets.load(Config(), "test").images[:count, 0].numpy()


def test_pixels_there_and_back():
    grey, coloured = digits(3), np.random.default_rng(0).integers(256, size=(5, 4, 4, 3), dtype=np.uint8)
    for images, shape in ((grey, GREY), (coloured, COLOURED)):
        values = datasets.from_pixels(images, shape)
        assert values.shape == (len(images), images[0].size)
        low, high = datasets.value_range(shape[0])
        assert low <= values.min() <= values.max() <= high
        np.testing.assert_array_equal(datasets.to_pixels(values, shape), images)
    red = coloured[0, :, :, 0].flatten() / 127.5 - 1
    np.testing.assert_allclose(datasets.from_pixels(coloured, COLOURED)[0, :16], red, atol=1e-6)
    np.testing.assert_array_equal(datasets.from_pixels(grey[0], GREY), datasets.from_pixels(grey[:1], GREY))
    noisy = np.eye(8, dtype=np.float32) * np.float32(1.7)
    assert datasets.from_pixels(noisy, GREY).max() == np.float32(1.7)  # floats are the model's values
    assert datasets.from_pixels(torch.zeros(2, 8, 8, 1), GREY).shape == (2, 64)


def test_height_and_width_may_differ():
    images = np.random.default_rng(0).integers(256, size=(2, 4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(datasets.to_pixels(datasets.from_pixels(images, (3, 4, 6)), (3, 4, 6)), images)
    with pytest.raises(ValueError, match="images of 6×4 with 3"):
        datasets.from_pixels(images, (3, 6, 4))


@pytest.mark.parametrize(("shape", "low"), [(GREY, 0.0), (COLOURED, -1.0)])
def test_pictures_lie_between_zero_and_one(shape, low):
    values = torch.tensor([low - 1, low, (low + 1) / 2, 1.0, 2.0])[:, None].expand(5, shape[0] * shape[1] * shape[2])
    pictures = datasets.displayable(values, shape)
    assert pictures.shape == (5, *shape)
    torch.testing.assert_close(pictures[:, 0, 0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    pixels = datasets.to_pixels(values, shape).reshape(5, -1)[:, 0]
    np.testing.assert_array_equal(pixels, [0, 0, 128, 255, 255])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((7, 8), np.uint8), r"shape \(7, 8\); images of 8×8 with 1 channel\(s\) are expected"),
        (np.zeros((2, 8, 8, 3), np.uint8), "images of 8×8 with 1 channel"),
        (np.zeros((8, 8), np.int64), "images of type int64; uint8, or floats in the model's range, are expected"),
        (torch.zeros(8, 8, dtype=torch.int32), "images of type int32; uint8, or floats"),
        (np.zeros((8, 8), bool), "images of type bool; uint8, or floats"),
        (np.zeros((8, 8), complex), "images of type complex128; uint8, or floats"),
        ([[0, 255]] * 8, "images of type int64; uint8, or floats"),
        ([[0.0], [0.0, 1.0]], "lists of different lengths; images of one size are expected"),
        ([np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)], r"an array of shape \(9, 8\)"),
        ([], r"an array of shape \(0,\)"),
        (None, "images of type object"),
        ("picture.png", "images of type <U11"),
        (np.full((8, 8), np.nan), "not finite"),
        (np.full((8, 8), 1e300), "not finite"),
        (np.uint8(3), "images of 8×8"),
        (np.zeros((0, 8, 8), np.uint8), "an array without images"),
    ],
)
def test_arrays_that_do_not_fit(array, message):
    with pytest.raises(ValueError, match=message):
        datasets.from_pixels(array, GREY)


@pytest.mark.parametrize("shape", [GREY, COLOURED, (1, 5, 7), (3, 7, 5)])
def test_every_layout_and_type_gives_the_same_values(shape):
    channels, height, width = shape
    pixels = np.random.default_rng(0).integers(256, size=(2, *shape), dtype=np.uint8)
    last, flat = np.moveaxis(pixels, 1, -1), pixels.reshape(2, -1)
    expected = datasets.to_float(torch.tensor(pixels))
    layouts = [pixels, last, flat] + ([pixels[:, 0]] if channels == 1 else [])
    for layout in layouts:
        values = datasets.from_pixels(layout, shape)
        torch.testing.assert_close(values, expected, rtol=0, atol=0)
        assert datasets.like(values, layout.shape, shape).shape == layout.shape
        back = datasets.like(values, layout.shape, shape).numpy()
        np.testing.assert_array_equal(np.sort(back.flatten()), np.sort(values.numpy().flatten()))
        for array in (torch.tensor(layout), list(layout), list(torch.tensor(layout)), tuple(layout)):
            if layout is not flat or isinstance(array, torch.Tensor):
                torch.testing.assert_close(datasets.from_pixels(array, shape), expected, rtol=0, atol=0)
    for one in (pixels[0], last[0]):
        torch.testing.assert_close(datasets.from_pixels(one, shape), expected[:1], rtol=0, atol=0)
        np.testing.assert_array_equal(datasets.like(expected[:1], one.shape, shape).shape, one.shape)
    pictures = [Image.fromarray(one[..., 0] if channels == 1 else one) for one in last]
    torch.testing.assert_close(datasets.from_pixels(pictures, shape), expected, rtol=0, atol=0)
    torch.testing.assert_close(datasets.from_pixels(pictures[0], shape), expected[:1], rtol=0, atol=0)
    values = expected.unflatten(1, shape)
    for dtype, error in ((torch.float64, 1e-7), (torch.float32, 0), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        floats = datasets.from_pixels(values.to(dtype), shape)
        assert floats.dtype == torch.float32
        torch.testing.assert_close(floats, expected, rtol=0, atol=error)
    torch.testing.assert_close(datasets.from_pixels(values.tolist(), shape), expected, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(datasets.like(expected, last.shape, shape), values.movedim(1, -1))


def noisy(clean: np.ndarray, sigma: float) -> np.ndarray:
    return clean + sigma * np.random.default_rng(0).normal(size=clean.shape)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5, 2.0, 80.0])
def test_values_of_the_range_are_never_doubted(sigma):
    """Grey and coloured, dark and bright, clean and noisy: a warning is an error in these tests."""
    grey = digits(40) / 255
    coloured = 2 * np.random.default_rng(1).random((40, 4, 4, 3)) - 1
    for images, shape in ((grey, GREY), (np.zeros_like(grey), GREY), (np.ones_like(grey), GREY), (coloured, COLOURED)):
        datasets.from_pixels(noisy(images, sigma), shape)


@pytest.mark.parametrize(
    ("images", "shape", "message"),
    [
        (digits(5).astype(np.float32), GREY, r"from 0 to 255 with mean .*taken as they are, for images in \[0, 1\]"),
        (noisy(digits(40).astype(float), 25.0), GREY, "scale them, or give pixels from 0 to 255 as uint8"),
        (digits(5) / 127.5 - 1, GREY, r"from -1 to 1 with mean -0\.\d+: .* for images in \[0, 1\]; scale them"),
        (np.random.default_rng(0).random((2, 4, 4, 3)), COLOURED, r"none negative: .*\[-1, 1\]; .*give 2·x − 1"),
        (digits(5) // 128, GREY, "no pixel is above 1; uint8 pixels are taken to go from 0 to 255"),
    ],
)
def test_values_of_another_range_are_warned_about(images, shape, message):
    with pytest.warns(UserWarning, match=message):
        datasets.from_pixels(images, shape)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 1.5)])
def test_black_and_white_are_what_is_said(limits):
    """Of every channel count: pixels there and back, pictures in [0, 1], and no doubt about values between the two."""
    low, high = limits
    images = np.random.default_rng(0).integers(256, size=(5, 4, 4, 3), dtype=np.uint8)
    values = datasets.from_pixels(images, COLOURED, limits)
    expected = torch.tensor(images).movedim(3, 1).flatten(1).double() / 255
    torch.testing.assert_close(values.double(), low + (high - low) * expected)
    np.testing.assert_array_equal(datasets.to_pixels(values, COLOURED, limits), images)
    pictures = datasets.displayable(values, COLOURED, limits)
    torch.testing.assert_close(pictures.flatten(1).double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(datasets.from_pixels(values.unflatten(1, COLOURED), COLOURED, limits), values)
    with pytest.warns(UserWarning, match="scale them"):
        datasets.from_pixels(high + 1 + values.unflatten(1, COLOURED).abs(), COLOURED, limits)
