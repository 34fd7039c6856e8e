"""Crops of large pictures: in their places, and each file decoded once an epoch."""

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from configs import Config, UserError
from datasets import crops


@pytest.fixture
def folder(tmp_path):
    """Three pictures, whose pixels tell where they are: file, row and column."""
    for number, (height, width) in enumerate([(20, 30), (8, 9), (40, 11)]):
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([np.full((height, width), number), rows, columns], axis=2).astype(np.uint8)
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "test").mkdir(exist_ok=True)
        for part in ("train", "test"):
            Image.fromarray(pixels).save(tmp_path / part / f"{number}.png")
    return tmp_path


def config(folder, **data) -> Config:
    section = {"dataset": "ImageFolder", "image_size": [8, 6], "channels": 3, "crop": 5, "workers": 2, **data}
    return Config(data_dir=str(folder), data=section)


def images_of(data, epoch: int, seed: int = 7) -> torch.Tensor:
    return datasets.of_epoch(data, seed, epoch).images


def test_each_file_gives_so_many_crops_from_places_within_it(folder):
    data = datasets.load(config(folder), "train")
    images = images_of(data, 0)
    assert len(data) == len(images) == 15
    assert images.shape[1:] == (3, 8, 6)
    for number, crop in enumerate(images):
        file, top, left = crop[:, 0, 0].tolist()
        assert file == number // 5
        height, width = [(20, 30), (8, 9), (40, 11)][file]
        assert 0 <= top <= height - 8
        assert 0 <= left <= width - 6
        assert torch.equal(crop[1], torch.arange(top, top + 8, dtype=torch.uint8)[:, None].expand(8, 6))
        assert torch.equal(crop[2], torch.arange(left, left + 6, dtype=torch.uint8).expand(8, 6))


def test_an_epoch_has_its_own_places_and_always_the_same(folder):
    data = datasets.load(config(folder), "train")
    assert torch.equal(images_of(data, 3), images_of(data, 3))
    assert torch.equal(images_of(data, 3), images_of(datasets.load(config(folder, workers=0), "train"), 3))
    assert not torch.equal(images_of(data, 3), images_of(data, 4))
    assert not torch.equal(images_of(data, 3), images_of(data, 3, seed=8))


def test_every_place_has_its_turn(folder):
    data = datasets.load(config(folder, crop=40), "train")
    corners = images_of(data, 0)[:40, 1:, 0, 0]
    assert corners[:, 0].min() <= 1
    assert corners[:, 0].max() >= 11
    assert corners[:, 1].min() <= 2
    assert corners[:, 1].max() >= 22


def test_each_file_is_decoded_once_an_epoch(folder, monkeypatch):
    opened = []
    actual = crops.open_picture
    monkeypatch.setattr(crops, "open_picture", lambda path, channels: opened.append(path) or actual(path, channels))
    data = datasets.load(config(folder), "train")
    assert not opened
    epoch = datasets.of_epoch(data, 0, 0)
    list(datasets.batches(epoch, datasets.epoch_order(len(epoch), 4, 0, 0)))
    assert len(opened) == 3


def test_the_test_set_is_the_middle_of_each(folder):
    data = datasets.load(config(folder), "test")
    assert data.images[:, 1:, 0, 0].tolist() == [[6, 12], [0, 1], [16, 2]]


def test_small_files_and_other_data_sets_are_refused_in_a_line(folder):
    with pytest.raises(UserError, match=r"1\.png: 8×9 pixels, smaller than a crop of 8×10; remove it"):
        datasets.load(config(folder, image_size=[8, 10]), "test")
    with pytest.raises(ValueError, match="only ImageFolder has crops"):
        Config(data={"dataset": "Digits", "crop": 4})


def test_the_split_is_known_again_by_its_files(folder):
    known = datasets.fingerprint(datasets.load(config(folder), "train"))
    assert known == datasets.fingerprint(datasets.load(config(folder), "train"))
    (folder / "train/2.png").unlink()
    assert known != datasets.fingerprint(datasets.load(config(folder), "train"))
