"""Whole runs on the digits, small enough for seconds."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import models
from models import checkpoint
from tests.conftest import ROOT

TINY = [
    *("--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--device", "cpu", "--doc", "tiny"),
    *("--set", "model.ngf=4", "--set", "batch_size=128", "--set", "max_epochs=3", "--set", "print_every=1"),
    *("--set", "data.random_flip=true", "--set", "model.ema_rate=0.9"),
]
SAME_RUN = ["--runner", "UnetDSMRunner", "--doc", "tiny", "--device", "cpu"]
STEPS = 3 * (1438 // 128)


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


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run that nothing disturbed, its folder and its output."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", *TINY, "--noise", "0.5", "--ni", "--comment", "a note"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def start(folder, *arguments: str) -> subprocess.Popen:
    call = [sys.executable, ROOT / "main.py", *arguments]
    return subprocess.Popen(call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


class TestAFinishedRun:
    def test_folder(self, unbroken):
        folder = unbroken[0] / "runs/logs/tiny"
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        events = {name for name in files if name.startswith("tensorboard/events")}
        assert len(events) == 1
        assert files - events == {
            *("config.yml", "environment.yml", "stdout.txt", "ckpt/checkpoint.pth", "ckpt/checkpoint_previous.pth"),
            *("ckpt/checkpoint_3.pth", "images/denoised_3.png", "images/source_3.png"),
        }

    def test_it_can_be_traced_back(self, unbroken):
        folder = unbroken[0] / "runs/logs/tiny"
        config = yaml.safe_load((folder / "config.yml").read_text())
        kept = {"noise": 0.5, "seed": 1234, "comment": "a note", "runner": "UnetDSMRunner", "max_epochs": 3}
        assert config.items() >= kept.items()
        environment = yaml.safe_load((folder / "environment.yml").read_text())
        assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
        assert "--noise 0.5" in environment["command"]
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert environment["git_commit"] == (commit.stdout.strip() or None)

    def test_log(self, unbroken):
        folder, done = unbroken
        log = (folder / "runs/logs/tiny/stdout.txt").read_text()
        assert f"step {STEPS}/{STEPS}" in log
        assert "images/s" in log
        assert "0:00:00 left" in log
        assert f"step {STEPS}/{STEPS}" in done.stdout  # no terminal, so the lines take the bar's place
        assert done.stderr == ""

    def test_curves(self, unbroken):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(unbroken[0] / "runs/logs/tiny/tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        losses = events.Scalars("train/loss")
        assert [event.step for event in losses] == list(range(1, STEPS + 1))
        assert losses[-1].value < 0.7 * losses[0].value
        assert set(events.Tags()["images"]) == {"source", "denoised"}

    def test_pictures(self, unbroken):
        with Image.open(unbroken[0] / "runs/logs/tiny/images/denoised_3.png") as image:
            assert image.size == (398, 398)  # six times six digits of 64 pixels, two between
            assert image.convert("L").getextrema()[1] > 200

    def test_test(self, unbroken):
        folder, _ = unbroken
        done = subprocess.run(
            [sys.executable, ROOT / "main.py", *SAME_RUN, "--test"],
            cwd=folder, capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
        metrics = json.loads((folder / "runs/logs/tiny/metrics.json").read_text())
        assert "psnr_gain" in done.stdout
        assert metrics["images"] == 359
        assert metrics["noisy_mse"] == pytest.approx(0.25, rel=0.03)
        # ‖s1 + z/σ‖² = ‖x − x̂‖²/σ⁴: the two figures measure the same error
        assert metrics["dsm_loss"] == pytest.approx(64 * metrics["mse"] / 0.5**4, rel=1e-4)
        assert metrics["psnr"] - metrics["noisy_psnr"] == pytest.approx(metrics["psnr_gain"])
        with Image.open(folder / "runs/logs/tiny/images/test.png") as image:
            assert image.width > 1000

    def test_load_takes_the_averaged_weights(self, unbroken):
        folder = unbroken[0]
        s1, s2, config = models.load(folder / "runs/logs/tiny")
        state = read(folder)
        assert s2 is None
        assert config.noise == 0.5
        assert same(dict(s1.state_dict()), {k.removeprefix("s1."): v for k, v in state["ema"].items()})
        assert not same(state["ema"], state["model"])

    def test_there_is_nothing_left_to_resume(self, unbroken):
        before = read(unbroken[0])
        process = start(unbroken[0], *SAME_RUN, "--resume_training")
        assert "nothing left to do" in process.communicate(timeout=120)[0]
        assert process.returncode == 0
        assert same(before, read(unbroken[0]))


def resume_and_compare(folder, unbroken) -> str:
    process = start(folder, *SAME_RUN, "--resume_training")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    ours, theirs = read(folder), read(unbroken[0])
    for key in ("model", "ema", "optimizer", "generator", "step", "epoch", "position"):
        assert same(ours[key], theirs[key]), key
    return out


@pytest.mark.parametrize("moment", ["mid-epoch", "a later epoch", "while writing"])
def test_killed_and_resumed_is_bit_identical(moment, unbroken, tmp_path):
    """SIGKILL to the process; then --resume_training, to the weights of the run that nothing disturbed."""
    process = start(tmp_path, *TINY, "--noise", "0.5", "--ni", "--set", "checkpoint_minutes=0")
    folder = tmp_path / "runs/logs/tiny"
    log, temporary = folder / "stdout.txt", folder / "ckpt/checkpoint.pth.tmp"

    def reached(step: int) -> bool:
        return log.exists() and f"step {step}/" in log.read_text()

    moments = {
        "mid-epoch": lambda: reached(5),
        "a later epoch": lambda: reached(17),
        "while writing": lambda: reached(8) and temporary.exists(),
    }
    wait_for(moments[moment], process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    out = resume_and_compare(tmp_path, unbroken)
    step = int(out.partition("going on from ")[2].partition("step ")[2].partition(",")[0])
    assert 4 <= step < STEPS
    assert step % 11


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_first(number, code, unbroken, tmp_path):
    process = start(tmp_path, *TINY, "--noise", "0.5", "--ni")
    log = tmp_path / "runs/logs/tiny/stdout.txt"
    wait_for(lambda: log.exists() and "step 4/" in log.read_text(), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    step = int(out.rpartition("stopped at step ")[2].partition(";")[0])
    assert read(tmp_path)["step"] == step < STEPS
    resume_and_compare(tmp_path, unbroken)


def test_resume_falls_back_where_the_last_checkpoint_is_truncated(unbroken, command, tmp_path):
    assert command(*TINY, "--noise", "0.5", "--ni", "--set", "max_steps=15").returncode == 0
    path = tmp_path / "runs/logs/tiny/ckpt/checkpoint.pth"
    path.write_bytes(path.read_bytes()[:1000])
    done = command(*SAME_RUN, "--resume_training", "--set", "max_steps=40")
    assert done.returncode == 0, done.stderr
    assert "truncated, corrupt or not a checkpoint; going on from the one before it" in done.stdout
    assert same(read(tmp_path)["model"], read(unbroken[0])["model"])


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
        (tmp_path / "runs/logs/tiny/mine.txt").write_text("kept")
    assert sorted(path.name for path in (tmp_path / "runs/logs").iterdir()) == ["tiny", "tiny.1", "tiny.2"]
    assert all((tmp_path / "runs/logs" / name / "mine.txt").exists() for name in ("tiny.1", "tiny.2"))
    done = command(*TINY)
    assert done.returncode == 2
    assert "runs/logs/tiny: exists; give another --doc, --ni to move it aside, or --resume_training" in done.stderr
    done = command(*TINY, "--ni", "--set", "batch_size=5000")  # a mistake is found before anything is moved
    assert done.returncode == 2
    assert sorted(path.name for path in (tmp_path / "runs/logs").iterdir()) == ["tiny", "tiny.1", "tiny.2"]


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("y", 0)])
def test_the_user_is_asked(tmp_path, answer, code):
    (tmp_path / "runs/logs/tiny").mkdir(parents=True)
    ours, theirs = pty.openpty()
    call = [sys.executable, ROOT / "main.py", *TINY, "--set", "max_steps=1"]
    process = subprocess.Popen(call, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.write(ours, f"{answer}\n".encode())
    out = process.communicate(timeout=240)[0].decode()
    assert process.returncode == code
    assert "runs/logs/tiny exists. Move it to runs/logs/tiny.1 and start anew? [y/N]" in out
    assert (tmp_path / "runs/logs/tiny.1").exists() == (answer == "y")
    os.close(ours)
    os.close(theirs)


def test_a_full_disk_is_one_line(command, monkeypatch):
    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    assert command(*TINY, "--ni", "--set", "max_steps=1").returncode == 0
    monkeypatch.setattr(Path, "write_text", full)
    done = command(*SAME_RUN, "--test")
    assert done.returncode == 2
    assert done.stderr == "main.py: runs/logs/tiny/metrics.json: No space left on device; make room and go on\n"


def test_a_run_folder_has_its_own_configuration(command, unbroken, tmp_path):
    (tmp_path / "runs").symlink_to(unbroken[0] / "runs")
    done = command(*SAME_RUN, "--test", "--noise", "0.3")
    assert done.returncode == 2
    assert "--noise 0.3: runs/logs/tiny was trained with 0.5; leave the flag out or give that" in done.stderr


@pytest.mark.parametrize(
    "options", [["--set", "precision=bf16"], ["--set", "channels_last=true"], ["--set", "clip_grad=1.0"],
                ["--set", "loss=dsm_vr", "--noise", "0.01"]]
)  # fmt: skip
def test_options_of_training(command, tmp_path, options):
    done = command(*TINY, "--ni", "--set", "max_steps=12", *options)
    assert done.returncode == 0, done.stderr
    losses = [
        float(line.partition("loss ")[2].partition(",")[0]) for line in done.stdout.splitlines() if "loss " in line
    ]
    assert losses[-1] < losses[0]
