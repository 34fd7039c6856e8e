"""`--test --input`: what is written of users' own images, and what is refused."""

import contextlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import inference
import models
from configs import Config, UserError
from runners import explain
from tests.conftest import ROOT


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("note.png", "note.png: cannot be read as an image (no known format); mend or remove it"),
        (
            "wide.png",
            "wide.png: an array of shape (8, 12); images of 8×8 with 1 channel(s) are expected; --resize makes them so",
        ),
    ],
)
def test_inputs_that_cannot_be_used(trained, tmp_path, command, name, message):
    folder, call = trained
    (tmp_path / "note.png").write_text("not an image")
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(tmp_path / "wide.png")
    done = command(*call, "--input", name)
    assert (done.returncode, done.stderr) == (2, f"main.py: {message}\n")
    assert not (folder / "images/input").exists()


def test_any_run_folder_or_checkpoint_answers_and_stays_as_it_is(small_run, tmp_path, command):
    """`--model`, without `--runner` and `--doc`."""
    folder = small_run("LowRankHybridRunner")
    Image.fromarray(digits(1)[0]).save(tmp_path / "digit.png")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in (folder, folder / "ckpt/checkpoint.pth"):
        call = ["--test", "--model", path, "--input", "digit.png", "--clean", "--device", "cpu"]
        done = command(*call, "--output", path.name)
        assert done.returncode == 0, done.stderr
        assert {"digit_denoised.png", "digit_std.png", "posterior.npz"} <= {
            p.name for p in (tmp_path / path.name).iterdir()
        }
    assert command(*call).returncode == 0
    assert (tmp_path / "runs/input/digit_denoised.png").exists()
    for output, message in ((folder / "answers", "lies in --model"), (tmp_path, "holds the images of --input")):
        done = command("--test", "--model", folder, "--input", tmp_path, "--clean", "--output", output)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_mistake_in_the_last_file_is_known_before_anything_is_written(trained, tmp_path):
    folder, _ = trained
    (tmp_path / "own").mkdir()
    Image.fromarray(digits(1)[0]).save(tmp_path / "own/a.png")
    (tmp_path / "own/b.png").write_text("not an image")
    with pytest.raises(UserError, match=r"b\.png: cannot be read"):
        explain.explain(folder, tmp_path / "own", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_seven_images_are_seven_answers(trained, tmp_path):
    """Names that would collide, and litter of the system's between them."""
    folder, _ = trained
    own = tmp_path / "own"
    own.mkdir()
    for name in ("d1.png", "d1.bmp", "a_0.png", "D1.tif", "é.png"):
        Image.fromarray(digits(1)[0]).save(own / name)
    np.savez(own / "a.npz", images=digits(2))
    (own / ".DS_Store").write_text("x")
    metrics = explain.explain(folder, own, tmp_path / "out", clean=True)
    assert metrics["images"] == 7
    for suffix in ("denoised", "std"):
        assert len({path.name.casefold() for path in (tmp_path / "out").glob(f"*_{suffix}.png")}) == 7
    assert len(set(np.load(tmp_path / "out/posterior.npz")["names"].tolist())) == 7


def test_where_it_cannot_write_is_named(trained, tmp_path, monkeypatch):
    folder, _ = trained
    np.save(tmp_path / "own.npy", digits(2))
    (tmp_path / "file").touch()
    message = r"cannot be written \(.*\); --output DIR says where else$"
    with pytest.raises(UserError, match=message):
        explain.explain(folder, tmp_path / "own.npy", tmp_path / "file")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=message):
        explain.explain(folder, tmp_path / "own.npy", tmp_path / "out", clean=True)


def test_other_sizes_are_resized_where_that_is_asked_for(trained, tmp_path):
    folder, _ = trained
    small = Image.fromarray(digits(1)[0])
    small.resize((16, 16), Image.Resampling.NEAREST).save(tmp_path / "own.png")
    explain.explain(folder, tmp_path / "own.png", tmp_path / "out", resize=True)
    arrays = np.load(tmp_path / "out/posterior.npz")
    assert arrays["mean"].shape == (1, 1, 8, 8)
    assert not list((tmp_path / "out").glob("tmp*"))


