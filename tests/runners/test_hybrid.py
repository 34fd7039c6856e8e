"""Second-order runs, small enough for seconds."""

import functools
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import inference
import models
from configs import Config
from models import DiagonalPlusLowRank
from runners import folder as run_folder
from runners.hybrid import LowRankHybridRunner
from runners.world import World

TINY = [
    *("--config", "digits_low_rank.yml", "--device", "cpu", "--doc", "tiny", "--ni", "--noise", "0.5"),
    *("--set", "model.ngf=16", "--rank", "4", "--set", "max_steps=60", "--set", "print_every=20", "--set", "lr=0.003"),
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
def test_test_writes_figures_and_pictures(command, tmp_path, runner):
    assert command("--runner", runner, *TINY).returncode == 0
    done = command("--runner", runner, "--doc", "tiny", "--device", "cpu", "--test")
    assert done.returncode == 0, done.stderr
    low_rank = runner == "LowRankHybridRunner"
    folder = tmp_path / "runs/logs" / ("tiny_rank4" if low_rank else "tiny")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 359
    assert metrics["jacobian_of_s1"]["images"] in range(1, 360)
    assert metrics["negative_variances"] == 0
    for figures in (metrics, metrics["jacobian_of_s1"]):
        assert 0.1 < figures["trace_ratio"] < 10
        assert figures["coverage_50"] < figures["coverage_90"] < figures["coverage_95"] < 1
        assert ("captured_5" in figures) == low_rank
        if low_rank:
            assert 0 < figures["captured_1"] < figures["captured_5"] < figures["captured_10"] < 1
            assert len(figures["component_ratios"]) == 5
    for name in ("test", "calibration"):
        with Image.open(folder / f"images/{name}.png") as image:
            assert image.width > 500


@pytest.mark.parametrize(
    ("runner", "name", "shape"),
    [("LowRankHybridRunner", "unet_mnist.yml", (12, 28, 28)),
     ("DoubleDiagonalHybridRunner", "unet_cifar10.yml", (12, 32, 32, 3))],
)  # fmt: skip
def test_the_published_commands_run(command, tmp_path, monkeypatch, runner, name, shape):
    baseline = functools.partial(inference.jacobian_predictions, seconds=1)
    monkeypatch.setattr(inference, "jacobian_predictions", baseline)
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    given = ["dataset=npz", "data.dataset=npz", "data_dir=own.npz", "model.ngf=4", "max_steps=2", "batch_size=4"]
    settings = [part for text in given for part in ("--set", text)]
    call = ["--runner", runner, "--doc", "published", "--noise", "0.5", "--ni", "--device", "cpu"]
    done = command(*call, "--config", name, *settings)
    assert done.returncode == 0, done.stderr
    assert command("--runner", runner, "--doc", "published", "--test", "--device", "cpu").returncode == 0
    folder = next((tmp_path / "runs/logs").glob("published*"))
    assert folder.name == ("published_rank50" if runner == "LowRankHybridRunner" else "published")
    assert yaml.safe_load((folder / "config.yml").read_text())["rank"] == 50
    s1, s2, config = models.load(folder)
    x = torch.zeros(1, config.data.channels * config.data.image_size**2)
    assert s2(x).diagonal.shape == s1(x).shape == x.shape


def test_the_gradient_of_the_second_order_reaches_s1_as_published_and_with_centring_not():
    import losses

    p = losses.perturb(torch.randn(3, 5), 0.5)
    for loss, reaches in ((losses.d2sm, True), (losses.d2sm_centered, False)):
        s1 = torch.randn(3, 5, requires_grad=True)
        s2 = DiagonalPlusLowRank(torch.randn(3, 5, requires_grad=True))
        loss(s1, s2, p).backward()
        assert (s1.grad is not None) == reaches


def test_the_weight_of_a_point_is_one_over_its_squared_trace(tmp_path):
    s2 = DiagonalPlusLowRank(torch.tensor([[0.0, 0.0], [-4.0, -4.0], [4.0, 0.0]]), torch.ones(3, 2, 1))
    traces = torch.tensor([2.5, 0.5, 3.5])  # σ = ½: tr(σ² s2 + I) is 2 + ½, ½ (the noise's share gone), and 1 + 2 + ½
    negative = DiagonalPlusLowRank(torch.full((3, 2), -100.0))
    for covariance, t in (("positive", traces), ("free", traces.mean().expand(3))):
        config = Config(batch_size=4, model={"covariance": covariance}, rank=1)
        runner = LowRankHybridRunner(config, tmp_path, World(torch.device("cpu")), tmp_path)
        torch.testing.assert_close(runner.precision(s2), 2 / t**2)
        torch.testing.assert_close(runner.precision(negative), torch.full((3,), 2 / 0.02**2))


def test_the_folder_of_a_low_rank_run_is_found_by_its_rank(tmp_path):
    for name in ("a_rank3", "a_rank50", "a_rank50.1", "b_rank7", "c"):
        (tmp_path / "logs" / name).mkdir(parents=True)
    (tmp_path / "logs/c/config.yml").write_text("")
    assert run_folder.existing(str(tmp_path), "b", None).name == "b_rank7"
    assert run_folder.existing(str(tmp_path), "a", 50).name == "a_rank50"
    assert run_folder.existing(str(tmp_path), "c", None).name == "c"
    with pytest.raises(ValueError, match="which one of a_rank3, a_rank50"):
        run_folder.existing(str(tmp_path), "a", None)
    with pytest.raises(ValueError, match="no run folder"):
        run_folder.existing(str(tmp_path), "b", 8)


def test_objectives_that_do_not_fit(command):
    done = command("--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--set", "loss=centered")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "loss: UnetDSMRunner has no centered; one of dsm, dsm_vr" in done.stderr


def test_rank_is_the_files_unless_the_flag_is_given():
    assert LowRankHybridRunner.folder_name("x", Config(rank=7)) == "x_rank7"
