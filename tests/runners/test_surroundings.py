"""What a run meets: folders that it may not write, locales without σ, data sets of a few images, ranks without end."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tests.conftest import ROOT
from tests.runners.processes import start

SAME = ["--runner", "UnetDSMRunner", "--device", "cpu", "--doc", "tiny"]
SMALL = ["--set", "model.network=mlp", "--set", "model.ngf=8", "--set", "max_steps=2", "--set", "save_interval=1"]
FRESH = [*SAME, "--config", "digits_dsm.yml", "--ni", *SMALL]

# --- permissions ---

NOT_ALLOWED = "give a place that you may read and write, or change its permissions"
FORBIDDEN = {  # what is forbidden, its mode, the call, and the line
    "the place of all runs, to train": (".", 0o500, FRESH, "runs/logs/tiny: the run folder cannot be made "
                                        "(Permission denied)"),
    "the run folder, to start anew": ("tiny", 0o500, FRESH, "runs/logs/tiny: the run folder cannot be made "
                                      "(Permission denied)"),
    "the run folder, to resume": ("tiny", 0o500, [*SAME, "--resume_training", "--set", "lr=0.1"],
                                  "runs/logs/tiny/lock: Permission denied; " + NOT_ALLOWED),
    "the run folder, to test": ("tiny", 0o500, [*SAME, "--test"],
                                "runs/logs/tiny/stdout.txt: Permission denied; " + NOT_ALLOWED),
    "the run folder, to read": ("tiny", 0o000, [*SAME, "--test"],
                                "runs/logs/tiny/config.yml: Permission denied; " + NOT_ALLOWED),
    "its configuration": ("tiny/config.yml", 0o000, [*SAME, "--test"], "runs/logs/tiny/config.yml: Permission denied"),
    "the checkpoints, to read": ("tiny/ckpt", 0o000, [*SAME, "--resume_training"],
                                 "runs/logs/tiny/ckpt: Permission denied; " + NOT_ALLOWED),
    "the checkpoints, to write": ("tiny/ckpt", 0o500, [*SAME, "--resume_training", "--set", "max_steps=4"],
                                  "runs/logs/tiny/ckpt/checkpoint.pth: the checkpoint could not be written (Permission "
                                  "denied)"),
    "a checkpoint": ("tiny/ckpt/checkpoint.pth", 0o000, [*SAME, "--test"],
                     "runs/logs/tiny/ckpt/checkpoint.pth: the checkpoint cannot be read (Permission denied)"),
    "the pictures, to test": ("tiny/images", 0o500, [*SAME, "--test"],
                              "runs/logs/tiny/images/test.png: Permission denied; " + NOT_ALLOWED),
}  # fmt: skip


@pytest.fixture(scope="session")
def small(once):
    """A folder with a small run that has one checkpoint."""

    def train(folder):
        code, _, errors = start(folder, *FRESH).end()
        assert code == 0, errors

    return once("small", train)


def snapshot(folder) -> dict:
    """What must not change; a call may be noted in the log, the lock and the configuration."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if path.name not in ("stdout.txt", "lock", "config.yml")}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_folders_and_files_that_may_not_be_used(small, tmp_path, case):
    place, mode, call, line = FORBIDDEN[case]
    logs = tmp_path / "runs/logs"
    subprocess.run(["cp", "-r", small / "runs", tmp_path], check=True)
    for name in ("lock", "stdout.txt"):  # of an older version, or another one's
        (logs / "tiny" / name).unlink(missing_ok=place == "tiny")
        (logs / "tiny" / name).touch(mode=0o644 if place != "tiny" else 0o400)
    before = snapshot(logs)
    (logs / place).chmod(mode)
    try:
        code, _, errors = start(tmp_path, *call, unprivileged=True).end()
    finally:
        (logs / place).chmod(0o755)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert errors.replace(f"{tmp_path}/", "").startswith(f"main.py: {line}")
    after = snapshot(logs)
    assert {path: after.get(path) for path in before} == before


def test_pictures_that_cannot_be_written_do_not_end_a_training(small, tmp_path):
    subprocess.run(["cp", "-r", small / "runs", tmp_path], check=True)
    parts = [tmp_path / "runs/logs/tiny" / name for name in ("images", "tensorboard")]
    for part in parts:
        part.chmod(0o500)
    call = [*SAME, "--resume_training", "--set", "max_steps=4", "--set", "print_every=1"]
    code, out, errors = start(tmp_path, *call, unprivileged=True).end()
    for part in parts:
        part.chmod(0o755)
    assert (code, errors) == (0, "")
    assert out.count("curves and pictures cannot be written (Permission denied); the training goes on") == 1


