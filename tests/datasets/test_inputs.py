"""A user's own images as files: what is read, under which names, and what is refused."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from configs import Config, UserError
from datasets.inputs import ImageInputs, inputs_by_size

GREY = (1, 8, 8)


def digits(count: int) -> np.ndarray:
    return datasets.load(Config(), "test").images[:count, 0].numpy()


def test_a_folder_of_files_of_each_kind(tmp_path):
    images = digits(4)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    noisy = np.full((8, 8), -0.3) * np.array([-2, 1] * 4)
    np.save(tmp_path / "a.npy", noisy)
    np.savez(tmp_path / "b.npz", images=images[1:3])
    Image.fromarray(images[3]).convert("RGB").save(tmp_path / "c.bmp")
    for litter in (".DS_Store", "Thumbs.db", "._a.png"):
        (tmp_path / litter).write_text("x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    names, values = datasets.read_images(tmp_path, GREY)
    assert names == ["a_npy", "a_png", "b_0", "b_1", "c"]
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[0], torch.tensor(noisy).flatten().float())
    np.testing.assert_array_equal(datasets.to_pixels(values[1:], GREY), images)
    assert datasets.read_images(tmp_path / "b.npz", GREY)[0] == ["b_0", "b_1"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"d1.png": 1, "d1.jpg": 1}, ["d1_jpg", "d1_png"]),
        ({"d1.png": 1, "d1.jpg": 1, "d1_png.bmp": 1}, ["d1_jpg", "d1_png", "d1_png_bmp"]),
        ({"a.npz": 2, "a_0.png": 1}, ["a_npz_0", "a_npz_1", "a_0"]),
        ({"a.npz": 3, "a_0.npz": 2}, ["a_0", "a_1", "a_2", "a_0_0", "a_0_1"]),
        ({"a.npz": 3, "a_0.npz": 1}, ["a_npz_0", "a_npz_1", "a_npz_2", "a_0"]),
        ({"A.png": 1, "a.jpg": 1}, ["A_png", "a_jpg"]),
        ({"A.PNG": 1, "a.png": 1}, ["A_PNG", "a_png_2"]),
        ({"e\u0301.png": 1, "\u00e9.jpg": 1}, ["e\u0301_png", "\u00e9_jpg"]),
        ({"x.npz": 2, "X_0.png": 1, "x_npz_1.png": 1}, ["X_0", "x_npz_2_0", "x_npz_2_1", "x_npz_1"]),
        ({"n" * 250 + ".png": 1, "n" * 249 + "m.png": 1}, None),
    ],
)
def test_no_two_images_have_one_name(tmp_path, files, expected):
    for name, count in files.items():
        if name.endswith("npz"):
            np.savez(tmp_path / name, images=digits(count))
        else:
            Image.fromarray(digits(1)[0]).save(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == len(files)
    names, values = datasets.read_images(tmp_path, GREY)
    assert len(names) == len(values) == sum(files.values())
    assert len({name.casefold() for name in names}) == len(names)
    assert all(len(f"{name}_denoised.png".encode()) < 255 for name in names)
    if expected is not None:
        assert sorted(names) == sorted(expected)


def test_files_are_read_a_batch_at_a_time(tmp_path):
    np.save(tmp_path / "a.npy", digits(7))
    np.savez(tmp_path / "b.npz", images=digits(2))
    for number in range(4):
        Image.fromarray(digits(20)[10 + number]).save(tmp_path / f"c{number}.png")
    inputs = ImageInputs(tmp_path, GREY)
    batches = list(inputs.batches(5))
    assert [len(batch) for batch in batches] == [5, 5, 3]
    pixels = np.concatenate([digits(7), digits(2), digits(20)[10:14]])
    np.testing.assert_array_equal(datasets.to_pixels(torch.cat(batches), GREY), pixels)
    np.testing.assert_array_equal(torch.cat(batches), datasets.read_images(tmp_path, GREY)[1])
    (tmp_path / "c1.png").unlink()
    with pytest.raises(UserError, match=r"c1\.png: cannot be read"):
        list(inputs.batches(5))


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    """1,000 coloured files of 32×32 are 12 MiB as values; a batch of 50 is 0.6."""
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8))
    image.save(tmp_path / "0.png")
    for number in range(1, 1000):
        (tmp_path / f"{number}.png").symlink_to(tmp_path / "0.png")
    tracemalloc.start()
    inputs = ImageInputs(tmp_path, (3, 32, 32))
    count = sum(len(batch) for batch in inputs.batches(50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1000
    assert peak < 4 * 2**20


def test_resizing_makes_pictures_fit_and_leaves_arrays(tmp_path):
    Image.fromarray(np.full((20, 40), 77, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"shape \(20, 40\); images of 8×8 .* are expected; --resize makes them so"):
        ImageInputs(tmp_path, GREY)
    (values,) = ImageInputs(tmp_path, GREY, resize=True).batches(10)
    np.testing.assert_array_equal(datasets.to_pixels(values, GREY), np.full((1, 8, 8), 77))
    np.save(tmp_path / "b.npy", np.zeros((9, 9)))
    with pytest.raises(
        UserError, match=r"b\.npy: an array of shape \(9, 9\); images of 8×8 with 1 channel.* expected$"
    ):
        ImageInputs(tmp_path, GREY, resize=True)


def make_input(kind: str, folder) -> str:
    if kind == "missing":
        return "nowhere"
    path = folder / {"text": "note.png", "archive": "a.npz", "broken": "b.npz", "code": "c.npy"}.get(kind, "image.png")
    if kind == "size":
        Image.fromarray(np.zeros((9, 8), np.uint8)).save(path)
    elif kind == "deep":
        path = path.with_suffix(".tif")
        Image.fromarray(np.zeros((8, 8), np.float32)).save(path)
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "archive":
        np.savez(path, pictures=np.zeros((1, 8, 8), np.uint8))
    elif kind == "broken":
        path.write_bytes(b"PK\x03\x04 broken")
    elif kind == "code":
        np.save(path, np.array([print], dtype=object), allow_pickle=True)
    elif kind == "folder":
        path = folder / "empty"
        path.mkdir()
        (path / ".DS_Store").touch()
    elif kind == "link":
        path.symlink_to(folder / "nowhere.png")
    return path.name


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "nowhere: no such file or folder"),
        (
            "size",
            "image.png: an array of shape (9, 8); images of 8×8 with 1 channel(s) are expected; --resize makes them so",
        ),
        ("deep", "image.tif: cannot be read as an image (mode F has no known range; save it with 8 or 16 bits, or as "
         ".npy of floats); mend or remove it"),
        ("text", "note.png: cannot be read as an image (no known format); mend or remove it"),
        ("archive", "a.npz: the archive has no array 'images'"),
        ("broken", "b.npz: cannot be read as an array (not an archive, or the end of one is missing); mend or "
         "remove it"),
        ("code", "c.npy: cannot be read as an array (Array can't be memory-mapped: Python objects in dtype.); mend or "
         "remove it"),
        ("folder", "empty: the folder has no files"),
        ("link", "image.png: no such file or folder"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        datasets.read_images(make_input(kind, tmp_path), GREY)
    assert str(raised.value) == message


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=f"^{tmp_path}: Permission denied$"):
        datasets.read_images(tmp_path, GREY)


def test_values_of_another_range_are_warned_about_by_their_file(tmp_path):
    np.save(tmp_path / "a.npy", digits(3).astype(float))
    with pytest.warns(UserWarning, match=r"a\.npy: values from 0 to 255 with mean .*floats are taken as they are"):
        datasets.read_images(tmp_path / "a.npy", GREY)


def test_images_of_each_size_by_themselves(tmp_path):
    """Turned pictures count as they are seen, arrays in either layout; no two names are alike."""
    small, wide = digits(1)[0], np.zeros((6, 9), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(small).save(tmp_path / "a.png")
    Image.fromarray(wide).save(tmp_path / "a.bmp")
    Image.fromarray(wide.T.copy()).save(tmp_path / "b.jpg", exif=exif)
    np.save(tmp_path / "c.npy", np.zeros((2, 6, 9, 1)))
    np.save(tmp_path / "d.npy", np.zeros((1, 6, 9)))
    np.save(tmp_path / "e.npy", np.zeros((6, 9)))
    first, second = inputs_by_size(tmp_path, 1)
    assert (first.shape, first.names) == ((1, 6, 9), ["a_bmp", "b", "c_0", "c_1", "d", "e"])
    assert (second.shape, second.names) == ((1, 8, 8), ["a_png"])
    np.testing.assert_array_equal(datasets.to_pixels(next(second.batches(9)), GREY)[0], small)
    np.save(tmp_path / "f.npy", np.zeros((2, 2, 2, 2)))
    with pytest.raises(UserError, match=r"f.npy: an array of shape \(2, 2, 2, 2\); pictures with 1 channel"):
        inputs_by_size(tmp_path, 1)
