"""Whole runs on the digits, small enough for seconds."""

import errno
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import models
from models import checkpoint
from runners.metrics import read_metrics
from tests.conftest import ROOT
from tests.runners.processes import start

TINY = [
    *("--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--device", "cpu", "--doc", "tiny"),
    *("--set", "model.network=mlp", "--set", "model.ngf=128", "--set", "batch_size=128", "--set", "max_epochs=2"),
    *("--set", "data.random_flip=true", "--set", "model.ema_rate=0.9", "--set", "lr=0.01", "--set", "print_every=1"),
]
SAME_RUN = ["--runner", "UnetDSMRunner", "--doc", "tiny", "--device", "cpu"]
STEPS = 2 * (1438 // 128)


def read(folder, name: str = "checkpoint.pth") -> dict:
    return checkpoint.read(folder / "runs/logs/tiny/ckpt" / name)


def same(a, b) -> bool:
    """Whether two trees of containers and tensors are identical to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="session")
def unbroken(once):
    """The folder of a run that nothing disturbed, in a process of its own."""

    def train(folder: Path) -> None:
        code, _, err = start(folder, *TINY, "--noise", "0.5", "--ni", "--comment", "a note").end()
        assert (code, err) == (0, "")

    return once("unbroken", train)


class TestAFinishedRun:
    def test_folder(self, unbroken):
        folder = unbroken / "runs/logs/tiny"
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        events = {name for name in files if name.startswith("tensorboard/events")}
        assert len(events) == 1
        assert files - events == {
            *("config.yml", "environment.yml", "stdout.txt", "lock"),
            *("ckpt/checkpoint.pth", "ckpt/checkpoint_previous.pth"),
            *("ckpt/checkpoint_2.pth", "images/denoised_2.png", "images/source_2.png"),
        }

    def test_it_can_be_traced_back(self, unbroken):
        folder = unbroken / "runs/logs/tiny"
        config = yaml.safe_load((folder / "config.yml").read_text())
        kept = {"noise": 0.5, "seed": 1234, "comment": "a note", "runner": "UnetDSMRunner", "max_epochs": 2}
        assert config.items() >= kept.items()
        environment = yaml.safe_load((folder / "environment.yml").read_text())
        assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
        assert "--noise 0.5" in environment["command"]
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert environment["git_commit"] == (commit.stdout.strip() or None)

    def test_log(self, unbroken):
        log = (unbroken / "runs/logs/tiny/stdout.txt").read_text()
        assert f"step {STEPS}/{STEPS}" in log
        assert "images/s" in log
        assert "0:00:00 left" in log
        out = (unbroken / "out.txt").read_text()
        assert f"step {STEPS}/{STEPS}" in out  # no terminal, so the lines take the bar's place

    def test_curves(self, unbroken):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(unbroken / "runs/logs/tiny/tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        losses = events.Scalars("train/loss")
        assert [event.step for event in losses] == list(range(1, STEPS + 1))
        assert losses[-1].value < 0.85 * losses[0].value
        assert set(events.Tags()["images"]) == {"source", "denoised"}

    def test_pictures(self, unbroken):
        with Image.open(unbroken / "runs/logs/tiny/images/denoised_2.png") as image:
            assert image.size == (398, 398)  # six times six digits of 64 pixels, two between
            assert image.convert("L").getextrema()[1] > 200

    def test_test(self, unbroken, command, tmp_path):
        shutil.copytree(unbroken / "runs", tmp_path / "runs")
        done = command(*SAME_RUN, "--test")
        assert done.returncode == 0, done.stderr
        metrics = read_metrics(tmp_path / "runs/logs/tiny")
        assert "psnr_gain" in done.stdout
        assert metrics["images"] == 359
        assert metrics["noisy_mse"] == pytest.approx(0.25, rel=0.03)
        # ‖s1 + z/σ‖² = ‖x − x̂‖²/σ⁴: the two metrics measure the same error
        assert metrics["dsm_loss"] == pytest.approx(64 * metrics["mse"] / 0.5**4, rel=1e-4)
        assert metrics["psnr"] - metrics["noisy_psnr"] == pytest.approx(metrics["psnr_gain"])
        with Image.open(tmp_path / "runs/logs/tiny/images/test.png") as image:
            assert image.width > 1000

    def test_load_takes_the_averaged_weights(self, unbroken):
        model = models.load(unbroken / "runs/logs/tiny")
        state = read(unbroken)
        assert model.at(0.5).s2 is None
        assert model.config.noise == 0.5
        assert same(dict(model.network.state_dict()), dict(state["ema"]))
        assert not same(state["ema"], state["model"])

    def test_layout_of_a_checkpoint(self, unbroken):
        keys = ["model", "ema", "ema_updates", "optimizer", "step", "epoch", "seen", "order", "generator",
                "random"]  # fmt: skip
        state = read(unbroken)
        assert list(state) == keys
        assert (state["step"], state["epoch"], state["seen"], state["ema_updates"]) == (STEPS, 2, 0, STEPS)
        assert state["generator"][0] == "cpu"

    def test_there_is_nothing_left_to_resume(self, unbroken, command, tmp_path):
        shutil.copytree(unbroken / "runs", tmp_path / "runs")
        done = command(*SAME_RUN, "--resume_training")
        assert done.returncode == 0
        assert "nothing left to do" in done.stdout
        assert same(read(tmp_path), read(unbroken))


def resume_and_compare(command, folder, unbroken) -> int:
    """The step from which the run in `folder` was resumed, to the same end as the undisturbed one."""
    done = command(*SAME_RUN, "--resume_training")
    assert done.returncode == 0, done.stderr
    ours, theirs = read(folder), read(unbroken)
    for key in ("model", "ema", "ema_updates", "optimizer", "generator", "step", "epoch", "seen", "order"):
        assert same(ours[key], theirs[key]), key
    return int(done.stdout.partition("resuming from ")[2].partition("step ")[2].partition(",")[0])


KILLED = {  # each step writes a checkpoint, after two files of text; an epoch is 11 steps
    "mid-epoch": ("step", 6, 5),
    "a later epoch": ("step", 15, 14),
    "nothing written yet": ("write", 8, 7),
    "before it is on the disk": ("flush", 10, 7),
    "between the two renames": ("rename", 17, 7),
}


@pytest.mark.parametrize("moment", KILLED)
def test_killed_and_resumed_is_bit_identical(moment, unbroken, command, tmp_path):
    """SIGKILL to the process; then --resume_training, to the weights of the run that nothing disturbed."""
    event, number, last_saved = KILLED[moment]
    call = [*TINY, "--noise", "0.5", "--ni", "--set", "checkpoint_minutes=0"]
    code, _, err = start(tmp_path, *call, stop=(signal.SIGKILL, event, number)).end()
    assert code == -signal.SIGKILL, err
    checkpoints = tmp_path / "runs/logs/tiny/ckpt"
    assert (checkpoints / "checkpoint.pth.tmp").exists() == (event != "step")
    assert (checkpoints / "checkpoint.pth").exists() == (event != "rename")
    assert resume_and_compare(command, tmp_path, unbroken) == last_saved


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_first(number, code, unbroken, command, tmp_path):
    call = [*TINY, "--noise", "0.5", "--ni"]
    exit_code, out, err = start(tmp_path, *call, stop=(number, "step", 5)).end()
    assert (exit_code, err) == (code, "")
    assert f"{number.name}: stopped at step 5; " in out
    assert read(tmp_path)["step"] == 5
    assert resume_and_compare(command, tmp_path, unbroken) == 5


def test_resume_falls_back_where_the_last_checkpoint_is_truncated(unbroken, command, tmp_path):
    assert command(*TINY, "--noise", "0.5", "--ni", "--set", "max_steps=15").returncode == 0
    path = tmp_path / "runs/logs/tiny/ckpt/checkpoint.pth"
    path.write_bytes(path.read_bytes()[:1000])
    done = command(*SAME_RUN, "--resume_training", "--set", "max_steps=40")
    assert done.returncode == 0, done.stderr
    assert re.search("truncated, corrupt or not a checkpoint; .* the one before it", done.stdout)
    assert same(read(tmp_path)["model"], read(unbroken)["model"])


def test_a_loss_that_is_not_finite_stops_the_run(command, tmp_path):
    done = command(*TINY, "--ni", "--set", "lr=1e20", "--set", "checkpoint_minutes=0")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the loss is " in done.stderr
    assert "at step " in done.stderr
    assert "the last good checkpoint is runs/logs/tiny/ckpt/checkpoint.pth" in done.stderr
    step = int(done.stderr.partition("at step ")[2].partition(";")[0])
    assert read(tmp_path)["step"] == step - 1
    assert "the loss is " in (tmp_path / "runs/logs/tiny/stdout.txt").read_text()


def test_an_existing_folder_is_moved_aside(command, tmp_path):
    for _ in range(3):
        done = command(*TINY, "--ni", "--set", "max_steps=1")
        assert done.returncode == 0, done.stderr
        (tmp_path / "runs/logs/tiny/note.txt").write_text("kept")
    assert sorted(path.name for path in (tmp_path / "runs/logs").iterdir()) == ["tiny", "tiny.1", "tiny.2"]
    assert all((tmp_path / "runs/logs" / name / "note.txt").exists() for name in ("tiny.1", "tiny.2"))
    done = command(*TINY)
    assert done.returncode == 2
    assert "runs/logs/tiny: exists; give another --doc, --ni to move it aside, or --resume_training" in done.stderr
    done = command(*TINY, "--ni", "--set", "batch_size=5000")  # a mistake is found before anything is moved
    assert done.returncode == 2
    assert sorted(path.name for path in (tmp_path / "runs/logs").iterdir()) == ["tiny", "tiny.1", "tiny.2"]


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("y", 0)])
def test_the_user_is_asked(command, tmp_path, monkeypatch, answer, code):
    (tmp_path / "runs/logs/tiny").mkdir(parents=True)
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        done = command(*TINY, "--set", "max_steps=1")
    os.close(ours)
    assert done.returncode == code
    assert "runs/logs/tiny exists. Move it to runs/logs/tiny.1 and start anew? [y/N]" in done.stdout
    assert (tmp_path / "runs/logs/tiny.1").exists() == (answer == "y")


def test_a_full_disk_is_one_line(command, monkeypatch):
    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    assert command(*TINY, "--ni", "--set", "max_steps=1").returncode == 0
    monkeypatch.setattr(Path, "write_text", full)
    done = command(*SAME_RUN, "--test")
    assert done.returncode == 2
    assert done.stderr == "main.py: runs/logs/tiny/metrics.json: No space left on device; make room and try again\n"


def test_a_run_folder_has_its_own_configuration(command, unbroken, tmp_path):
    (tmp_path / "runs").symlink_to(unbroken / "runs")
    done = command(*SAME_RUN, "--test", "--noise", "0.3")
    assert done.returncode == 2
    assert "--noise 0.3: runs/logs/tiny was trained with 0.5; leave it out, or give that" in done.stderr


def test_a_test_loads_no_training_data(command, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(40, 8, 8), dtype=np.uint8)
    for split in ("train", "test"):
        np.savez(tmp_path / f"own_{split}.npz", images=images)
    settings = ["data.dataset=npz", "data_dir=own", "max_steps=1", "batch_size=40"]
    assert command(*TINY, "--ni", *(part for text in settings for part in ("--set", text))).returncode == 0
    (tmp_path / "own_train.npz").unlink()
    done = command(*SAME_RUN, "--test")
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "runs/logs/tiny")["images"] == 40
    done = command(*SAME_RUN, "--resume_training", "--set", "max_steps=2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "own_train.npz" in done.stderr


def test_data_that_are_missing_are_found_before_anything_is_moved(command, tmp_path):
    images = np.zeros((40, 8, 8), np.uint8)
    settings = ["data.dataset=npz", "data_dir=own", "max_steps=1", "batch_size=40"]
    call = [*TINY, "--ni", *(part for text in settings for part in ("--set", text))]
    for split in ("train", "test"):
        done = command(*call)
        assert done.returncode == 2
        assert f"own_{split}.npz" in done.stderr
        assert not (tmp_path / "runs").exists()
        np.savez(tmp_path / f"own_{split}.npz", images=images)


@pytest.mark.parametrize(
    "options", [["--set", "precision=bf16"], ["--set", "channels_last=true"], ["--set", "clip_grad=1.0"],
                ["--set", "loss=dsm_vr", "--noise", "0.01"]]
)  # fmt: skip
def test_options_of_training(command, tmp_path, options):
    convolutions = ["model.network=refinenet", "model.ngf=4", "lr=0.002", "max_steps=12", "batch_size=64"]
    done = command(*TINY, "--ni", *(part for text in convolutions for part in ("--set", text)), *options)
    assert done.returncode == 0, done.stderr
    losses = [
        float(line.partition("loss ")[2].partition(",")[0]) for line in done.stdout.splitlines() if "loss " in line
    ]
    assert losses[-1] < losses[0]
