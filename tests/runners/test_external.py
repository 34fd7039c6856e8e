"""Runs on a denoiser from elsewhere: the exact one of a normal density, in a module of the user's."""

import importlib
import json

import pytest
import torch
import yaml

import configs
import losses
import models
from models import checkpoint
from runners import external, hybrid, runner

MODULE = """
import torch

MEAN, VARIANCE = 0.3, 0.25

class Shrinkage(torch.nn.Module):
    def __init__(self, variance):
        super().__init__()
        self.variance = torch.nn.Parameter(torch.tensor(variance))

    def forward(self, x, sigma):
        return MEAN + self.variance / (self.variance + sigma**2) * (x - MEAN)

shrink = Shrinkage(VARIANCE)
without_weights = lambda x, sigma: MEAN + VARIANCE / (VARIANCE + sigma**2) * (x - MEAN)

@torch.no_grad()
def without_gradients(x, sigma):
    return without_weights(x, sigma)

def coloured(x, sigma):
    return x
"""
LOCAL = "{widths: [4, 8], norm: none, positions: false, attention: 0, level_bypass: false}"
SECOND = [
    *("--runner", "LowRankHybridRunner", "--config", "mnist.yml", "--device", "cpu", "--ni", "--noise", "0.2", "1.0"),
    *("--set", "data.dataset=Digits", "--set", "data.image_size=8", "--set", f"model.unet={LOCAL}", "--rank", "4"),
    *("--set", "model.taper={2: 3, .inf: 1}", "--set", "max_steps=6", "--set", "batch_size=16"),
    *("--set", "print_every=1", "--set", "checkpoint_epochs=100", "--set", "warmup_steps=1", "--set", "precision=fp32"),
]
TEST = ["--runner", "UnetDSMRunner", "--test", "--device", "cpu", "--set", "data.dataset=Digits"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The name of a module of its own for each test, so that none is taken from the cache of imports."""
    name = f"elsewhere_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def exact_s1(x, sigma):
    """Of N(0.3, 0.25) with noise."""
    return (0.3 - x) / (0.25 + sigma**2)


@pytest.mark.parametrize("loss", ["centered", "jacobian", "centered_jacobian"])
def test_the_second_order_is_trained_on_it(command, elsewhere, tmp_path, loss):
    """Frozen, by reference and hash: the checkpoint has the weights of s2 alone."""
    done = command(*SECOND, "--doc", "x", "--set", f"model.denoiser={elsewhere}:shrink", "--set", f"loss={loss}")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/logs/x_rank4"
    model = yaml.safe_load((folder / "config.yml").read_text())["model"]
    assert (model["denoiser"], model["second_order"]) == (f"{elsewhere}:shrink", "fresh")
    assert len(model["denoiser_sha256"]) == 64
    state = checkpoint.read(folder / "ckpt/checkpoint.pth")
    assert all(name.startswith("covariance.") for part in ("model", "ema") for name in state[part])
    scores = models.load(folder).at(0.4)
    x = torch.randn(3, 64)
    s1, s2 = scores(x)
    torch.testing.assert_close(s1, exact_s1(x, 0.4))
    assert s2.dense().shape == (3, 64, 64)


def test_such_a_run_is_tested(command, elsewhere, tmp_path, monkeypatch):
    """At both ends of its range the mean squared error is that of the denoiser's arithmetic on the digits."""
    monkeypatch.setattr(hybrid, "JACOBIAN_SECONDS", 0)
    monkeypatch.setattr(runner, "LEVELS", 2)
    assert command(*SECOND, "--doc", "x", "--set", f"model.denoiser={elsewhere}:shrink").returncode == 0
    done = command("--runner", "LowRankHybridRunner", "--doc", "x", "--test", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    levels = json.loads((tmp_path / "runs/logs/x_rank4/metrics.json").read_text())["levels"]
    assert [level["noise"] for level in levels] == pytest.approx([0.2, 1.0])
    for level in levels:
        assert level["mse"] == pytest.approx(mse_on_digits(level["noise"]), rel=0.03)


def mse_on_digits(sigma: float) -> float:
    """Of the module's denoiser; the digits' values have mean 0.305 and this standard deviation."""
    kept = 0.25 / (0.25 + sigma**2)
    return kept**2 * sigma**2 + (1 - kept) ** 2 * 0.3763**2


def test_a_resumed_run_takes_the_same_steps(command, elsewhere, tmp_path):
    options = [*SECOND, "--set", f"model.denoiser={elsewhere}:shrink"]
    assert command(*options, "--doc", "whole").returncode == 0
    assert command(*options, "--doc", "half", "--set", "max_steps=3", "--set", "lr_schedule=constant").returncode == 0
    assert command(*options, "--doc", "other", "--set", "lr_schedule=constant").returncode == 0
    resume = ["--runner", "LowRankHybridRunner", "--doc", "half", "--resume_training", "--device", "cpu"]
    done = command(*resume, "--set", "max_steps=6")
    assert "resuming from" in done.stdout
    expected, resumed = (
        checkpoint.read(tmp_path / f"runs/logs/{doc}_rank4/ckpt/checkpoint.pth") for doc in ("other", "half")
    )
    assert resumed["step"] == expected["step"] == 6
    assert all(torch.equal(value, resumed["ema"][name]) for name, value in expected["ema"].items())


def test_other_weights_than_at_the_beginning_are_refused(command, elsewhere, tmp_path):
    name = f"{elsewhere}:shrink"
    assert command(*SECOND, "--doc", "x", "--set", f"model.denoiser={name}").returncode == 0
    shrink = importlib.import_module(elsewhere).shrink
    shrink.variance.data += 0.01
    with pytest.raises(configs.UserError, match=f"the weights of {name} are not those that the run began with"):
        models.load(tmp_path / "runs/logs/x_rank4")
    shrink.variance.data.fill_(0.25)
    models.load(tmp_path / "runs/logs/x_rank4")


def test_a_function_without_weights_has_no_hash(elsewhere):
    c = completed(f"{elsewhere}:without_weights")
    assert c.model.denoiser_sha256 is None


def completed(name, *changes, noise=(0.2, 1.0)):
    given = [f"model.denoiser={name}", f"model.unet={LOCAL}", *changes]
    return external.completed(configs.load(configs.find("mnist.yml"), given, runner="LowRankHybridRunner", noise=noise))


def ffdnet_with(tmp_path, *changes, noise=(0.05, 0.2)):
    """FFDNet with weights of its own kind, which need no package."""
    path = tmp_path / "ffdnet.pth"
    torch.manual_seed(0)
    torch.save(models.denoisers.FFDNet().state_dict(), path)
    return completed(f"ffdnet:{path}", *changes, noise=noise)


COLOURED = ("data.dataset=CIFAR10", "data.image_size=32", "data.channels=3")


def test_black_and_white_are_those_of_the_denoiser(tmp_path):
    c = ffdnet_with(tmp_path, *COLOURED)
    assert c.data.values == (0, 1)
    assert ffdnet_with(tmp_path, *COLOURED, "data.values=[0, 1]").model == c.model


def test_what_is_not_given_is_the_denoiser_s(tmp_path):
    torch.save(models.denoisers.FFDNet().state_dict(), tmp_path / "ffdnet.pth")
    overrides = [f"model.denoiser=ffdnet:{tmp_path / 'ffdnet.pth'}"]
    c = external.completed(configs.load(None, overrides, runner="UnetDSMRunner"))
    assert c.noise == (5 / 255, 75 / 255)
    assert (c.data.channels, c.data.values) == (3, (0, 1))
    configs.save(c, tmp_path / "config.yml")
    assert configs.load(tmp_path / "config.yml") == c


@pytest.mark.parametrize(
    ("changes", "noise", "message"),
    [
        ((*COLOURED, "data.values=[-1, 1]"), (0.05, 0.2), r"data.values: \[-1, 1\], and ffdnet.* at \[0, 1\]"),
        (COLOURED, (0.01, 0.2), r"noise: from 0.01 to 0.2, and ffdnet.* is for σ from 0.01961 to 0.2941"),
        (COLOURED, 0.5, "noise: 0.5, and ffdnet"),
        ((), (0.05, 0.2), r"takes images of 3 channel\(s\), of any size, and the data are images of 1 channel"),
        ((*COLOURED, "model.trunk=shared"), (0.05, 0.2), "and model.trunk is shared; separate is expected"),
        ((*COLOURED, "model.second_order=features"), (0.05, 0.2), "second_order is features; fresh is expected"),
        ((*COLOURED, "model.network=refinenet"), 0.1, "model.network is refinenet; unet is expected"),
    ],
)
def test_what_does_not_go_together(tmp_path, changes, noise, message):
    with pytest.raises(configs.UserError, match=message):
        ffdnet_with(tmp_path, *changes, noise=noise)


@pytest.mark.parametrize("loss", ["jacobian", "centered_jacobian", "jacobian_residual"])
def test_a_loss_that_takes_gradients_of_a_function_without_them_is_refused(elsewhere, loss):
    name = f"{elsewhere}:without_gradients"
    with pytest.raises(configs.UserError, match=f"loss: {loss} takes gradients .* has none; take centered"):
        completed(name, f"loss={loss}")
    assert completed(name, "loss=centered").loss == "centered"
    assert completed(f"{elsewhere}:without_weights", f"loss={loss}").loss == loss


def test_a_name_that_cannot_be_had(elsewhere):
    with pytest.raises(configs.UserError, match="nowhere:f cannot be had .*; its folder belongs in PYTHONPATH"):
        completed("nowhere:f")
    with pytest.raises(configs.UserError, match=f"{elsewhere}:VARIANCE is of type float; a function"):
        completed(f"{elsewhere}:VARIANCE")


# -- A test without a checkpoint


def test_of_a_denoiser_needs_no_checkpoint(command, elsewhere, tmp_path):
    """The mean squared error is that of the same arithmetic; and it can be tested again."""
    for sigma in (0.5, 0.2):
        done = command(*TEST, "--set", f"model.denoiser={elsewhere}:shrink", "--noise", sigma, "--doc", "t")
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/logs/t"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["noise"] == 0.2
    assert metrics["noisy_mse"] == pytest.approx(0.04, rel=0.02)
    assert metrics["mse"] == pytest.approx(mse_on_digits(0.2), rel=0.02)
    assert (folder / "images/test.png").exists()
    x = torch.randn(2, 64)
    torch.testing.assert_close(models.load(folder).at(0.2).s1(x), exact_s1(x, 0.2))


def test_such_a_test_says_what_it_needs(command, elsewhere, small_run):
    name = f"model.denoiser={elsewhere}:shrink"
    done = command("--runner", "UnetDSMRunner", "--test", "--set", name)
    assert done.returncode == 2
    assert "data.dataset is missing: on which images" in done.stderr
    run = small_run("UnetDSMRunner").parent.parent
    done = command(*TEST, "--set", name, "--run", run, "--doc", "small")
    assert done.returncode == 2
    assert "has a trained run; give another --doc" in done.stderr


@pytest.mark.parametrize("loss", losses.OBJECTIVES[3])
def test_every_objective_of_three_orders_takes_one(command, tmp_path, monkeypatch, loss):
    (tmp_path / "shrinking.py").write_text("def denoise(x, sigma):\n    return x / (1 + sigma**2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    changes = ["model.order=3", "model.third_rank=2", "model.denoiser=shrinking:denoise", f"loss={loss}", "max_steps=1"]
    changes += ["model.unet.widths=[8, 8]", "batch_size=8", "precision=fp32", "model.taper=null"]
    call = ["--runner", "LowRankHybridRunner", "--config", "digits.yml", "--noise", "0.3", "--rank", "2"]
    done = command(*call, "--ni", "--device", "cpu", *(part for change in changes for part in ("--set", change)))
    assert done.returncode == 0, done.stderr
