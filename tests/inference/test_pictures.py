"""Users' own images: what can be read, what is refused, and in which scale it comes back."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import inference
import main
import models
from configs import Config, UserError

GREY = Config(noise=0.5)
COLOURED = Config(data={"dataset": "npz", "channels": 3, "image_size": 4})
TRAIN = ["--config", "digits_low_rank.yml", "--doc", "tiny", "--ni", "--device", "cpu", "--rank", "4", "--set",
         "model.ngf=16", "--set", "max_steps=120", "--set", "lr=0.005", "--set", "model.ema=false"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run of each runner, trained for a second when it is first asked for."""
    place = tmp_path_factory.mktemp("runs")

    @functools.cache
    def folder_of(runner: str) -> Path:
        objective = ["--set", "loss=dsm"] if runner == "UnetDSMRunner" else []
        assert main.main(["--runner", runner, "--run", str(place / runner), *TRAIN, *objective]) == 0
        return next((place / runner / "logs").iterdir())

    return folder_of


@pytest.fixture
def trained(request, runs, tmp_path):
    """A copy of the run's folder, and the command that tests it."""
    runner = getattr(request, "param", "LowRankHybridRunner")
    folder = tmp_path / "runs/logs" / runs(runner).name
    shutil.copytree(runs(runner), folder)
    return folder, ["--runner", runner, "--doc", "tiny", "--test", "--device", "cpu"]


def digits(count: int) -> np.ndarray:
    return datasets.load(GREY, "test").images[:count, 0].numpy()


def test_pixels_there_and_back():
    grey, coloured = digits(3), np.random.default_rng(0).integers(256, size=(5, 4, 4, 3), dtype=np.uint8)
    for images, config in ((grey, GREY), (coloured, COLOURED)):
        values = inference.from_pixels(images, config)
        assert values.shape == (len(images), images[0].size)
        assert (values.min(), values.max()) >= datasets.value_range(config.data.channels)
        np.testing.assert_array_equal(inference.to_pixels(values, config), images)
    red = coloured[0, :, :, 0].flatten() / 127.5 - 1
    np.testing.assert_allclose(inference.from_pixels(coloured, COLOURED)[0, :16], red, atol=1e-6)
    np.testing.assert_array_equal(inference.from_pixels(grey[0], GREY), inference.from_pixels(grey[:1], GREY))
    noisy = np.full((8, 8), 1.7, dtype=np.float32)
    assert inference.from_pixels(noisy, GREY).max() == np.float32(1.7)  # floats are the model's values
    assert inference.from_pixels(torch.zeros(2, 8, 8, 1), GREY).shape == (2, 64)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((7, 8), np.uint8), r"shape \(7, 8\); images of 8×8 with 1 channel"),
        (np.zeros((2, 8, 8, 3), np.uint8), "images of 8×8 with 1 channel"),
        (np.zeros((8, 8), np.int64), "images of type int64"),
        (np.full((8, 8), np.nan), "not finite"),
        (np.uint8(3), "images of 8×8"),
        (np.zeros((0, 8, 8), np.uint8), "an array without images"),
    ],
)
def test_arrays_that_do_not_fit(array, message):
    with pytest.raises(ValueError, match=message):
        inference.from_pixels(array, GREY)


def test_denoise_answers_in_the_scale_it_was_asked_in(trained, tmp_path):
    folder, _ = trained
    source = models.load(folder)
    images = digits(5)
    noisy = images / np.float32(255) + 0.5 * np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    floats = inference.denoise(folder, noisy)
    assert (floats.dtype, floats.shape) == (np.float32, noisy.shape)
    s1, _, _ = source
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


