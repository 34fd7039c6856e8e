import os
import signal
import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import datasets
from configs import Config, UserError


def config(dataset: str, folder="data", size: int | list[int] = 8, channels: int = 1, **data) -> Config:
    section = {"dataset": dataset, "image_size": size, "channels": channels, "workers": 1} | data
    return Config(data_dir=str(folder), data=section)


def read_all(data: datasets.ImageData) -> torch.Tensor:
    return torch.cat(list(datasets.batches(data, list(torch.arange(len(data)).split(5)))))


def write_idx(path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_digits_are_split_without_overlap_and_lie_in_the_unit_range():
    train, test = (datasets.load(config("Digits"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    values = read_all(train)
    assert values.shape == (1438, 64)
    assert (values.min(), values.max()) == (0, 1)
    from sklearn.datasets import load_digits

    everything = torch.cat([values, read_all(test)]).sum(1).sort().values
    raw = torch.tensor(np.round(load_digits().images * 255 / 16) / 255).flatten(1).sum(1).sort().values
    torch.testing.assert_close(everything, raw.float(), atol=1e-4, rtol=0)


def test_mnist_is_read_from_the_original_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(256, size=(7, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.zeros(7, np.uint8))
    data = datasets.load(config("MNIST", tmp_path, size=28), "train")
    assert torch.equal(read_all(data), torch.tensor(images).flatten(1) * (1 / 255))


def test_npz_parts_and_single_file(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "own_train.npz", images=images)
    np.savez(tmp_path / "own_test.npz", images=images[:4])
    assert len(datasets.load(config("npz", tmp_path / "own", channels=3), "test")) == 4
    data = datasets.load(config("npz", tmp_path / "own", channels=3), "train")
    expected = torch.tensor(images).permute(0, 3, 1, 2).flatten(1) / 127.5 - 1
    torch.testing.assert_close(read_all(data), expected, atol=1e-6, rtol=0)
    parts = [datasets.load(config("npz", tmp_path / "own_train.npz", channels=3), s) for s in ("train", "test")]
    assert [len(part) for part in parts] == [18, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pictures": np.zeros((2, 8, 8), np.uint8)}, "has no array 'images'"),
        ({"images": np.zeros((2, 8, 8), int)}, "images of type int64; uint8, or floats"),
        ({"images": np.full((2, 8, 8), np.inf)}, "not finite"),
        ({"images": np.zeros((0, 8, 8))}, "an array without images"),
        ({"images": np.zeros((2, 8), np.uint8)}, r"shape \(2, 8\); images of 8×8 .* expected; see data.image_size"),
        ({"images": np.zeros((2, 8, 9), np.uint8)}, r"shape \(2, 8, 9\); images of 8×8 with 1 channel"),
        ({"images": np.array([print])}, "cannot be read as .npz"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(UserError, match=message):
        datasets.load(config("npz", tmp_path / "a.npz"), "train")


def test_npz_that_is_not_there_or_broken(tmp_path):
    with pytest.raises(UserError, match="neither a file .* nor .*b_train.npz"):
        datasets.load(config("npz", tmp_path / "b"), "train")
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(UserError, match="cannot be read as .npz"):
        datasets.load(config("npz", tmp_path / "c.npz"), "train")


def write_images(folder, count: int, size=(30, 20)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (number, 0, 255)).save(folder / f"{number:03}.png")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_images(tmp_path, workers):
    write_images(tmp_path / "a" / "train", 6)
    write_images(tmp_path / "a" / "test", 2)
    settings = config("ImageFolder", tmp_path / "a", channels=3, workers=workers)
    data = datasets.load(settings, "train")
    rows = datasets.batches(data, torch.tensor([[4, 0], [5, 2]]))
    red = torch.cat(list(rows)).unflatten(1, (3, 8, 8))[:, 0, 4, 4]
    torch.testing.assert_close(red, torch.tensor([4.0, 0, 5, 2]) / 127.5 - 1, atol=1e-6, rtol=0)
    assert len(datasets.load(settings, "test")) == 2


def test_celeba_crops_the_centre(tmp_path):
    write_images(tmp_path / "img_align_celeba", 2, size=(178, 218))
    framed = np.zeros((218, 178, 3), np.uint8)
    framed[39:179, 19:159] = 255  # exactly the central 140 pixels are white
    Image.fromarray(framed).save(tmp_path / "img_align_celeba" / "000.png")
    data = datasets.load(config("celeba", tmp_path, channels=3), "train")
    file = tmp_path / "img_align_celeba" / "000.png"
    assert datasets.ImageFiles([file], 3, data.images.transform, tmp_path)[0].min() == 255


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(tmp_path, workers):
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / "test", 1)
    (tmp_path / "train" / "001.png").write_bytes(b"not an image")
    data = datasets.load(config("ImageFolder", tmp_path, channels=3, workers=workers), "train")
    with pytest.raises(UserError, match=r"001\.png: cannot be read as an image") as raised:
        read_all(data)
    assert "\n" not in str(raised.value)


def deadly(image):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_named_with_its_file(tmp_path):
    write_images(tmp_path, 6)
    files = [tmp_path / f"{number:03}.png" for number in range(6)]
    images = datasets.ImageFiles(files, 3, deadly, tmp_path)
    data = datasets.ImageData(images, (3, 20, 30), torch.device("cpu"), workers=1)
    with pytest.raises(
        UserError, match=r"/00[34]\.png: the process that read it ended \(.*\); mend or remove"
    ) as raised:
        list(datasets.batches(data, torch.tensor([[3, 4]])))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [8, [6, 10], [9, 7], [30, 20]])
@pytest.mark.parametrize("dataset", ["ImageFolder", "celeba"])
def test_folders_give_any_size(tmp_path, size, dataset):
    write_images(tmp_path, 12, size=(150, 141))
    data = datasets.load(config(dataset, tmp_path, size=size, channels=3, workers=0), "train")
    height, width = (size, size) if size == 8 else size
    assert data.shape == (3, height, width)
    assert data.images[0].shape == (3, height, width)
    assert read_all(data).shape == (len(data), 3 * height * width)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_npz_of_floats_and_with_channels_first(tmp_path, dtype, first):
    pixels = np.random.default_rng(0).integers(256, size=(20, 6, 9, 3), dtype=np.uint8)
    images = pixels if dtype == np.uint8 else (pixels / 127.5 - 1).astype(dtype)
    np.savez(tmp_path / "a.npz", images=np.moveaxis(images, -1, 1) if first else images)
    data = datasets.load(config("npz", tmp_path / "a.npz", size=[6, 9], channels=3), "train")
    values = read_all(data)
    assert values.dtype == torch.float32
    expected = torch.tensor(pixels).permute(0, 3, 1, 2).flatten(1) / 127.5 - 1
    order = [int((expected - row).abs().sum(1).argmin()) for row in values]
    assert len(set(order)) == 18
    torch.testing.assert_close(values, expected[order], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("scale", "low"), [(255.0, 0), (2.0, -1.0)])
def test_npz_of_another_range_is_warned_about(tmp_path, scale, low):
    np.savez(tmp_path / "a.npz", images=scale * np.random.default_rng(0).random((20, 8, 8)) + low)
    with pytest.warns(UserWarning, match=r"a\.npz: values from .* taken as they are, for images in \[0, 1\]"):
        datasets.load(config("npz", tmp_path / "a.npz"), "train")


def test_the_project_folder_is_the_second_place_to_look(tmp_path, monkeypatch, caplog):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("datasets.images.PROJECT", tmp_path / "there")
    settings = config("ImageFolder", "own", channels=3)
    assert not datasets.at_hand(settings)
    with pytest.raises(UserError, match="no images under own;"):
        datasets.load(settings, "train")
    write_images(tmp_path / "there/own", 4)
    assert datasets.at_hand(settings)
    with caplog.at_level("INFO"):
        assert str(datasets.load(settings, "train").images.files[0]).startswith(f"{tmp_path}/there/own")
    assert "own is not here; taken from" in caplog.text
    write_images(tmp_path / "here/own", 4)
    assert str(datasets.load(settings, "train").images.files[0]).startswith("own/")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no images under .*unpack img_align_celeba.zip"):
        datasets.load(config("celeba", tmp_path), "train")
    with pytest.raises(UserError, match="no images under"):
        datasets.load(config("ImageFolder", tmp_path), "train")


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("Error downloading x"), OSError("disk")])
@pytest.mark.parametrize(
    ("name", "advice"),
    [("CIFAR10", "cifar-10-batches-py"), ("FashionMNIST", "t10k-images-idx3-ubyte.* into .*FashionMNIST/raw")],
)
def test_a_failed_download_says_what_to_put_where(tmp_path, monkeypatch, name, advice, error):
    def fail(self):
        raise error

    monkeypatch.setattr(getattr(torchvision.datasets, name), "download", fail)
    with pytest.raises(UserError, match=f"{name}: could not be downloaded .*put .*{advice}"):
        datasets.load(config(name, tmp_path, size=32), "train")


def test_an_epoch_visits_each_image_once_in_an_order_of_its_own():
    orders = [datasets.epoch_order(103, 10, seed=1, epoch=epoch) for epoch in (0, 1, 0)]
    assert orders[0].shape == (10, 10)
    assert len(orders[0].unique()) == 100
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


@pytest.mark.parametrize(
    ("dataset", "place"),
    [("MNIST", "MNIST/raw"), ("CIFAR10", "cifar-10-batches-py"), ("ImageFolder", ""), ("npz", "own_test.npz")],
)
def test_what_is_at_hand_needs_no_download(tmp_path, dataset, place):
    folder = tmp_path / ("own" if dataset == "npz" else "data")
    config = Config(data={"dataset": dataset}, data_dir=str(folder))
    assert not datasets.at_hand(config)
    if dataset == "npz":
        (tmp_path / place).touch()
    else:
        (folder / place).mkdir(parents=True)
    assert datasets.at_hand(config)
    assert datasets.at_hand(Config())


def test_data_values_are_black_and_white(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "pixels.npz", images=pixels)
    np.savez(tmp_path / "floats.npz", images=pixels / 255)
    parts = []
    for name in ("pixels", "floats"):
        settings = config("npz", tmp_path / f"{name}.npz", channels=3, values=[0, 1])
        data = datasets.load(settings, "train")
        assert data.limits == (0.0, 1.0)
        parts.append(read_all(data))
    assert 0 <= parts[0].min() < 0.01
    assert 0.99 < parts[0].max() <= 1
    torch.testing.assert_close(parts[0], parts[1])
