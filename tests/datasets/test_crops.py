"""Crops of files whose pixels say where they lie: each file is decoded once an epoch, in whatever order."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import datasets
from configs import Config, UserError
from datasets import crops, image_files

CROPS = 8
CROP = (5, 7)
SIZES = [(9, 12), (5, 20), (30, 7), (16, 16)]  # height and width, in turn


def where(number: int, height: int, width: int) -> np.ndarray:
    """A picture whose red is its number, whose green is the row, and whose blue is the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, number), rows, columns], axis=-1).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 20), ("test", 4)):
        (tmp_path / split).mkdir()
        for number in range(count):
            Image.fromarray(where(number, *SIZES[number % 4])).save(tmp_path / split / f"{number:02}.png")
    return tmp_path


def data_of(folder, split: str = "train", **section) -> datasets.ImageData:
    section = {"dataset": "ImageFolder", "image_size": list(CROP), "crop": CROPS, "channels": 3, "workers": 0} | section
    return datasets.load(Config(data_dir=str(folder), data=section | {"values": [0, 255]}), split)


def rows_of(data, seed: int = 1, epoch: int = 0, seen: int = 0) -> torch.Tensor:
    return datasets.training_order(data, seed, epoch)[seen:].view(-1, 16)


def read(data, rows) -> np.ndarray:
    """The crops `(N, H, W, 3)` in their order."""
    return torch.cat(list(datasets.batches(data, rows))).unflatten(1, data.shape).movedim(1, -1).numpy().round()


def few_are_held(monkeypatch, files: int) -> None:
    monkeypatch.setattr(crops, "HELD_BYTES", files * CROPS * 3 * CROP[0] * CROP[1])


@pytest.mark.parametrize("held", [1, 3, 1000])
def test_an_epoch_has_so_many_crops_of_each_file_and_decodes_it_once(folder, monkeypatch, held):
    decoded = []
    opened = image_files.open_picture
    monkeypatch.setattr(
        image_files, "open_picture", lambda file, channels: decoded.append(file) or opened(file, channels)
    )
    few_are_held(monkeypatch, held)
    data = data_of(folder)
    assert len(data) == 20 * CROPS
    cut = read(data, rows_of(data))
    assert sorted(decoded) == sorted(data.images.files)
    assert np.bincount(cut[:, 0, 0, 0].astype(int)).tolist() == [CROPS] * 20
    for crop in cut:
        number, top, left = crop[0, 0].astype(int)
        height, width = SIZES[number % 4]
        assert top + CROP[0] <= height
        assert left + CROP[1] <= width
        np.testing.assert_array_equal(crop, where(number, height, width)[top : top + CROP[0], left : left + CROP[1]])


