"""Runs of three orders: the third learns beside the others, and they do not notice."""

import json
from pathlib import Path

import pytest
import torch

import losses
import models
from models import checkpoint
from runners import hybrid, runner
from runners.metrics import read_metrics

THIRD = ["--set", "model.order=3"]
DIGITS = [
    *("--config", "digits_low_rank.yml", "--device", "cpu", "--ni", "--noise", "0.5", "--rank", "4"),
    *("--set", "model.ngf=8", "--set", "print_every=1", "--set", "batch_size=64"),
]
PLANE = [
    *("--config", "synthetic/plane.yml", "--device", "cpu", "--ni", "--set", "data.density=gaussians"),
    *("--set", "model.ngf=64", "--set", "data.size=4096", "--set", "model.ema_rate=0.98", "--set", "print_every=1"),
]
RANGE = [
    *("--config", "mnist.yml", "--device", "cpu", "--ni", "--noise", "0.2", "1.0", "--set", "data.dataset=Digits"),
    *("--set", "data.image_size=8", "--set", "data_dir=data", "--set", "model.unet.widths=[8, 16]"),
    *("--set", "warmup_steps=5", "--set", "print_every=1", "--set", "batch_size=64", "--set", "precision=fp32"),
    *("--rank", "4", "--set", "model.taper={2: 3, .inf: 1}", "--set", "checkpoint_epochs=100"),
]
RUNS = {"LowRankHybridRunner": DIGITS, "DoubleDiagonalHybridRunner": DIGITS, "SyntheticRunner": PLANE}
FOLDERS = {"LowRankHybridRunner": "own_rank4"}


