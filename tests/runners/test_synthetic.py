"""Runs on a density whose exact scores are known."""

import shutil

import pytest
from PIL import Image

from models import checkpoint
from runners.metrics import read_metrics

CALL = ["--runner", "SyntheticRunner", "--config", "synthetic/plane.yml", "--doc", "plane", "--device", "cpu", "--ni",
        "--set", "data.density=gaussians", "--set", "model.ngf=64", "--set", "data.size=4096",
        "--set", "model.ema_rate=0.98", "--set", "lr=0.006", "--set", "max_steps=300"]  # fmt: skip


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
def test_learned_scores_come_near_the_exact_ones(command, small_run, tmp_path, loss, head, allowed):
    """Relative squared errors after a few seconds; predicting 0 has an error of 1."""
    folder = tmp_path / "runs/logs/plane"
    if (loss, head) == ("centered", "low_rank"):
        shutil.copytree(small_run("SyntheticRunner"), folder)
    else:
        done = command(*CALL, "--set", f"loss={loss}", "--set", f"model.head={head}")
        assert done.returncode == 0, done.stderr
    assert command("--runner", "SyntheticRunner", "--doc", "plane", "--test", "--device", "cpu").returncode == 0
    metrics = read_metrics(folder)
    assert metrics["relative_s1_error"] < 0.1
    assert metrics["relative_s2_error"] < allowed
    assert metrics["images"] == 4096
    with Image.open(folder / "images/test.png") as image:
        assert image.height > 1000


def test_curves_have_the_exact_errors_and_a_run_continues(command, tmp_path):
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
