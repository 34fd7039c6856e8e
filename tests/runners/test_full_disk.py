"""A disk that is full at any moment of a run: nothing that was there is lost; the run goes on once there is room."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from models import checkpoint
from tests.runners.processes import start

SAME = ["--runner", "UnetDSMRunner", "--device", "cpu", "--doc", "tiny"]
FRESH = [
    *(*SAME, "--config", "digits_dsm.yml", "--ni", "--set", "model.network=mlp", "--set", "model.ngf=16"),
    *("--set", "batch_size=700", "--set", "max_epochs=3", "--set", "print_every=2", "--set", "save_interval=2"),
]
RESUME = [*SAME, "--resume_training"]


@pytest.fixture(scope="session")
def undisturbed(once) -> Path:
    def train(folder: Path) -> None:
        code, _, errors = start(folder, *FRESH).end()
        assert (code, errors) == (0, "")

    return once("undisturbed on a disk with room", train) / "runs/logs/tiny"


def same_weights(folder: Path, undisturbed: Path) -> bool:
    ours, theirs = (checkpoint.read(path / "ckpt/checkpoint.pth") for path in (folder, undisturbed))
    parts = [(ours[part], theirs[part]) for part in ("model", "ema")]
    return ours["step"] == theirs["step"] and all(
        torch.equal(value, b[name]) for a, b in parts for name, value in a.items()
    )


def one_line(errors: str) -> bool:
    """A line on what failed, and perhaps one before it on the log."""
    lines = errors.splitlines()
    others = [line for line in lines if "; the log goes on without it" not in line]
    return len(others) <= 1 and all(line.startswith("main.py: ") for line in lines)


def copies_of(folder: Path):
    return lambda copy: shutil.copytree(folder / "runs", copy / "runs")


def finish(folder: Path, undisturbed: Path) -> None:
    """There is room again: the run is resumed, or begun where it had not been yet."""
    begun = (folder / "runs/logs/tiny/config.yml").exists()
    code, _, errors = start(folder, *(RESUME if begun else FRESH)).end()
    assert (code, errors) == (0, "")
    assert same_weights(folder / "runs/logs/tiny", undisturbed)


def full_after(stride: int, tmp_path: Path, prepare, arguments: list[str]):
    """Runs on a disk that is full from the first write on, and after `stride` more, and so on, each in a folder of its
    own; until one has the room that it needs."""
    for last in itertools.count(0, stride):
        folder = tmp_path / str(last)
        folder.mkdir()
        prepare(folder)
        code, out, errors = start(folder, *arguments, writes=last).end()
        assert one_line(errors), errors
        assert code in (0, 2), errors
        yield folder, code
        shutil.rmtree(folder)
        if "without it" not in errors and "cannot be written" not in out and code == 0:
            assert last > 5
            return


strides = pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow, id="every write"), 17])
"""The quick tests leave some of the writes out."""


@strides
def test_a_new_run(stride, tmp_path, undisturbed):
    """In place of a finished one, which is still there afterwards, in its place or beside it."""
    whole = (undisturbed / "ckpt/checkpoint.pth").read_bytes()

    def prepare(folder):
        shutil.copytree(undisturbed, folder / "runs/logs/tiny")

    for folder, code in full_after(stride, tmp_path, prepare, FRESH):
        logs = folder / "runs/logs"
        kept = logs / "tiny.1" if (logs / "tiny.1").exists() else logs / "tiny"
        assert (kept / "ckpt/checkpoint.pth").read_bytes() == whole
        assert not (logs / ".tiny.new").exists()
        if code == 2 and kept.name == "tiny.1":
            finish(folder, undisturbed)
        elif code == 0:
            assert same_weights(logs / "tiny", undisturbed)


@strides
def test_a_resumed_run(stride, tmp_path, undisturbed):
    first = tmp_path / "first"
    first.mkdir()
    assert start(first, *FRESH, "--set", "max_steps=3", "--set", "checkpoint_minutes=0").end()[0] == 0
    call = [*RESUME, "--set", "max_steps=6"]
    steps = set()
    for folder, code in full_after(stride, tmp_path, copies_of(first), call):
        state, _ = checkpoint.read_latest(folder / "runs/logs/tiny/ckpt")
        assert state["step"] >= 3
        steps.add(state["step"])
        if code == 2:
            code, _, errors = start(folder, *call).end()
            assert (code, errors) == (0, "")
        assert same_weights(folder / "runs/logs/tiny", undisturbed)
    assert len(steps) > 1


@strides
def test_a_test(stride, tmp_path, undisturbed):
    """The metrics and the pictures of the one before stay until there are new ones."""
    first = tmp_path / "first"
    shutil.copytree(undisturbed, first / "runs/logs/tiny")
    assert start(first, *SAME, "--test").end()[0] == 0
    names = ("metrics.json", "images/test.png")
    for folder, _ in full_after(stride, tmp_path, copies_of(first), [*SAME, "--test"]):
        for name in names:
            assert (folder / "runs/logs/tiny" / name).read_bytes() == (first / "runs/logs/tiny" / name).read_bytes()


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, whose size can be changed."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(kilobytes: int, *options: str) -> bool:
        call = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={kilobytes}k"]), "tmpfs", place]
        return subprocess.run(call, capture_output=True).returncode == 0

    if os.geteuid() or not resize(100_000):
        pytest.skip("only root may mount a file system")
    yield place, lambda kilobytes: resize(kilobytes, "remount")
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("kilobytes", [16, 60, 120, 200, 300])
def test_a_small_file_system(disk, undisturbed, tmp_path, kilobytes):
    place, resize = disk
    assert resize(kilobytes)
    code, _, errors = start(tmp_path, *FRESH, "--run", place / "runs").end()
    assert one_line(errors), errors
    assert code == 2
    assert resize(100_000)
    finish(place, undisturbed)
