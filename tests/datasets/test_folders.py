"""Folders of images: what is in them, which parts they have, and that no file ever changes sides."""

import logging
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

import datasets
from configs import Config, UserError
from datasets.folders import image_files, split_by_name
from datasets.images import fingerprint


def put(*paths) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)


def config(folder, dataset: str = "ImageFolder") -> Config:
    return Config(data_dir=str(folder), data={"dataset": dataset, "workers": 0})


def names(config: Config, split: str) -> set[str]:
    data = datasets.load(config, split)
    return {os.path.relpath(file, config.data_dir) for file in data.images.files}


def test_what_systems_leave_behind_is_passed_over(tmp_path, caplog):
    put(tmp_path / "cat/1.png", tmp_path / "2.JPG", tmp_path / "._2.jpg", tmp_path / ".ipynb_checkpoints/2.jpg")
    put(tmp_path / "__MACOSX/3.png", tmp_path / "@eaDir/4.png")
    for name in (".DS_Store", "Thumbs.db", "cat/desktop.ini", "note.txt", "list.csv"):
        (tmp_path / name).write_text("x")
    with caplog.at_level(logging.INFO):
        assert image_files(tmp_path, "") == [tmp_path / "2.JPG", tmp_path / "cat/1.png"]
    assert "2 files that are no images by their endings left out (.csv, .txt)" in caplog.text


def test_links_are_followed_once_and_loops_are_not(tmp_path):
    put(tmp_path / "elsewhere/cats/1.png", tmp_path / "data/dogs/2.png")
    data = tmp_path / "data"
    (data / "cats").symlink_to(tmp_path / "elsewhere/cats")
    (data / "again").symlink_to(data / "dogs")  # the same folder by a name that comes first
    (data / "dogs/up").symlink_to(data)
    (data / "self").symlink_to(data / "self")
    (data / "3.png").symlink_to(tmp_path / "elsewhere/cats/1.png")
    found = [path.relative_to(data).as_posix() for path in image_files(data, "")]
    assert found == ["3.png", "cats/1.png", "dogs/2.png"]
    (data / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"data_dir: .*lost\.png is a link that leads nowhere"):
        image_files(data, "")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    put(tmp_path / "a/1.png")
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"data_dir: .*/a: Permission denied$"):
        datasets.load(config(tmp_path), "train")


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("held_out", ["test", "Testing", "val", "VALID", "Validation", "dev"])
def test_parts_are_recognised_in_any_case(tmp_path, train, held_out):
    put(tmp_path / train / "a/1.png", tmp_path / train / "2.png", tmp_path / held_out / "a/1.png")
    assert names(config(tmp_path), "train") == {f"{train}/a/1.png", f"{train}/2.png"}
    assert names(config(tmp_path), "test") == {f"{held_out}/a/1.png"}


def test_test_stands_above_val_which_is_never_trained_on(tmp_path):
    put(tmp_path / "train/1.png", tmp_path / "val/2.png", tmp_path / "test/3.png")
    assert (names(config(tmp_path), "train"), names(config(tmp_path), "test")) == ({"train/1.png"}, {"test/3.png"})


def test_two_parts_of_one_meaning_are_named(tmp_path):
    put(tmp_path / "train/1.png", tmp_path / "val/2.png", tmp_path / "valid/3.png")
    with pytest.raises(UserError, match="has val and valid; which one is meant"):
        datasets.load(config(tmp_path), "train")


def test_a_class_of_trains_is_no_part(tmp_path):
    put(*(tmp_path / f"{kind}/{number}.png" for kind in ("bus", "train") for number in range(20)))
    both = names(config(tmp_path), "train") | names(config(tmp_path), "test")
    assert len(both) == 40


@pytest.mark.parametrize(("dataset", "train", "test"), [("ImageFolder", 0.9, 0.1), ("celeba", 0.7, 0.1)])
def test_no_file_changes_sides_when_others_come_or_go(tmp_path, dataset, train, test):
    files = [f"{number:04}.png" for number in range(400)]
    sides = {}
    for share in (1.0, 0.9, 0.5):
        kept = [name for name in files if np.random.default_rng(int(name[:4])).random() < share]
        for split in ("train", "test"):
            for index in split_by_name(kept, split, train, test):
                assert sides.setdefault(kept[index], split) == split
    counts = [sum(side == split for side in sides.values()) for split in ("train", "test")]
    for count, share in zip(counts, (train, test), strict=True):
        assert abs(count - 400 * share) < 5 * (400 * share * (1 - share)) ** 0.5
    put(*(tmp_path / name for name in files[:60]))
    before = {split: names(config(tmp_path, dataset), split) for split in ("train", "test")}
    assert not before["train"] & before["test"]
    gone = sorted(before["train"])[:5]
    for name in gone:
        (tmp_path / name).unlink()
    put(tmp_path / "new/1.png", tmp_path / "new/2.png")
    for split in ("train", "test"):
        left = names(config(tmp_path, dataset), split)
        assert {name for name in left if not name.startswith("new")} == before[split] - set(gone)


def test_splits_are_the_same_on_every_machine():
    """Published digests: a file keeps its side for ever, however its name is written."""
    listed = ["a/é.png", "b/1.png", "b/2.png", "c.png", "d.png", "e.png"] + [f"{number}.png" for number in range(40)]
    decomposed = [unicodedata.normalize("NFD", name) for name in listed]
    test = split_by_name(listed, "test", 0.9, 0.1)
    assert test.tolist() == split_by_name(decomposed, "test", 0.9, 0.1).tolist()
    import hashlib

    places = [int(hashlib.sha256(f"2019/{name}".encode()).hexdigest()[:16], 16) / 2**64 for name in listed]
    assert test.tolist() == [index for index, place in enumerate(places) if place >= 0.9]


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_both_splits_of_a_small_folder_have_a_file(count):
    for start in range(30):
        listed = [f"{start}_{number}.png" for number in range(count)]
        parts = [split_by_name(listed, split, 0.9, 0.1).tolist() for split in ("train", "test")]
        assert all(parts)
        assert sorted(parts[0] + parts[1]) == list(range(count))


def test_a_fingerprint_changes_with_the_data_only(tmp_path):
    put(*(tmp_path / f"a/{number}.png" for number in range(12)))
    digests = [fingerprint(datasets.load(config(tmp_path / "a"), "train")) for _ in range(2)]
    assert digests[0] == digests[1]
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(datasets.load(config(tmp_path / "b"), "train")) == digests[0]  # wherever it lies
    train = sorted(names(config(tmp_path / "b"), "train"))
    (tmp_path / "b" / train[0]).write_bytes((tmp_path / "b" / train[0]).read_bytes() + b"0")
    other = fingerprint(datasets.load(config(tmp_path / "b"), "train"))
    assert other != digests[0]
    (tmp_path / "b" / train[0]).unlink()
    fewer = fingerprint(datasets.load(config(tmp_path / "b"), "train"))
    assert fewer.startswith(f"{len(train) - 1} images, ")

    digits = datasets.load(Config(), "test")
    changed = datasets.ImageData(digits.images.clone(), digits.shape, digits.device)
    assert fingerprint(changed) == fingerprint(digits)
    changed.images[5, 0, 3, 3] ^= 1
    assert fingerprint(changed) != fingerprint(digits)
    values = datasets.ImageData(digits.images.float() / 255, digits.shape, digits.device)
    assert fingerprint(values).startswith("359 images, ")
    assert fingerprint(datasets.load(Config(data={"dataset": "Synthetic", "size": 7}), "test")) == "7 points"
