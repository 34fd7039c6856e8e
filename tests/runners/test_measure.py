"""`--test --input --measure`: samples against exact conditional densities, what is written, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import inference
import models
from configs import Config, UserError
from datasets.pictures import cover
from inference.operators import Blur, Downsample, Mask
from linalg import DiagonalPlusLowRank
from runners import measure
from tests.conftest import ROOT

SHAPE = (1, 8, 8)
SIGMA_Y = 0.1
VARIANCE = 1 / 12  # that is assumed of values in [0, 1]
HOLE = np.ones((8, 8), bool)
HOLE[2:5, 2:6] = False
OPERATORS = {"hole.png": Mask(HOLE, SHAPE), "blur:0.8": Blur(0.8, SHAPE), "down:2": Downsample(2, SHAPE)}
ENDS = ("measured", "mean", "std", *(f"sample_{number}" for number in range(8)))


@pytest.fixture(autouse=True)
def _beside_a_mask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.where(HOLE, 128, 127).astype(np.uint8)).save("hole.png")


def digits(count: int) -> np.ndarray:
    return datasets.load(Config(), "test").images[:count, 0].numpy()


def model_of(channels: int = 1, size: int | None = 8, order: int = 2) -> models.ScoreModel:
    """Of pictures whose values are all drawn from N(1/2, 1/12): the scores, or the denoiser alone."""

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return 0.5 + VARIANCE / (VARIANCE + sigma**2) * (x - 0.5)

    if order == 1:
        return models.from_denoiser(denoise, (0.01, 3.0), (channels, size, size), values=(0, 1))

    def at(sigma: float, shape: tuple[int, ...]) -> models.Scores:
        precision = 1 / (VARIANCE + sigma**2)
        about = {"shape": shape, "values": (0.0, 1.0)}
        return models.Scores(
            sigma,
            lambda x: -precision * (x - 0.5),
            lambda x: DiagonalPlusLowRank(torch.full_like(x, -precision)),
            **about,
        )

    return models.ScoreModel(at, (0.01, 3.0), (channels, size, size), values=(0.0, 1.0))


def as_input(y: torch.Tensor, how: str) -> np.ndarray:
    """Measurements as pictures; what is in the hole of a mask does not count."""
    if how != "hole.png":
        return y.unflatten(1, OPERATORS[how].measured_shape)[:, 0].numpy()
    pictures = torch.full((len(y), 8, 8), 0.9)
    pictures[:, torch.from_numpy(HOLE)] = y
    return pictures.numpy()


def test_without_a_second_order_they_are_guided(tmp_path):
    """Of values that are all alike the pseudo-inverse is exact, where its steps are fine."""
    np.save("own.npy", digits(3) / 255)
    figures = measure.measure(model_of(order=1), "own.npy", tmp_path / "out", "hole.png", 0.1, seed=1)
    seen = np.load("out/measured.npz")["mean"][:, 0][:, HOLE]
    assert np.abs(seen - (digits(3) / 255)[:, HOLE]).mean() < 0.15
    assert 0 < figures["predicted_mse"] < 2 * VARIANCE


@pytest.mark.parametrize("how", OPERATORS)
def test_samples_are_those_of_the_exact_density(tmp_path, how):
    """Whitened by the exact mean and covariance given y they are standard normal."""
    operator, count = OPERATORS[how], 30
    generator = torch.Generator().manual_seed(0)
    clean = 0.5 + VARIANCE**0.5 * torch.randn(count, 64, generator=generator)
    y = operator(clean) + SIGMA_Y * torch.randn(count, operator.shape[0], generator=generator)
    np.save("own.npy", as_input(y, how))
    figures = measure.measure(model_of(), "own.npy", tmp_path / "out", how, SIGMA_Y, seed=1)
    arrays = np.load("out/measured.npz")
    assert arrays["names"].tolist() == [f"own_{number}" for number in range(count)]
    samples = torch.from_numpy(arrays["samples"])
    assert samples.shape == (count, 8, *SHAPE)
    np.testing.assert_allclose(arrays["mean"], samples.mean(1), atol=1e-6)
    np.testing.assert_allclose(arrays["std"], samples.std(1), atol=1e-6)
    A = operator(torch.eye(64, dtype=torch.float64)).T
    precision = A.T @ A / SIGMA_Y**2 + torch.eye(64) / VARIANCE
    mean = (y.double() @ A / SIGMA_Y**2 + 0.5 / VARIANCE) @ precision.inverse()
    white = (samples.double().flatten(2) - mean[:, None]) @ torch.linalg.cholesky(precision)
    errors = white.numel() ** -0.5
    assert abs(float(white.mean())) < 5 * errors
    assert abs(float(white.square().mean()) - 1) < 5 * 2**0.5 * errors
    assert float(white.mean((0, 1)).square().mean()) < 2 / (8 * count)  # the mean of 64 χ²/(8·count) is 1/(8·count)
    variance = float(precision.inverse().diagonal().mean())
    assert figures["predicted_mse"] == pytest.approx(variance, rel=0.1)
    assert "mse" not in figures


@pytest.fixture
def digits_run(tmp_path, command):
    """A copy of the run folder of a denoiser of digits for σ from 0.25 to 1, and what tests it."""
    folder = tmp_path / "runs/logs/digits_rank16"
    shutil.copytree(ROOT / "checkpoints/digits", folder)
    call = ["--runner", "LowRankHybridRunner", "--doc", "digits", "--rank", "16", "--test", "--device", "cpu"]
    return folder, lambda *arguments: command(*call, *arguments)


def test_a_folder_of_clean_digits_with_a_hole(tmp_path, digits_run):
    """What is known comes back with the noise taken off it, what is not known nearer than the middle of all digits."""
    folder, call = digits_run
    (tmp_path / "own").mkdir()
    for number, image in enumerate(digits(20)):
        Image.fromarray(image).save(tmp_path / f"own/d{number}.png")
    done = call("--input", "own", "--clean", "--measure", "hole.png", "--noise", "0.05")
    assert done.returncode == 0, done.stderr
    target = folder / "images/input"
    expected = {f"d{number}_{end}.png" for number in range(20) for end in ENDS} | {"overview.png", "measured.npz"}
    assert {path.name for path in target.iterdir()} == expected
    arrays = np.load(target / "measured.npz")
    order = [int(name[1:]) for name in arrays["names"]]
    clean = digits(20)[order, None] / 255
    known = np.square(arrays["mean"] - clean)[..., HOLE].mean()
    hidden = np.square(arrays["mean"] - clean)[..., ~HOLE].mean()
    assert known < 0.05**2
    assert hidden < 0.8 * np.square(clean.mean(0) - clean)[..., ~HOLE].mean()
    error = float(done.stdout.partition(", mse ")[2].split(";")[0])
    assert error == pytest.approx(np.square(arrays["mean"] - clean).mean(), rel=1e-3)
    assert arrays["std"][..., ~HOLE].mean() > 3 * arrays["std"][..., HOLE].mean() > 0
    with Image.open(target / "d0_measured.png") as image:
        pixels = np.array(image)
        assert (pixels[~HOLE] == 0).all()
        assert np.abs(pixels / 255 - digits(1)[0] / 255)[HOLE].max() < 0.25
    largest = max(np.array(Image.open(target / f"d{number}_std.png")).max() for number in range(20))
    assert largest == 255


def test_the_same_seed_gives_the_same_answers(tmp_path, digits_run):
    _, call = digits_run
    np.save("own.npy", digits(2))
    samples = []
    for seed in ("1", "1", "2"):
        done = call("--input", "own.npy", "--clean", "--measure", "down:2", "--noise", "0.1", "--seed", seed,
                    "--output", "out")  # fmt: skip
        assert done.returncode == 0, done.stderr
        samples.append(np.load("out/measured.npz")["samples"])
    assert np.array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])
    assert np.abs(samples[0][0] - samples[0][1]).max() > 0.1
    with Image.open("out/own_0_measured.png") as image:
        assert image.size == (4, 4)


@pytest.fixture
def asked(monkeypatch):
    """What `inference.conditional` is asked; it answers grey, and white in the last sample of each picture."""
    calls = []

    def answered(model, y, operator, sigma_y, **options):
        calls.append({"model": model, "y": y, "operator": operator, "sigma_y": sigma_y, **options})
        answer = torch.full((len(y), operator.shape[1]), 0.5)
        answer[7::8] = 1
        return answer

    monkeypatch.setattr(inference, "conditional", answered)
    return calls


def test_each_measurement_is_asked_about_eight_times(tmp_path, asked, monkeypatch):
    """Five pictures in batches of two, no two of which have the noise of another."""
    monkeypatch.setattr(measure, "BATCH", 16)
    clean = torch.from_numpy(digits(5)).flatten(1) / 255
    np.save("own.npy", digits(5))
    source = ROOT / "checkpoints/digits"
    figures = measure.measure(source, "own.npy", tmp_path / "out", "down:2", 0.2, clean=True, seed=3)
    assert [len(call["y"]) for call in asked] == [16, 16, 8]
    assert len({call["seed"] for call in asked} | {3}) == 4
    assert all(call["prior"] is None and call["sigma_y"] == 0.2 for call in asked)
    assert asked[0]["model"].shape == SHAPE
    y = torch.cat([call["y"] for call in asked]).view(5, 8, 16)
    assert (y == y[:, :1]).all()
    noise = (y[:, 0] - Downsample(2, SHAPE)(clean)) / 0.2
    assert noise.std() == pytest.approx(1, abs=5 / 160**0.5)
    assert np.load("out/measured.npz")["samples"][:, 7].min() == 1
    assert figures["mse"] == pytest.approx(float((clean - 0.5625).square().mean()), rel=1e-5)
    assert figures["predicted_mse"] == pytest.approx(1 / 32, rel=1e-5)


def test_somebody_elses_denoiser_knows_but_the_range_of_its_values(tmp_path, asked):
    """Pictures of two sizes, for a model of any: those that come out are twice as large."""
    (tmp_path / "own").mkdir()
    for name, (height, width) in {"a": (4, 6), "b": (5, 3)}.items():
        pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"own/{name}.png")
    measure.measure(model_of(3, None), tmp_path / "own", tmp_path / "out", "down:2", 0.2)
    expected = {f"{name}_{end}.png" for name in "ab" for end in ENDS}
    for size in ("8x12", "10x6"):
        expected |= {f"overview_{size}.png", f"measured_{size}.npz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert np.load("out/measured_8x12.npz")["mean"].shape == (1, 3, 8, 12)
    assert [call["model"].shape for call in asked] == [(3, 8, 12), (3, 10, 6)]
    assert asked[0]["seed"] != asked[1]["seed"]
    prior = asked[0]["prior"]
    assert prior.dimension == 288
    assert prior.rest == pytest.approx(VARIANCE)
    assert (prior.mean == 0.5).all()
    with Image.open("out/a_measured.png") as shown, Image.open("own/a.png") as own:
        assert np.array_equal(shown, own)


def test_clean_pictures_and_the_mask_are_made_to_fit(tmp_path, asked):
    Image.fromarray(HOLE.repeat(3, 0).repeat(3, 1)).save("hole.png")
    Image.fromarray(digits(1)[0].repeat(3, 0).repeat(3, 1)).save("own.png")
    measure.measure(model_of(), "own.png", tmp_path / "out", "hole.png", 1e-6, clean=True, resize=True)
    y = asked[0]["y"][0]
    assert len(y) == HOLE.sum()
    fitting = np.array(cover(Image.open("own.png"), 8, 8))
    np.testing.assert_allclose(y, fitting[HOLE] / 255, atol=1e-5)


def test_on_the_command_line_it_needs_no_run_folder(tmp_path, command, asked, monkeypatch):
    (tmp_path / "tools").mkdir()
    Path("tools/known.py").write_text("from tests.runners.test_measure import model_of\nmodel = model_of(order=1)\n")
    monkeypatch.syspath_prepend(tmp_path / "tools")
    np.save("own.npy", digits(1))
    call = ["--runner", "UnetDSMRunner", "--test", "--device", "cpu", "--set", "model.denoiser=known:model"]
    done = command(*call, "--input", "own.npy", "--measure", "blur:2", "--noise", "5/255")
    assert done.returncode == 0, done.stderr
    assert "images 1, predicted_mse 0.03125; written: runs/input" in done.stdout
    assert Path("runs/input/own_sample_7.png").exists()
    assert asked[0]["sigma_y"] == pytest.approx(5 / 255)
    np.testing.assert_allclose(asked[0]["y"][0], digits(1)[0].ravel() / 255, atol=1e-6)


def test_a_sample_that_diverges_is_said_in_a_line(tmp_path, monkeypatch):
    def diverge(*arguments, **options):
        raise inference.DivergedError("conditional diverged at step 3")

    monkeypatch.setattr(inference, "conditional", diverge)
    np.save("own.npy", digits(1))
    with pytest.raises(UserError, match="^--measure: conditional diverged at step 3; a larger --noise may do$"):
        measure.measure(model_of(), "own.npy", tmp_path / "out", "blur:2", 0.1)


ANY = "a mask picture, blur:σ or down:F is expected"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("x", f"--measure x: {ANY}"),
        ("none.png", f"--measure none.png: {ANY}"),
        ("blur", f"--measure blur: {ANY}"),
        ("blur:", f"--measure blur:: {ANY}"),
        ("blur:wide", f"--measure blur:wide: {ANY}"),
        ("down:2.5", f"--measure down:2.5: {ANY}"),
        ("down:0", f"--measure down:0: {ANY}"),
        ("crop:2", f"--measure crop:2: {ANY}"),
        ("blur:0", "--measure blur:0: std is 0.0; a positive, finite number is expected"),
        ("blur:nan", "--measure blur:nan: std is nan; a positive, finite number is expected"),
        ("down:3", "--measure down:3: images of 8×8 cannot be divided into blocks of 3×3 pixels"),
        ("down:16", "--measure down:16: images of 8×8 cannot be divided into blocks of 16×16 pixels"),
        ("note.png", "note.png: cannot be read as an image (no known format); mend or remove it"),
        ("wide.png", "--measure wide.png: a mask of 8×12 pixels; 8×8 are expected, as the images have"),
        ("black.png", "--measure black.png: no pixel is white; those that are measured are expected to be"),
    ],
)
@pytest.mark.parametrize("clean", [True, False])
def test_what_cannot_be_measured(tmp_path, how, message, clean):
    Path("note.png").write_text("not an image")
    Image.fromarray(np.full((8, 12), 255, np.uint8)).save("wide.png")
    Image.fromarray(np.full((8, 8), 127, np.uint8)).save("black.png")
    np.save("own.npy", digits(1))
    with pytest.raises(UserError) as caught:
        measure.measure(model_of(), "own.npy", tmp_path / "out", how, 0.1, clean)
    assert str(caught.value) == message
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("size", "how", "clean", "message"),
    [
        ((8, 8), "down:2", False, "an array of shape (8, 8); images of 4×4 with 1 channel(s) are expected"),
        ((4, 4), "blur:2", False, "an array of shape (4, 4); images of 8×8 with 1 channel(s) are expected"),
        ((4, 4), "blur:2", True, "an array of shape (4, 4); images of 8×8 with 1 channel(s) are expected; --resize"),
    ],
)
def test_pictures_of_another_size(tmp_path, size, how, clean, message):
    """Measurements are not made to fit."""
    Image.fromarray(np.zeros(size, np.uint8)).save("own.png")
    with pytest.raises(UserError) as caught:
        measure.measure(model_of(), "own.png", tmp_path / "out", how, 0.1, clean)
    assert str(caught.value).startswith(f"own.png: {message}")
    assert ("--resize" in str(caught.value)) == clean


def test_a_model_of_any_size_is_told_which_pictures_do_not_divide(tmp_path):
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save("own.png")
    with pytest.raises(UserError, match=r"^--measure down:2: images of 9×8 cannot be divided into blocks of 2×2 pixel"):
        measure.measure(model_of(3, None), "own.png", tmp_path / "out", "down:2", 0.1, clean=True)
    with pytest.raises(UserError, match=r"^--resize: the model takes images of any size; leave it out"):
        measure.measure(model_of(3, None), "own.png", tmp_path / "out", "down:2", 0.1, clean=True, resize=True)


def test_a_model_of_one_level_has_no_samples(tmp_path, small_run):
    np.save("own.npy", digits(1))
    message = "^--measure: the model has scores at σ = 0.5 alone; one of a range of levels is expected$"
    with pytest.raises(UserError, match=message):
        measure.measure(small_run("LowRankHybridRunner"), "own.npy", tmp_path / "out", "blur:2", 0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measure", "blur:2"], "argument --measure: only with --input"),
        (["--test", "--measure", "blur:2", "--noise", "0.1"], "argument --measure: only with --input"),
        (["--test", "--input", "x", "--measure", "blur:2"], "argument --noise: a number is expected with --measure"),
        (
            ["--test", "--input", "x", "--measure", "blur:2", "--noise", "auto"],
            "argument --noise: a number is expected",
        ),
        (["--test", "--input", "x", "--measure", "blur:2", "--noise", "0.1", "0.2"], "one level is expected"),
        (["--test", "--input", "x", "--measure", "blur:2", "--noise", "0"], "a positive, finite number is expected"),
        (
            ["--test", "--input", "x", "--measure", "blur:2", "--noise", "0.1", "--region", "0", "0", "4", "4"],
            "argument --region: not with --measure",
        ),
        (
            ["--test", "--input", "x", "--measure", "blur:2", "--noise", "0.1", "--resize"],
            "argument --resize: with --measure only for --clean images",
        ),
    ],
)
def test_flags_that_do_not_go_together(command, flags, message):
    done = command("--runner", "UnetDSMRunner", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
