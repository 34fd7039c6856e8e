"""Users' own images: what can be read, what is refused, and in which scale they are."""

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from configs import Config, UserError

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
    noisy = np.full((8, 8), 1.7, dtype=np.float32)
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
        (np.full((8, 8), np.nan), "not finite"),
        (np.uint8(3), "images of 8×8"),
        (np.zeros((0, 8, 8), np.uint8), "an array without images"),
    ],
)
def test_arrays_that_do_not_fit(array, message):
    with pytest.raises(ValueError, match=message):
        datasets.from_pixels(array, GREY)


def test_a_folder_of_files_of_each_kind(tmp_path):
    images = digits(4)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    noisy = np.full((8, 8), -0.3)
    np.save(tmp_path / "a.npy", noisy)
    np.savez(tmp_path / "b.npz", images=images[1:3])
    Image.fromarray(images[3]).convert("RGB").save(tmp_path / "c.bmp")
    names, values = datasets.read_images(tmp_path, GREY)
    assert names == ["a_npy", "a_png", "b_0", "b_1", "c"]
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[0], torch.full((64,), -0.3))
    np.testing.assert_array_equal(datasets.to_pixels(values[1:], GREY), images)
    assert datasets.read_images(tmp_path / "b.npz", GREY)[0] == ["b_0", "b_1"]


def make_input(kind: str, folder) -> str:
    if kind == "missing":
        return "nowhere"
    path = folder / {"text": "note.png", "archive": "a.npz", "folder": "empty"}.get(kind, "image.png")
    if kind == "size":
        Image.fromarray(np.zeros((9, 8), np.uint8)).save(path)
    elif kind == "deep":
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "archive":
        np.savez(path, pictures=np.zeros((1, 8, 8), np.uint8))
    elif kind == "folder":
        path.mkdir()
    return path.name


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "nowhere: no such file or folder"),
        ("size", "image.png: an array of shape (9, 8); images of 8×8 with 1 channel(s) are expected"),
        ("deep", "image.png: more than 8 bits a pixel; save it with 8, or as a .npy array of floats"),
        ("text", "note.png: not an image, .npy or .npz file, or a broken one"),
        ("archive", "a.npz: the archive has no array 'images'"),
        ("folder", "empty: the folder has no files"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        datasets.read_images(make_input(kind, tmp_path), GREY)
    assert str(raised.value) == message