def settings(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


@pytest.mark.parametrize("loss", losses.OBJECTIVES[3])
@pytest.mark.parametrize("name", RUNS)
def test_the_lower_orders_are_those_of_a_run_without_it(command, tmp_path, name, loss):
    """To the bit, where the norm of gradients is clipped too; and the third order learns."""
    changes = settings("max_steps=4", "clip_grad=0.1", "model.covariance=positive")
    lower_loss = loss if loss in losses.OBJECTIVES[2] else "centered"
    for doc, order in (("own", [*THIRD, *settings(f"loss={loss}")]), ("lower", settings(f"loss={lower_loss}"))):
        done = command("--runner", name, *RUNS[name], *order, *changes, "--doc", doc)
        assert done.returncode == 0, done.stderr
        assert ("third_order" in done.stdout) == (doc == "own")
    folder = FOLDERS.get(name, "own")
    logs = tmp_path / "runs/logs"
    three = checkpoint.read(logs / folder / "ckpt/checkpoint.pth")["model"]
    two = checkpoint.read(logs / folder.replace("own", "lower") / "ckpt/checkpoint.pth")["model"]
    for key, value in two.items():
        assert torch.equal(three[f"lower.{key}"], value), key
    assert any(key.startswith("third.") for key in three)
    assert models.load(logs / folder).at(models.load(logs / folder).sigmas[0]).s3 is not None


def test_of_a_synthetic_density_it_comes_near_the_exact_one(command, tmp_path):
    """Predicting 0 has a relative error of 1."""
    changes = settings("max_steps=600", "lr=0.006", "loss=centered_derivative", "model.third_rank=4")
    call = ["--runner", "SyntheticRunner", *PLANE, *THIRD, *changes, "--noise", "0.8", "--doc", "plane"]
    assert command(*call).returncode == 0
    assert command("--runner", "SyntheticRunner", "--doc", "plane", "--test", "--device", "cpu").returncode == 0
    metrics = read_metrics(tmp_path / "runs/logs/plane")
    assert metrics["relative_s2_error"] < 0.3
    assert metrics["relative_s3_error"] < 0.7


@pytest.fixture
def both_orders(command, once):
    """The run folder of a small s1 and s2 of a range."""

    def train(folder: Path) -> None:
        call = ["--runner", "LowRankHybridRunner", *RANGE, *settings("max_steps=30", "loss=centered"), "--doc", "both"]
        assert command("--run", folder, *call).returncode == 0

    return once("both orders of a range", train) / "logs/both_rank4"


@pytest.mark.parametrize("loss", ["centered", "centered_jacobian", "centered_derivative", "dsm_vr"])
def test_on_trained_lower_orders_it_alone_is_trained_and_resumes(command, both_orders, tmp_path, interrupted, loss):
    changes = settings(f"model.denoiser={both_orders}", f"loss={loss}", "max_steps=6", "batch_size=16")
    call = ["--runner", "LowRankHybridRunner", *RANGE, *THIRD, *changes, *settings("checkpoint_minutes=0")]
    done = command(*call, "--doc", "whole")
    assert done.returncode == 0, done.stderr
    whole = checkpoint.read(tmp_path / "runs/logs/whole_rank4/ckpt/checkpoint.pth")
    lower = checkpoint.read(both_orders / "ckpt/checkpoint.pth")["ema"]
    for key, value in lower.items():
        assert torch.equal(whole["model"][f"lower.{key}"], value), key
        assert torch.equal(whole["ema"][f"lower.{key}"], value), key

    with interrupted():
        assert command(*call, "--doc", "half").returncode == 130
    done = command("--runner", "LowRankHybridRunner", "--doc", "half", "--resume_training", "--device", "cpu")
    assert "resuming from" in done.stdout
    resumed = checkpoint.read(tmp_path / "runs/logs/half_rank4/ckpt/checkpoint.pth")
    for part in ("model", "ema"):
        for key, value in whole[part].items():
            assert torch.equal(value, resumed[part][key]), key


@pytest.mark.filterwarnings("ignore:.* of .* lie below:RuntimeWarning")  # hardly anything was trained
def test_test_says_what_it_adds(command, both_orders, tmp_path, monkeypatch):
    monkeypatch.setattr(hybrid, "JACOBIAN_SECONDS", 0)
    monkeypatch.setattr(runner, "LEVELS", 2)
    changes = settings(f"model.denoiser={both_orders}", "loss=centered", "max_steps=20")
    assert command("--runner", "LowRankHybridRunner", *RANGE, *THIRD, *changes, "--doc", "third").returncode == 0
    done = command("--runner", "LowRankHybridRunner", "--doc", "third", "--test", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "runs/logs/third_rank4/metrics.json").read_text())
    for level in metrics["levels"]:
        assert set(level["skewness"]) == {"pixels", "components"}
        for part in level["skewness"].values():
            assert 0 <= part["lower"] <= 1
            assert part["log_score_gain_error"] > 0
    assert "log_score_gain" in done.stdout


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("UnetDSMRunner", ["loss=dsm"], "model.order is 3 and there is no second order"),
        (
            "LowRankHybridRunner",
            ["loss=centered_vr"],
            "loss: LowRankHybridRunner has no centered_vr; one of dsm, dsm_vr",
        ),
        ("LowRankHybridRunner", ["model.order=4"], "model.order"),
    ],
)
def test_what_cannot_be_trained(command, name, changes, message):
    done = command("--runner", name, *DIGITS, "--doc", "none", *THIRD, *settings(*changes))
    assert done.returncode != 0
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_without_a_second_order_is_refused(command, tmp_path):
    first = ["--runner", "UnetDSMRunner", *RANGE, *settings("loss=dsm", "max_steps=2", "model.taper=null")]
    assert command(*first, "--doc", "first").returncode == 0
    changes = settings(f"model.denoiser={tmp_path / 'runs/logs/first'}", "loss=centered", "max_steps=2")
    done = command("--runner", "LowRankHybridRunner", *RANGE, *THIRD, *changes, "--doc", "third")
    assert done.returncode != 0
    assert "model.denoiser: not a run of s1 and s2 with the same networks" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("noise", [["1e-7"], ["10", "1000"]])
def test_levels_whose_powers_overflow_are_refused(command, noise):
    call = ["--runner", "LowRankHybridRunner", *RANGE, *THIRD, "--doc", "far", "--noise", *noise]
    done = command(*call)
    assert done.returncode == 2
    assert "model.order is 3; levels from 0.001 to 300 are expected" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