@pytest.mark.parametrize(("scale", "clean"), [(255, True), (255, False)])
def test_values_of_another_range_are_warned_about(trained, tmp_path, caplog, scale, clean):
    folder, _ = trained
    np.save(tmp_path / "own.npy", scale / 255 * digits(3).astype(float))
    explain.explain(folder, tmp_path / "own.npy", tmp_path / "out", clean=clean)
    assert "values from 0 to 255 with mean" in caplog.text
    assert "floats are taken as they are, for images in [0, 1]" in caplog.text


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(trained, tmp_path):
    """3,000 images against 300, each in a process of its own: the peaks differ by less than a batch needs."""
    folder, _ = trained
    peaks = []
    for count in (300, 3000):
        (tmp_path / str(count)).mkdir()
        for number in range(count):
            (tmp_path / f"{count}/{number}.png").symlink_to(tmp_path / "one.png")
        Image.fromarray(digits(1)[0]).save(tmp_path / "one.png")
        code = (
            "import resource, sys; from pathlib import Path; from runners.explain import explain\n"
            f"explain(Path({str(folder)!r}), {str(tmp_path / str(count))!r}, Path({str(tmp_path / 'out')!r}), True)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 30  # MiB; 1.1 an image would be 3,000


def test_flags_that_need_each_other(command):
    base = ["--runner", "UnetDSMRunner", "--config", "digits_dsm.yml"]
    assert "--input: only with --test" in command(*base, "--input", "x").stderr
    assert "--clean: only with --input" in command(*base, "--test", "--clean").stderr


def test_points_are_no_images(small_run, command):
    folder = small_run("SyntheticRunner")
    call = ["--runner", "SyntheticRunner", "--run", folder.parent.parent, "--doc", folder.name, "--device", "cpu"]
    done = command(*call, "--test", "--input", "x.png")
    assert (done.returncode, done.stderr) == (2, f"main.py: {folder}: a model of points, not of images\n")


@pytest.fixture
def of_a_range(command, once, tmp_path):
    """A copy of the run folder of a small denoiser for σ from 0.2 to 1, and the command that tests it."""

    def train(folder):
        call = ["--config", "mnist.yml", "--device", "cpu", "--ni", "--noise", "0.2", "1.0", "--doc", "range"]
        for text in ("data.dataset=Digits", "data.image_size=8", "data_dir=data", "model.unet.widths=[8, 16]"):
            call += ["--set", text]
        for text in ("max_steps=10", "warmup_steps=5", "loss=dsm", "batch_size=128", "precision=fp32"):
            call += ["--set", text]
        assert command("--runner", "UnetDSMRunner", "--run", folder, *call).returncode == 0

    folder = tmp_path / "runs/logs/range"
    shutil.copytree(once("a range to explain", train) / "logs/range", folder)
    return folder, ["--runner", "UnetDSMRunner", "--doc", "range", "--test", "--device", "cpu", "--input", "own.npy"]


def noisy(sigma: float) -> np.ndarray:
    return digits(200) / 255 + sigma * np.random.default_rng(0).normal(size=(200, 8, 8))


def test_a_model_of_a_range_answers_at_the_level_that_is_given(of_a_range, tmp_path, command):
    folder, call = of_a_range
    np.save(tmp_path / "own.npy", noisy(0.4))
    done = command(*call)
    message = "--noise is missing: the model has scores at σ from 0.2 to 1; give that of your images, or auto"
    assert (done.returncode, done.stderr) == (2, f"main.py: {message}\n")
    done = command(*call, "--noise", "0.4")
    assert done.returncode == 0, done.stderr
    values = datasets.from_pixels(noisy(0.4), (1, 8, 8))
    with torch.no_grad():
        expected = inference.posterior_mean(models.load(folder).at(0.4).s1(values), values, 0.4)
    arrays = np.load(folder / "images/input/posterior.npz")
    np.testing.assert_allclose(arrays["mean"].reshape(200, 64), expected, rtol=1e-4, atol=1e-5)
    done = command(*call, "--noise", "3")
    assert (done.returncode, done.stderr) == (2, "main.py: the model has scores at σ from 0.2 to 1, not at σ = 3\n")


@pytest.mark.parametrize("sigma", [0.3, 0.8])
def test_the_level_is_estimated(of_a_range, tmp_path, command, sigma):
    _, call = of_a_range
    np.save(tmp_path / "own.npy", noisy(sigma))
    done = command(*call, "--noise", "auto", "--output", "elsewhere")
    assert done.returncode == 0, done.stderr
    level = float(done.stdout.partition("σ = ")[2].partition(",")[0])
    # 1.166/√25 is the relative standard error of one estimate from an image of 8×8; 200 are taken together. Their
    # strokes are as fine as noise: what the estimate takes for it adds to the variance
    assert sigma * (1 - 5 * 1.25 * 0.23 / 200**0.5) < level < (sigma**2 + 0.25**2) ** 0.5
    assert (tmp_path / "elsewhere/posterior.npz").exists()


def test_noise_of_inputs_that_makes_no_sense(of_a_range, tmp_path, command):
    _, call = of_a_range
    np.save(tmp_path / "own.npy", noisy(0.4))
    assert "--noise: one level is expected with --input, or auto" in command(*call, "--noise", "0.2", "0.5").stderr
    assert "--noise auto: with --clean there is no noise yet" in command(*call, "--noise", "auto", "--clean").stderr
    train = ["--runner", "UnetDSMRunner", "--config", "digits_dsm.yml"]
    assert "--noise: auto only with --input" in command(*train, "--noise", "auto").stderr
    assert "--resize: only with --input" in command(*train, "--resize").stderr


def test_a_model_of_one_level_is_asked_at_no_other(trained, tmp_path, command):
    folder, call = trained
    np.save(tmp_path / "own.npy", noisy(0.4))
    done = command(*call, "--input", "own.npy", "--noise", "0.4")
    assert (done.returncode, done.stderr) == (2, "main.py: the model has scores at σ = 0.5, not at σ = 0.4\n")
    config = folder / "config.yml"  # as the published program keeps it: without the noise level
    config.write_text("".join(line for line in config.read_text().splitlines(True) if not line.startswith("noise")))
    assert command(*call, "--input", "own.npy", "--noise", "0.4").returncode == 0


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A denoiser that looks two pixels far."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernels = (kernel[:, None] * kernel).expand(3, 1, 5, 5)
    return torch.nn.functional.conv2d(x, kernels, padding=2, groups=3).tanh()


def foreign(sizes: list | None = None) -> models.ScoreModel:
    """Somebody else's denoiser of pictures of any size, and what it was given."""

    def watched(x: torch.Tensor, sigma: float) -> torch.Tensor:
        if sizes is not None:
            sizes.append((len(x), *x.shape[2:]))
        return blurred(x, sigma)

    return models.from_denoiser(watched, (0.01, 1.0), (3, None, None), values=(0, 1), reach=2)


def photograph(path, height: int, width: int) -> torch.Tensor:
    """A coloured picture, and its values in [0, 1], `(1, D)`."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 9 % 256, columns * 7 % 256, (rows + columns) * 5 % 256], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels).movedim(2, 0).reshape(1, -1).float() / 255


def test_somebody_elses_denoiser_with_pictures_of_any_size(tmp_path):
    """Of two sizes, one odd: each answer is that of the posterior, its region computed from the surroundings."""
    (tmp_path / "own").mkdir()
    values = {"a": photograph(tmp_path / "own/a.png", 21, 34), "b": photograph(tmp_path / "own/b.png", 40, 40)}
    Image.open(tmp_path / "own/b.png").transpose(Image.Transpose.ROTATE_180).save(tmp_path / "own/b2.png")
    sizes: list = []
    metrics = explain.explain(foreign(sizes), tmp_path / "own", tmp_path / "out", sigma=25 / 255, region=(8, 11, 6, 5))
    assert metrics["images"] == 3
    assert {tuple(size) for _, *size in sizes} == {(21, 34), (40, 40), (10, 9)}
    ends = ("denoised", "std", "components", "walks")
    expected = {f"{name}_{end}.png" for name in ("a", "b", "b2") for end in ends}
    expected |= {
        f"{name}_{size}.{kind}"
        for size in ("21x34", "40x40")
        for name, kind in (("overview", "png"), ("posterior", "npz"))
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    for name, shape in (("a", (3, 21, 34)), ("b", (3, 40, 40))):
        posterior = inference.posterior(foreign().at(25 / 255, shape), values[name])
        arrays = np.load(tmp_path / f"out/posterior_{shape[1]}x{shape[2]}.npz")
        assert arrays["names"].tolist() == (["a"] if name == "a" else ["b", "b2"])
        assert arrays["region"].tolist() == [8, 11, 6, 5]
        np.testing.assert_allclose(arrays["mean"][0].reshape(1, -1), posterior.mean, atol=1e-6)
        with pytest.warns(RuntimeWarning) if (posterior.clipped > 0).any() else contextlib.nullcontext():
            np.testing.assert_allclose(arrays["std"][0].reshape(1, -1), posterior.std(), rtol=1e-4, atol=1e-6)
        variances, directions = posterior.region((8, 11, 6, 5)).principal_components(3)
        np.testing.assert_allclose(arrays["variances"][:1], variances, rtol=1e-4)
        np.testing.assert_allclose(arrays["directions"][0].reshape(3, -1), directions[0].mT, atol=1e-3)
    with Image.open(tmp_path / "out/a_denoised.png") as image:
        shown = torch.from_numpy(np.array(image)).movedim(2, 0).reshape(1, -1) / 255
        expected_mean = blurred(values["a"].view(1, 3, 21, 34), 0.1).flatten(1)
        assert (shown - expected_mean.clamp(0, 1)).abs().max() < 0.51 / 255


def test_on_the_command_line_it_needs_no_run_folder(tmp_path, command, monkeypatch):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/blurring.py").write_text("from tests.runners.test_explain import foreign\nmodel = foreign()\n")
    monkeypatch.syspath_prepend(tmp_path / "tools")
    clean = photograph(tmp_path / "photo.png", 21, 34)
    call = ["--runner", "UnetDSMRunner", "--test", "--device", "cpu", "--set", "model.denoiser=blurring:model"]
    done = command(*call, "--input", "photo.png", "--clean", "--noise", "25/255", "--region", "8", "11", "6", "5")
    assert done.returncode == 0, done.stderr
    target = tmp_path / "runs/input"
    expected = {f"photo_{end}.png" for end in ("denoised", "std", "components", "walks")}
    assert {path.name for path in target.iterdir()} == expected | {"overview.png", "posterior.npz"}
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1234))
    mean = blurred((clean + 25 / 255 * noise).view(1, 3, 21, 34), 25 / 255).numpy()
    np.testing.assert_allclose(np.load(target / "posterior.npz")["mean"], mean, atol=1e-6)
    assert float(done.stdout.partition("mse ")[2].split(",")[0]) == pytest.approx(
        float(((mean - clean.view(1, 3, 21, 34).numpy()) ** 2).mean()), rel=1e-4
    )
    assert command(*call, "--input", "photo.png", "--noise", "0.1", "--output", "out").returncode == 0
    assert not (tmp_path / "out/walks.png").exists()


@pytest.mark.parametrize(
    "trained", ["LowRankHybridRunner", "DoubleDiagonalHybridRunner", "UnetDSMRunner"], indirect=True
)
def test_a_region_for_a_model_of_a_run_folder(trained, tmp_path, command):
    folder, call = trained
    Image.fromarray(digits(1)[0]).save(tmp_path / "digit.png")
    assert command(*call, "--input", "digit.png", "--region", "2", "1", "5", "4").returncode == 0
    arrays = np.load(folder / "images/input/posterior.npz")
    noisy = datasets.from_pixels(digits(1), (1, 8, 8))
    posterior = inference.posterior(models.load(folder).at(0.5), noisy)
    np.testing.assert_allclose(arrays["std"].reshape(1, 64), posterior.std(), rtol=1e-3, atol=1e-5)
    assert (folder / "images/input/digit_components.png").exists()
    assert (folder / "images/input/digit_walks.png").exists() == (call[1] != "DoubleDiagonalHybridRunner")
    if call[1] == "DoubleDiagonalHybridRunner":
        assert "variances" not in arrays
        return
    assert arrays["directions"].shape == (1, 3, 1, 5, 4)
    variances, _ = posterior.region((2, 1, 5, 4)).principal_components(3)
    np.testing.assert_allclose(arrays["variances"], variances, rtol=1e-3)