@pytest.mark.parametrize(
    "trained", ["LowRankHybridRunner", "DoubleDiagonalHybridRunner", "UnetDSMRunner"], indirect=True
)
def test_a_folder_of_ones_own(trained, tmp_path, command):
    folder, call = trained
    (tmp_path / "own").mkdir()
    for number, image in enumerate(digits(3)):
        Image.fromarray(image).save(tmp_path / f"own/digit{number}.png")
    done = command(*call, "--input", "own", "--clean")
    assert done.returncode == 0, done.stderr
    target = folder / "images/input"
    second_order, low_rank = call[1] != "UnetDSMRunner", call[1] == "LowRankHybridRunner"
    expected = {f"digit{number}_denoised.png" for number in range(3)} | {"overview.png", "posterior.npz"}
    expected |= {f"digit{number}_std.png" for number in range(3)} if second_order else set()
    expected |= {"walks.png"} if low_rank else set()
    assert {path.name for path in target.iterdir()} == expected
    with Image.open(target / "digit0_denoised.png") as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    arrays = np.load(target / "posterior.npz")
    assert arrays["names"].tolist() == ["digit0", "digit1", "digit2"]
    assert arrays["mean"].shape == (3, 1, 8, 8)
    if second_order:
        assert (arrays["std"] > 0).all()
        assert "predicted_mse" in done.stdout
    if low_rank:
        assert arrays["directions"].shape == (3, 3, 1, 8, 8)
        np.testing.assert_allclose(np.linalg.norm(arrays["directions"].reshape(3, 3, 64), axis=2), 1, rtol=1e-4)
    error = float(done.stdout.partition("mse ")[2].split(";")[0].split(",")[0])
    assert 0 < error < 0.25  # better than the noise
    assert not (folder / "metrics.json").exists()


def test_arrays_as_input_and_noise_that_is_cut_off(trained, tmp_path, command):
    folder, call = trained
    np.save(tmp_path / "noisy.npy", digits(2) / 255 + 0.5 * np.random.default_rng(0).normal(size=(2, 8, 8)))
    done = command(*call, "--input", "noisy.npy")
    assert done.returncode == 0, done.stderr
    assert "ends of their range" not in done.stdout
    assert (folder / "images/input/noisy_1_denoised.png").exists()
    Image.fromarray(digits(1)[0]).save(tmp_path / "cut.png")
    assert "% of the values are at the ends of their range" in command(*call, "--input", "cut.png").stdout


def test_files_of_one_stem_and_the_seed_of_added_noise(trained, tmp_path, command):
    folder, call = trained
    (tmp_path / "own").mkdir()
    Image.fromarray(digits(1)[0]).save(tmp_path / "own/a.png")
    np.save(tmp_path / "own/a.npy", digits(2)[1])
    means = []
    for seed in ("1", "2"):
        done = command(*call, "--input", "own", "--clean", "--seed", seed)
        assert done.returncode == 0, done.stderr
        arrays = np.load(folder / "images/input/posterior.npz")
        assert arrays["names"].tolist() == ["a_npy", "a_png"]
        means.append(arrays["mean"])
    assert not np.array_equal(*means)


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
        ("size", "image.png: an array of shape (9, 8); images of 8×8 with 1 channel(s) are wanted"),
        ("deep", "image.png: more than 8 bits a pixel; save it with 8, or as a .npy array of floats"),
        ("text", "note.png: not an image, .npy or .npz file, or a broken one"),
        ("archive", "a.npz: the archive has no array 'images'"),
        ("folder", "empty: the folder has no files"),
    ],
)
def test_inputs_that_cannot_be_used(trained, tmp_path, command, kind, message):
    folder, call = trained
    done = command(*call, "--input", make_input(kind, tmp_path))
    assert (done.returncode, done.stderr) == (2, f"main.py: {message}\n")
    assert not (folder / "images/input").exists()


def test_flags_that_need_each_other(command):
    base = ["--runner", "UnetDSMRunner", "--config", "digits_dsm.yml"]
    assert "--input: only with --test" in command(*base, "--input", "x").stderr
    assert "--clean: only with --input" in command(*base, "--test", "--clean").stderr


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        inference.denoise(tmp_path, digits(1))