def test_another_one_s_run_answers_of_images_elsewhere(small, tmp_path):
    subprocess.run(["cp", "-r", small / "runs", tmp_path], check=True)
    np.save(tmp_path / "own.npy", np.zeros((2, 8, 8)))
    parts = [path for path in (tmp_path / "runs").rglob("*") if path.is_dir()]
    for part in parts:
        part.chmod(0o500)
    ends = [start(tmp_path, *SAME, "--test", "--input", "own.npy", unprivileged=True).end()]
    ends.append(start(tmp_path, *SAME, "--test", "--input", "own.npy", "--output", "out", unprivileged=True).end())
    for part in parts:
        part.chmod(0o755)
    assert [(code, errors.count("\n")) for code, _, errors in ends] == [(2, 1), (0, 0)], ends
    assert "Permission denied" in ends[0][2]
    assert (tmp_path / "out/own_1_denoised.png").exists()


# --- locales ---


def test_files_are_utf8_in_a_locale_that_has_only_ascii(tmp_path):
    text = "data_dir: σ = ½, für Jürgen\nnoise: 0.5\nloss: dsm\nmodel: {network: mlp, ngf: 8}\nmax_steps: 2\n"
    (tmp_path / "c.yml").write_text(text, encoding="utf-8")
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": ""}

    def calls(*several: str) -> str:
        """In one process, which reads its arguments in its locale."""
        code = "import sys, main\nfor call in sys.argv[1:]:\n    assert main.main(call.split('|')) == 0"
        arguments = [f"--runner|UnetDSMRunner|--device|cpu|{call}" for call in several]
        command = [sys.executable, "-c", code, *arguments]
        environment = os.environ | plain | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="ascii")
        assert done.stderr == ""
        return done.stdout

    assert "--noise ? [? ...]" in calls("--help")
    out = calls("--config|c.yml|--doc|t|--ni|--comment|auf Französisch: août", "--doc|t|--test")
    assert "? = 0.5:\n" in out
    folder = tmp_path / "runs/logs/t"
    config = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
    assert (config["data_dir"], config["comment"]) == ("σ = ½, für Jürgen", "auf Französisch: août")
    assert "σ = 0.5:\n" in (folder / "stdout.txt").read_text(encoding="utf-8")


# --- data sets of a few images ---


def write_images(folder, count: int, parts: tuple[str, ...]) -> None:
    images = np.random.default_rng(count).integers(256, size=(count, 8, 8), dtype=np.uint8)
    for part in parts:
        np.savez(folder / f"own{part}.npz", images=images)


OWN = ["--set", "data.dataset=npz", "--set", "batch_size=1"]


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_too_few_images_to_keep_some_for_the_test(command, tmp_path, count):
    write_images(tmp_path, count, ("",))
    done = command(*FRESH, *OWN, "--set", "data_dir=own.npz")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "data.dataset: npz has no test image; give more images" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("runner", ["UnetDSMRunner", "LowRankHybridRunner", "DoubleDiagonalHybridRunner"])
def test_a_few_images_of_each_part_are_enough(command, tmp_path, count, runner):
    write_images(tmp_path, count, ("_train", "_test"))
    call = [*FRESH, *OWN, "--set", "data_dir=own", "--runner", runner]
    assert command(*call, "--rank", "4").returncode == 0
    done = command(*SAME, "--runner", runner, "--test")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs/logs").glob("*/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["images"] == count
    assert math.isfinite(metrics["mse"])


# --- numbers without end ---


def test_a_rank_beyond_the_size_of_a_point(command, tmp_path):
    call = ["--runner", "LowRankHybridRunner", "--config", "digits_low_rank.yml", "--ni", "--device", "cpu"]
    done = command(*call, "--rank", "100000")
    message = "rank: 100000 columns for points of 64 values; at most 64 is allowed"
    assert (done.returncode, done.stderr) == (2, f"main.py: {message}\n")
    assert not list(tmp_path.iterdir())


def test_more_memory_than_there_is(command, tmp_path):
    done = command(*FRESH, "--set", "model.ngf=100000000")
    assert (done.returncode, done.stderr) == (2, "main.py: not enough memory; lower batch_size, model.ngf or rank\n")