def test_only_so_many_files_are_held_at_once_and_their_crops_are_spread(folder, monkeypatch):
    data = data_of(folder)
    for held in (2, 5):
        few_are_held(monkeypatch, held)
        for epoch in range(20):
            files = (datasets.training_order(data, 0, epoch) // CROPS % 20).tolist()
            spans = [(files.index(file), len(files) - files[::-1].index(file)) for file in range(20)]
            assert max(sum(first <= time < last for first, last in spans) for time in range(len(files))) <= 2 * held
            assert max(last - first for first, last in spans) > CROPS  # none but by chance comes in one piece
            assert len(set(files[: 4 * CROPS])) > 1


def test_where_all_are_held_every_order_is_as_likely(folder):
    """Each file is as often among the first ten crops: its count is hypergeometric in each epoch."""
    data = data_of(folder)
    epochs = 500
    first = [datasets.training_order(data, 3, epoch)[:10] // CROPS % 20 for epoch in range(epochs)]
    counts = torch.cat(first).bincount(minlength=20).double()
    share, n = 1 / 20, 20 * CROPS
    deviation = (epochs * 10 * share * (1 - share) * (n - 10) / (n - 1)) ** 0.5
    assert ((counts - epochs * 10 * share).abs() < 5 * deviation).all()


def test_crops_begin_at_every_place_as_often(folder):
    data = data_of(folder, crop=400)
    tops = read(data, datasets.training_order(data, 1, 0)[None])
    tops = tops[tops[:, 0, 0, 0] % 4 == 0][:, 0, 0, 1:]  # of the five files of 9×12 pixels: 5 rows, 6 columns
    for axis, places in ((0, 5), (1, 6)):
        counts = np.bincount(tops[:, axis].astype(int))
        assert len(counts) == places
        expected = len(tops) / places
        assert (abs(counts - expected) < 5 * (expected * (1 - 1 / places)) ** 0.5).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_an_epoch_is_the_same_wherever_it_begins(folder, monkeypatch, workers):
    few_are_held(monkeypatch, 4)
    data = data_of(folder, workers=workers)
    whole = read(data_of(folder), rows_of(data))
    for seen in (0, 16, 96):
        np.testing.assert_array_equal(read(data, rows_of(data, seen=seen)), whole[seen:])
    shares = [read(data, rows_of(data)[:, half]) for half in (slice(8), slice(8, 16))]  # of two processes
    both = np.concatenate([share.reshape(-1, 8, *CROP, 3) for share in shares], axis=1).reshape(whole.shape)
    np.testing.assert_array_equal(both, whole)


def test_another_epoch_and_another_seed_have_other_crops_in_another_order(folder):
    data = data_of(folder)
    orders = [datasets.training_order(data, *pair) for pair in ((1, 0), (1, 1), (2, 0), (2**62, 10**5))]
    assert len(torch.cat(orders).unique()) == 4 * len(data)
    assert all((order >= 0).all() for order in orders)
    assert len({tuple((order % len(data)).tolist()) for order in orders}) == 4
    places = [read(data, order.view(-1, 16))[:, 0, 0] for order in orders]
    assert len({tuple(sorted(map(tuple, one))) for one in places}) == 4


def test_the_middle_of_each_file_is_tested_on(folder):
    data = data_of(folder, "test")
    middles = read(data, [torch.arange(4)])
    for number, crop in enumerate(middles):
        height, width = SIZES[number]
        assert abs(2 * crop[0, 0, 1] + CROP[0] - height) <= 1
        assert abs(2 * crop[0, 0, 2] + CROP[1] - width) <= 1
        assert (crop[..., 0] == number).all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_smaller_than_the_crop_are_named(folder, split):
    with pytest.raises(UserError, match=r"data\.crop: .*/01\.png \(5×20\)") as raised:
        data_of(folder, split, image_size=[6, 7])
    assert "\n" not in str(raised.value)
    assert "more" not in str(raised.value)
    with pytest.raises(UserError, match=r"00\.png \(9×12\).* and \d+ more: smaller than a crop of 17×17; remove them"):
        data_of(folder, "train", image_size=17)


def test_a_turned_picture_is_measured_upright(folder):
    exif = Image.Exif()
    exif[274] = 6
    for number in range(20):
        picture = where(number, 7, 5) if number % 2 else where(number, 5, 7)
        Image.fromarray(picture).save(folder / f"train/{number:02}.png", exif=exif if number % 2 else None)
    data = data_of(folder)
    assert read(data, rows_of(data)).shape == (20 * CROPS, *CROP, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named_when_its_turn_comes(folder, workers):
    (folder / "train/03.png").write_bytes(b"no image")
    data = data_of(folder, workers=workers)
    with pytest.raises(UserError, match=r"03\.png: cannot be read as an image"):
        read(data, rows_of(data))


def test_grey_crops(folder):
    data = data_of(folder, channels=1)
    assert next(datasets.batches(data, rows_of(data))).shape == (16, CROP[0] * CROP[1])


def test_only_image_folder_has_crops():
    with pytest.raises(ValidationError, match="data.dataset is Digits; only ImageFolder has crops"):
        Config(data={"dataset": "Digits", "crop": 4})


def test_the_split_is_known_again_by_its_files_and_the_number_of_crops(folder):
    known = datasets.fingerprint(data_of(folder))
    assert known == datasets.fingerprint(data_of(folder))
    assert known != datasets.fingerprint(data_of(folder, crop=9))
    (folder / "train/02.png").unlink()
    assert known != datasets.fingerprint(data_of(folder))
