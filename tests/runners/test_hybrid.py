"""Second-order runs, small enough for seconds."""

import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import losses
import models
from configs import Config
from linalg import DiagonalPlusLowRank
from runners import hybrid
from runners.distributed import World
from runners.hybrid import LowRankHybridRunner
from runners.metrics import read_metrics
from runners.state import TrainingState

TINY = [
    *("--config", "digits_low_rank.yml", "--device", "cpu", "--doc", "tiny", "--ni", "--noise", "0.5"),
    *("--set", "model.ngf=16", "--rank", "4", "--set", "max_steps=30", "--set", "print_every=10", "--set", "lr=0.003"),
]


@pytest.mark.parametrize(
    ("loss", "covariance"),
    [("dsm", "free"), ("dsm_vr", "free"), ("centered", "free"), ("centered", "positive"), ("centered_vr", "positive"),
     ("jacobian", "free")],
)  # fmt: skip
@pytest.mark.parametrize("runner", ["LowRankHybridRunner", "DoubleDiagonalHybridRunner"])
@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_every_objective_trains(command, tmp_path, runner, trunk, loss, covariance):
    settings = [f"loss={loss}", f"model.covariance={covariance}", f"model.trunk={trunk}"]
    done = command("--runner", runner, *TINY, *(part for text in settings for part in ("--set", text)))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    for name in ("loss ", "first_order "):
        values = [float(line.partition(name)[2].partition(",")[0]) for line in lines]
        assert values[-1] < values[0]


@pytest.mark.parametrize("runner", ["LowRankHybridRunner", "DoubleDiagonalHybridRunner"])
def test_test_writes_metrics_and_pictures(command, small_run, tmp_path, runner):
    low_rank = runner == "LowRankHybridRunner"
    folder = tmp_path / "runs/logs" / ("small_rank4" if low_rank else "small")
    shutil.copytree(small_run(runner), folder)
    done = command("--runner", runner, "--doc", "small", "--device", "cpu", "--test")
    assert done.returncode == 0, done.stderr
    metrics = read_metrics(folder)
    assert metrics["images"] == 359
    assert metrics["jacobian_of_s1"]["images"] in range(1, 360)
    assert metrics["negative_variances"] == 0
    assert metrics["log_score_images"] == 359
    assert metrics["log_score"] > metrics["log_score_isotropic"]
    assert (metrics["log_score"] == pytest.approx(metrics["log_score_diagonal"], abs=1e-6)) != low_rank
    assert 0 < metrics["ks_whitened"] < 0.5
    for part in (metrics, metrics["jacobian_of_s1"]):
        assert 0.1 < part["trace_ratio"] < 10
        assert part["coverage_50"] < part["coverage_90"] < part["coverage_95"] < 1
        assert -1 <= part["correlation_by_pixel"] <= 1
        assert ("captured_5" in part) == low_rank
        if low_rank:
            assert 0 < part["captured_1"] < part["captured_5"] < part["captured_10"] < 1
            assert len(part["component_ratios"]) == 5
    for name in ("test", "calibration"):
        with Image.open(folder / f"images/{name}.png") as image:
            assert image.width > 500


@pytest.mark.parametrize(
    ("runner", "name", "shape"),
    [("LowRankHybridRunner", "unet_mnist.yml", (12, 28, 28)),
     ("DoubleDiagonalHybridRunner", "unet_cifar10.yml", (12, 32, 32, 3))],
)  # fmt: skip
def test_the_published_commands_run(command, tmp_path, monkeypatch, runner, name, shape):
    monkeypatch.setattr(hybrid, "JACOBIAN_SECONDS", 0)
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    changes = ["dataset=npz", "data.dataset=npz", "data_dir=own.npz", "model.ngf=4", "max_steps=2", "batch_size=4"]
    settings = [part for text in changes for part in ("--set", text)]
    call = ["--runner", runner, "--doc", "published", "--noise", "0.5", "--ni", "--device", "cpu"]
    done = command(*call, "--config", name, *settings)
    assert done.returncode == 0, done.stderr
    assert command("--runner", runner, "--doc", "published", "--test", "--device", "cpu").returncode == 0
    folder = next((tmp_path / "runs/logs").glob("published*"))
    assert folder.name == ("published_rank50" if runner == "LowRankHybridRunner" else "published")
    assert yaml.safe_load((folder / "config.yml").read_text())["rank"] == 50
    model = models.load(folder)
    x = torch.zeros(1, math.prod(model.shape))
    s1, s2 = model.at(0.5)(x)
    assert s2.diagonal().shape == s1.shape == x.shape


@pytest.mark.parametrize("covariance", ["free", "positive"])
def test_the_weight_of_a_point_is_pooled_where_the_covariance_is_free(tmp_path, covariance):
    """The loss of a step is that of the formulas, with a weight for each point or their mean trace for all."""
    settings = {"covariance": covariance, "ngf": 4, "head": "low_rank"}
    config = Config(runner="LowRankHybridRunner", batch_size=4, loss="centered", model=settings, rank=2)
    world = World(torch.device("cpu"))
    runner = LowRankHybridRunner(config, tmp_path, world, tmp_path)
    state = TrainingState(config, (1, 8, 8), world)
    clean, noise = torch.rand(4, 64), torch.randn(4, 64)
    p = losses.perturb(clean, 0.5, noise=noise)
    s1, s2 = state.network(p.inputs, p.levels)
    t = (0.25 * s2.dense() + torch.eye(64)).diagonal(dim1=1, dim2=2).sum(1)
    if covariance == "free":
        t = t.mean().expand(4)
    second_order = losses.d2sm_centered(s1, s2, p, (64 / t**2).detach())
    ours = runner.batch_losses(state, clean, noise)
    torch.testing.assert_close(ours["second_order"], second_order)
    torch.testing.assert_close(ours["loss"], losses.dsm(s1, p) / 0.25 + second_order)


@pytest.mark.parametrize(("loss", "factor"), [("dsm", 10), ("dsm_vr", 10), ("jacobian", 1)])
def test_the_total_of_a_step(tmp_path, loss, factor):
    """`10 L1/σ² + L2` where it is published, `L1/σ² + L2` of the others."""
    config = Config(runner="LowRankHybridRunner", batch_size=3, loss=loss, model={"ngf": 4}, rank=2)
    world = World(torch.device("cpu"))
    runner = LowRankHybridRunner(config, tmp_path, world, tmp_path)
    state = TrainingState(config, (1, 8, 8), world)
    parts = runner.batch_losses(state, torch.rand(3, 64), torch.randn(3, 64))
    torch.testing.assert_close(parts["loss"], factor * parts["first_order"] / 0.25 + parts["second_order"])


def test_the_gradient_of_the_second_order_reaches_s1_as_published_and_with_centring_not():
    p = losses.perturb(torch.randn(3, 5), 0.5)
    for loss, reaches in ((losses.d2sm, True), (losses.d2sm_centered, False)):
        s1 = torch.randn(3, 5, requires_grad=True)
        s2 = DiagonalPlusLowRank(torch.randn(3, 5, requires_grad=True))
        loss(s1, s2, p).backward()
        assert (s1.grad is not None) == reaches


def test_objectives_that_do_not_fit(command):
    done = command("--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--set", "loss=centered")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "loss: UnetDSMRunner has no centered; one of dsm, dsm_vr" in done.stderr


def test_rank_is_the_files_unless_the_flag_is_given():
    assert LowRankHybridRunner.folder_name("x", Config(rank=7)) == "x_rank7"
