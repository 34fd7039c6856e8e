"""`--test --input`: what is written of users' own images, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import inference
import models
from configs import Config
from runners import explain


@pytest.fixture
def trained(request, small_run, tmp_path):
    """A copy of a small run's folder, and the command that tests it."""
    runner = getattr(request, "param", "LowRankHybridRunner")
    folder = tmp_path / "runs/logs" / small_run(runner).name
    shutil.copytree(small_run(runner), folder)
    return folder, ["--runner", runner, "--doc", "small", "--test", "--device", "cpu"]


def digits(count: int) -> np.ndarray:
    return datasets.load(Config(), "test").images[:count, 0].numpy()


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


@pytest.mark.parametrize("trained", ["LowRankHybridRunner", "UnetDSMRunner"], indirect=True)
def test_it_is_the_posterior_whatever_the_batches(trained, tmp_path, monkeypatch):
    """Five images in batches of two: each answer is that of the model at its image, and no batch is larger."""
    folder, call = trained
    np.save(tmp_path / "own.npy", digits(5))
    monkeypatch.setattr(explain, "BATCH", 2)
    sizes, load = [], models.load

    def watched(*arguments):
        model = load(*arguments)
        model.network.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(inputs[0])))
        return model

    monkeypatch.setattr(models, "load", watched)
    metrics = explain.explain(folder, tmp_path / "own.npy", tmp_path / "out", clean=True, seed=3)
    assert all(size <= 2 for size in sizes)

    scores = models.load(folder).at(0.5)
    clean = datasets.from_pixels(digits(5), (1, 8, 8))
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    arrays = np.load(tmp_path / "out/posterior.npz")
    with torch.no_grad():
        mean = inference.posterior_mean(scores.s1(noisy), noisy, 0.5)
    np.testing.assert_allclose(arrays["mean"].reshape(5, 64), mean, rtol=1e-4, atol=1e-5)
    assert metrics["mse"] == pytest.approx(float((mean - clean).square().mean()), rel=1e-4)
    with Image.open(tmp_path / "out/own_4_denoised.png") as image:
        assert np.abs(np.array(image).astype(int) - datasets.to_pixels(mean, (1, 8, 8))[4]).max() <= 1
    if call[1] == "LowRankHybridRunner":
        posterior = inference.posterior(scores, noisy)
        np.testing.assert_allclose(arrays["std"].reshape(5, 64), posterior.std(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(arrays["variances"], posterior.principal_components(3)[0], rtol=1e-3)
        assert metrics["predicted_mse"] == pytest.approx(float(posterior.variance().mean()), rel=1e-3)
        largest = max(np.array(Image.open(tmp_path / f"out/own_{number}_std.png")).max() for number in range(5))
        assert largest == 255


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
        ("size", "image.png: an array of shape (9, 8); images of 8×8 with 1 channel(s) are expected"),
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


def test_points_are_no_images(small_run, command):
    folder = small_run("SyntheticRunner")
    call = ["--runner", "SyntheticRunner", "--run", folder.parent.parent, "--doc", folder.name, "--device", "cpu"]
    done = command(*call, "--test", "--input", "x.png")
    assert (done.returncode, done.stderr) == (2, f"main.py: {folder}: a model of points, not of images\n")
