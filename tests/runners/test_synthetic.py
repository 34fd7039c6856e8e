"""Runs on a density whose exact scores are known."""

import json

import pytest
import torch
from PIL import Image

import datasets
import models
from configs import Config
from models import checkpoint
from runners.synthetic import score_errors

CALL = ["--runner", "SyntheticRunner", "--config", "synthetic/plane.yml", "--doc", "plane", "--device", "cpu", "--ni",
        "--set", "data.density=gaussians", "--set", "model.ngf=64", "--set", "data.size=4096",
        "--set", "model.ema_rate=0.98", "--set", "lr=0.003", "--set", "max_steps=600"]  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "head", "allowed"),
    [
        ("dsm", "none", 0.2),
        ("dsm", "low_rank", 0.5),
        ("centered", "low_rank", 0.3),
        ("centered_vr", "low_rank", 0.3),
        ("jacobian", "low_rank", 0.3),
    ],
)
def test_learned_scores_come_near_the_exact_ones(command, tmp_path, loss, head, allowed):
    """Relative squared errors after a few seconds; predicting 0 has an error of 1."""
    done = command(*CALL, "--set", f"loss={loss}", "--set", f"model.head={head}")
    assert done.returncode == 0, done.stderr
    assert command("--runner", "SyntheticRunner", "--doc", "plane", "--test", "--device", "cpu").returncode == 0
    folder = tmp_path / "runs/logs/plane"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["relative_s1_error"] < 0.1
    assert metrics["relative_s2_error"] < allowed
    assert metrics["images"] == 4096
    with Image.open(folder / "images/test.png") as image:
        assert image.height > 1000


def test_curves_have_the_exact_errors_and_a_run_goes_on(command, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert command(*CALL, "--set", "max_epochs=20").returncode == 0
    folder = tmp_path / "runs/logs/plane"
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    errors = events.Scalars("test/relative_s2_error")
    assert [event.step for event in errors] == [80, 160]
    assert 0 < errors[1].value < errors[0].value
    call = ["--runner", "SyntheticRunner", "--doc", "plane", "--device", "cpu", "--resume_training"]
    assert command(*call, "--set", "max_epochs=30").returncode == 0
    assert checkpoint.read(folder / "ckpt/checkpoint.pth")["step"] == 240


def test_a_point_is_never_drawn_twice_and_always_the_same():
    config = Config(data={"dataset": "Synthetic", "density": "logistics", "dimension": 5, "size": 64})
    train, test = datasets.load(config, "train"), datasets.load(config, "test")
    rows = [datasets.epoch_order(64, 16, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    points = torch.cat([batch for order in rows for batch in datasets.batches(train, order)])
    points = torch.cat([points, *datasets.batches(test, rows[0])])
    assert points.shape == (256, 5)
    assert len(points.unique(dim=0)) == 256
    again = torch.cat(list(datasets.batches(train, rows[0])))
    assert torch.equal(again, points[:64])
    assert train.draw(torch.tensor([3])).shape == (1, 5)


def test_errors_of_the_exact_scores_are_zero():
    config = Config(data={"dataset": "Synthetic", "density": "two_moons", "size": 1000})
    data = datasets.load(config, "test")

    class Exact(torch.nn.Module):
        def s1(self, x):
            return data.density.s1(x, 0.3)

        def forward(self, x):
            return self.s1(x), models.DiagonalPlusLowRank.from_dense(data.density.s2(x, 0.3))

    class WithoutSecondOrder(Exact):
        def forward(self, x):
            return self.s1(x), None

    for model in (Exact(), WithoutSecondOrder()):
        errors = score_errors(model, data, 0.3, 0, 1000)
        assert max(errors.values()) < 1e-3


def test_a_head_for_each_configuration():
    for head, rank in (("none", None), ("diagonal", 0), ("low_rank", 3)):
        config = Config(
            runner="SyntheticRunner", rank=3, model={"head": head, "ngf": 8},
            data={"dataset": "Synthetic", "density": "normal", "dimension": 10},
        )  # fmt: skip
        s1, s2 = models.build(config)
        assert s1(torch.zeros(2, 10)).shape == (2, 10)
        assert (s2 is None) == (rank is None)
        if rank is not None:
            factor = s2(torch.zeros(2, 10)).factor
            assert (factor is None) == (rank == 0)
            assert rank == 0 or factor.shape == (2, 10, 3)
