"""Runs over a range of noise levels: one network for all of them, first a denoiser, then the second order on it."""

import json

import pytest
import torch
import yaml

import configs
import models
from models import checkpoint
from runners import hybrid, runner
from runners.distributed import World

BASE = [
    *("--config", "mnist.yml", "--device", "cpu", "--ni", "--noise", "0.2", "1.0", "--set", "data.dataset=Digits"),
    *("--set", "data.image_size=8", "--set", "data_dir=data", "--set", "model.unet.widths=[8, 16]"),
    *("--set", "warmup_steps=5", "--set", "print_every=1", "--set", "batch_size=128", "--set", "precision=fp32"),
]
DENOISER = ["--runner", "UnetDSMRunner", *BASE, "--doc", "denoiser", "--set", "loss=dsm", "--set", "max_steps=40"]
SECOND = [
    *("--runner", "LowRankHybridRunner", *BASE, "--rank", "4", "--set", "model.taper={2: 3, .inf: 1}"),
    *("--set", "max_steps=14", "--set", "checkpoint_epochs=100"),
]


@pytest.fixture
def denoiser(command, once, tmp_path):
    """The run folder of a small denoiser."""

    def train(folder):
        assert command("--run", folder, *DENOISER).returncode == 0

    return once("a denoiser of a range", train) / "logs/denoiser"


def first_orders(output: str) -> list[float]:
    lines = [line for line in output.splitlines() if line.startswith("step ")]
    return [float(line.partition("first_order ")[2].partition(",")[0]) for line in lines]


def test_the_denoiser_learns_at_every_level(denoiser):
    config = yaml.safe_load((denoiser / "config.yml").read_text())
    assert config["noise"] == [0.2, 1.0]
    assert config["data"]["mean"] == pytest.approx(0.305, abs=0.01)  # of scikit-learn's digits over 16
    assert config["data"]["std"] == pytest.approx(0.376, abs=0.01)
    assert config["model"]["head"] == "none"
    assert models.load(denoiser).sigmas == (0.2, 1.0)


def test_the_second_order_is_trained_on_it_frozen(command, denoiser, tmp_path, monkeypatch):
    monkeypatch.setattr(hybrid, "JACOBIAN_SECONDS", 0)
    monkeypatch.setattr(runner, "LEVELS", 2)
    done = command(*SECOND, "--doc", "both", "--set", f"model.denoiser={denoiser}", "--set", "max_steps=60")
    assert done.returncode == 0, done.stderr
    ours, theirs = models.load(tmp_path / "runs/logs/both_rank4"), models.load(denoiser)
    x = torch.randn(3, 64)
    torch.testing.assert_close(ours.at(0.4).s1(x), theirs.at(0.4).s1(x))
    done = command("--runner", "LowRankHybridRunner", "--doc", "both", "--test", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "runs/logs/both_rank4/metrics.json").read_text())
    assert [level["noise"] for level in metrics["levels"]] == pytest.approx([0.2, 1.0])
    for level in metrics["levels"]:
        assert level["noisy_mse"] == pytest.approx(level["noise"] ** 2, rel=0.05)
        assert 0 < level["mse"] < level["noisy_mse"]
        assert level["negative_variances"] == 0
        assert level["log_score"] > level["log_score_isotropic"] - 1
        assert 0.5 < level["trace_ratio"] < 2  # a fresh one is off by a factor of three to nine
    pictures = {path.name for path in (tmp_path / "runs/logs/both_rank4/images").iterdir()}
    assert {"test_0.2.png", "test_1.png", "calibration_0.2.png", "walks_1.png"} <= pictures


def test_five_levels_in_equal_ratios_are_tested(tmp_path):
    config = configs.load(configs.find("mnist.yml"), runner="LowRankHybridRunner", noise=[0.2, 1.0])
    levels = hybrid.LowRankHybridRunner(config, tmp_path, World(torch.device("cpu")), tmp_path).test_levels()
    assert levels == pytest.approx([0.2, 0.299, 0.447, 0.669, 1.0], abs=1e-3)


@pytest.mark.parametrize("loss", ["centered_jacobian", "centered"])
def test_both_orders_at_once(command, loss):
    done = command(*SECOND, "--doc", "joint", "--set", f"loss={loss}")
    assert done.returncode == 0, done.stderr
    assert first_orders(done.stdout)[-1] < first_orders(done.stdout)[0]


ARRANGEMENTS = {
    "begun": (),
    "fresh": ("model.second_order=fresh", "loss=jacobian", "model.covariance_positions=false"),
    "features": ("model.second_order=features", "loss=jacobian_residual"),
    "shared": ("model.trunk=shared",),
    "learned tapers": ("model.taper_learned=true", "loss=centered"),
    "nppc": ("model.taper=null", "model.orthogonal=true", "loss=nppc"),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_resumed_run_takes_the_same_steps(command, denoiser, tmp_path, interrupted, arrangement):
    """Learning rates, levels, noise and probes: 3 steps and 3 more are 6, to the bit; and the frozen denoiser stays."""
    few = ("checkpoint_minutes=0", "max_steps=6", "batch_size=16")
    changes = (*ARRANGEMENTS[arrangement], f"model.denoiser={denoiser}", *few)
    options = [*SECOND, *(part for text in changes for part in ("--set", text))]
    assert command(*options, "--doc", "whole").returncode == 0
    folder = tmp_path / "runs/logs/whole_rank4"
    whole = checkpoint.read(folder / "ckpt/checkpoint.pth")
    half = tmp_path / "runs/logs/half_rank4"

    with interrupted():
        assert command(*options, "--doc", "half").returncode == 130
    done = command("--runner", "LowRankHybridRunner", "--doc", "half", "--resume_training", "--device", "cpu")
    assert "resuming from" in done.stdout
    resumed = checkpoint.read(half / "ckpt/checkpoint.pth")
    assert resumed["step"] == whole["step"] == 6
    for part in ("model", "ema"):
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), name
    frozen = models.load(denoiser).network.state_dict()
    kept = [torch.equal(value, whole["model"][name]) for name, value in frozen.items() if "conv_out" not in name]
    assert all(kept) if arrangement != "shared" else not any(kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.second_order=features", "model.trunk=shared"], "second_order is features and model.trunk is shared"),
        (["loss=nppc"], "loss is nppc; model.network: unet and model.orthogonal: true are expected"),
        (["model.orthogonal=true"], "model.orthogonal is true and model.taper is given"),
        (["model.taper_learned=true", "model.taper=null"], "model.taper_learned is true and model.taper is not given"),
    ],
)
def test_what_does_not_go_together(changes, message):
    with pytest.raises(configs.UserError, match=message):
        configs.load(configs.find("mnist.yml"), changes, runner="LowRankHybridRunner")
