"""Runs that are resumed: with other values, other data, from old folders; and signals wherever time is spent."""

import os
import signal
import time

import numpy as np
import pytest
import torch
import yaml

import datasets
import models
from models import checkpoint
from runners.unet_dsm import UnetDSMRunner

RUN = ["--runner", "UnetDSMRunner", "--device", "cpu", "--doc", "tiny"]
FRESH = [
    *(*RUN, "--config", "digits_dsm.yml", "--ni", "--set", "model.network=mlp", "--set", "model.ngf=16"),
    *("--set", "batch_size=64", "--set", "print_every=1000", "--set", "max_epochs=4"),
]
IMAGES = 1438


def settings(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


def read(folder, name: str = "checkpoint.pth") -> dict:
    return checkpoint.read(folder / "runs/logs/tiny/ckpt" / name)


@pytest.fixture
def seen(monkeypatch):
    """The indices of the images that are trained on, a list for each epoch or part of one."""
    parts, batches = [], datasets.batches

    def watched(data, order):
        parts.append([])
        for row, values in zip(order, batches(data, order), strict=True):
            parts[-1] += row.tolist() if len(data) == IMAGES else []
            yield values

    monkeypatch.setattr(datasets, "batches", watched)
    return parts


@pytest.mark.parametrize(("batch_size", "left"), [(256, 0), (32, 128), (100, 100)])
def test_another_batch_size(command, tmp_path, seen, batch_size, left):
    """1280 of 1438 images were seen: the epoch goes on with those that are left, as far as they make batches."""
    assert command(*FRESH, *settings("max_steps=20")).returncode == 0
    assert (read(tmp_path)["seen"], read(tmp_path)["epoch"]) == (1280, 0)
    steps = 20 + left // batch_size + 3
    done = command(*RUN, "--resume_training", *settings(f"batch_size={batch_size}", f"max_steps={steps}"))
    assert done.returncode == 0, done.stderr
    before, rest, *_ = (part for part in seen if part or not left)
    assert len(rest) == left
    assert len({*before, *rest}) == 1280 + left
    state = read(tmp_path)
    assert (state["step"], state["epoch"], state["seen"]) == (steps, 1, 3 * batch_size)


def test_the_length_in_epochs_is_counted_in_epochs(command, tmp_path):
    assert command(*FRESH, *settings("max_epochs=1")).returncode == 0
    done = command(*RUN, "--resume_training", *settings("batch_size=500", "max_epochs=3"))
    assert done.returncode == 0, done.stderr
    state = read(tmp_path)
    assert (state["step"], state["epoch"], state["seen"]) == (22 + 2 * 2, 3, 0)


def test_a_data_set_that_changed(command, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(40, 8, 8), dtype=np.uint8)
    for split in ("train", "test"):
        np.savez(tmp_path / f"own_{split}.npz", images=images)
    call = [*FRESH, *settings("data.dataset=npz", "data_dir=own", "batch_size=4", "max_steps=9")]
    assert command(*call).returncode == 0
    assert "are not those" not in command(*RUN, "--test").stdout
    for split in ("train", "test"):
        np.savez(tmp_path / f"own_{split}.npz", images=images[:20])
    done = command(*RUN, "--test")
    assert done.returncode == 0, done.stderr
    assert "the images to test on are not those that the run began with (20 images, " in done.stdout
    done = command(*RUN, "--resume_training", "--set", "max_steps=16")
    assert done.returncode == 0, done.stderr
    assert "the images to train on are not those that the run began with (20 images, " in done.stdout
    assert "the seed or the training data are others than before: epoch 0 begins anew" in done.stdout
    state = read(tmp_path)
    assert (state["step"], state["epoch"], state["seen"]) == (16, 1, 8)  # five steps of four are an epoch of twenty


def test_a_folder_of_the_version_that_counted_steps(command, tmp_path):
    """Its position is in batches of the size that config.yml had, also where the call has another one."""
    for doc in ("tiny", "old"):
        assert command(*FRESH, "--doc", doc, *settings("max_steps=20")).returncode == 0
    path = tmp_path / "runs/logs/old/ckpt/checkpoint.pth"
    state = checkpoint.read(path)
    state["position"] = state.pop("seen") // 64
    del state["order"]
    torch.save(state, path)
    for doc in ("tiny", "old"):
        call = [*RUN, "--resume_training", *settings("batch_size=50", "max_steps=30"), "--doc", doc]
        assert command(*call).returncode == 0
    old, new = checkpoint.read(path), read(tmp_path)
    assert (old["step"], old["epoch"], old["seen"]) == (new["step"], new["epoch"], new["seen"]) == (30, 1, 7 * 50)
    assert all(torch.equal(value, old["model"][name]) for name, value in new["model"].items())


def test_what_a_resumed_run_changes_is_recorded(command, tmp_path):
    assert command(*FRESH, *settings("max_steps=3")).returncode == 0
    changes = ["max_steps=6", "batch_size=32", "lr=0.003", "betas=[0.8, 0.9]", "weight_decay=0.1", "seed=7"]
    done = command(*RUN, "--resume_training", *settings(*changes))
    assert done.returncode == 0, done.stderr
    assert "lr 0.003 in place of 0.001" in done.stdout
    assert "the seed or the training data are others than before: epoch 0 begins anew" in done.stdout
    config = yaml.safe_load((tmp_path / "runs/logs/tiny/config.yml").read_text())
    assert [config[key] for key in ("max_steps", "batch_size", "lr", "betas", "weight_decay", "seed")] == [
        *(6, 32, 0.003, [0.8, 0.9], 0.1, 7)
    ]
    assert models.load(tmp_path / "runs/logs/tiny").config.lr == 0.003
    group = read(tmp_path)["optimizer"]["param_groups"][0]
    assert [group[key] for key in ("lr", "betas", "weight_decay")] == [0.003, (0.8, 0.9), 0.1]
    assert group["decoupled_weight_decay"]
    done = command(*RUN, "--resume_training")
    assert "nothing left to do: the run has its 6 steps" in done.stdout


def test_a_mistake_at_resume_changes_nothing(command, tmp_path):
    assert command(*FRESH, *settings("max_steps=3")).returncode == 0
    before = (tmp_path / "runs/logs/tiny/config.yml").read_text()
    for change in ("noise=0.1", "rank=8", "model.ema=false", "batch_size=2000", "loss=centered", "lr=-1"):
        for mode in ("--resume_training", "--test"):
            if change == "batch_size=2000" and mode == "--test":
                continue  # of no effect there
            done = command(*RUN, mode, "--set", change)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), (change, mode, done.stderr)
            assert change.partition("=")[0] in done.stderr
    assert (tmp_path / "runs/logs/tiny/config.yml").read_text() == before


def test_a_checkpoint_that_does_not_fit_says_why(command, tmp_path):
    assert command(*FRESH, *settings("max_steps=3")).returncode == 0
    path = tmp_path / "runs/logs/tiny/config.yml"
    whole = path.read_text()
    for before, after, reason in (
        ("ngf: 16", "ngf: 8", "size mismatch for "),
        ("ema: true", "ema: false", "of averaged weights it has them, and model.ema is false"),
    ):
        path.write_text(whole.replace(before, after))
        done = command(*RUN, "--resume_training", "--set", "max_steps=5")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"checkpoint.pth: does not fit this configuration ({reason}" in done.stderr


def test_a_run_that_stopped_before_its_first_checkpoint_begins_at_the_beginning(command, tmp_path, monkeypatch):
    call = [*FRESH, *settings("max_steps=3")]
    assert command(*call).returncode == 0
    whole = read(tmp_path)
    monkeypatch.setattr(UnetDSMRunner, "train", lambda runner, resume: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command(*call).returncode == 130
    assert not list((tmp_path / "runs/logs/tiny/ckpt").iterdir())
    monkeypatch.undo()
    os.chdir(tmp_path)
    done = command(*RUN, "--resume_training")
    assert done.returncode == 0, done.stderr
    assert all(torch.equal(value, whole["model"][name]) for name, value in read(tmp_path)["model"].items())


@pytest.mark.parametrize("moment", ["data", "between epochs", "preview"])
def test_a_signal_is_heard_wherever_time_is_spent(command, tmp_path, monkeypatch, moment):
    """The wait is of a minute: a signal in it ends it, and the run resumes to the same weights."""
    call = [*FRESH, *settings("max_steps=30", "save_interval=1")]
    assert command(*call, "--doc", "whole").returncode == 0
    calls, batches, preview = [], datasets.batches, UnetDSMRunner.preview

    def wait_in_the_midst():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        pytest.fail("the signal was not heard")

    def slow_batches(data, order):
        calls.append(len(calls))
        if moment == "between epochs" and len(calls) == 2:
            wait_in_the_midst()
        for count, values in enumerate(batches(data, order)):
            if moment == "data" and count == 5 and len(order) > 1:
                wait_in_the_midst()
            yield values

    def slow_preview(runner, scores):
        if moment == "preview":
            wait_in_the_midst()
        return preview(runner, scores)

    monkeypatch.setattr(datasets, "batches", slow_batches)
    monkeypatch.setattr(UnetDSMRunner, "preview", slow_preview)
    start = time.monotonic()
    done = command(*call)
    assert (done.returncode, done.stderr) == (143, "")
    assert time.monotonic() - start < 50
    assert "SIGTERM: stopped at step " in done.stdout
    assert read(tmp_path)["step"] == {"data": 5, "between epochs": 22, "preview": 22}[moment]
    monkeypatch.setattr(datasets, "batches", batches)
    monkeypatch.setattr(UnetDSMRunner, "preview", preview)
    assert command(*RUN, "--resume_training").returncode == 0
    whole = checkpoint.read(tmp_path / "runs/logs/whole/ckpt/checkpoint.pth")
    for part in ("model", "ema"):
        assert all(torch.equal(value, whole[part][name]) for name, value in read(tmp_path)[part].items())


def test_the_last_numbered_checkpoint_is_made_up_for(command, tmp_path):
    """Killed after its last step was saved, before the end of the epoch was: that end is not left out."""
    assert command(*FRESH, *settings("max_epochs=1")).returncode == 0
    folder = tmp_path / "runs/logs/tiny"
    whole, state = read(tmp_path), read(tmp_path)
    state["epoch"], state["seen"] = 0, 22 * 64
    torch.save(state, folder / "ckpt/checkpoint.pth")
    for path in (folder / "ckpt/checkpoint_1.pth", folder / "images/denoised_1.png"):
        path.unlink()
    assert command(*RUN, "--resume_training").returncode == 0
    again = read(tmp_path, "checkpoint_1.pth")
    assert (again["step"], again["epoch"], again["seen"]) == (whole["step"], 1, 0)
    assert (folder / "images/denoised_1.png").exists()


def test_weights_that_are_not_finite_are_never_saved_and_passed_over(command, tmp_path, monkeypatch):
    assert command(*FRESH, *settings("max_steps=3", "checkpoint_minutes=0")).returncode == 0
    folder = tmp_path / "runs/logs/tiny/ckpt"
    step = torch.optim.Adam.step

    def break_at_the_second(optimizer, *args):
        step(optimizer, *args)
        weight = optimizer.param_groups[0]["params"][0]
        if optimizer.state[weight]["step"] == 5:
            weight.data[0, 0] = float("inf")  # the loss of this step was finite

    monkeypatch.setattr(torch.optim.Adam, "step", break_at_the_second)
    done = command(*RUN, "--resume_training", *settings("max_steps=9"))
    assert (done.returncode, done.stderr) == (
        2,
        "main.py: the weights are not finite after step 5; the last good checkpoint is "
        "runs/logs/tiny/ckpt/checkpoint.pth; try a smaller lr, or clip_grad\n",
    )
    good = read(tmp_path)
    assert good["step"] == 4
    assert checkpoint.all_finite(good["model"])
    monkeypatch.setattr(torch.optim.Adam, "step", step)

    bad = dict(good, model={name: value * float("nan") for name, value in good["model"].items()})
    torch.save(good, folder / checkpoint.PREVIOUS)
    torch.save(bad, folder / "checkpoint.pth")  # as an older version may have written it
    done = command(*RUN, "--resume_training", *settings("max_steps=9"))
    assert done.returncode == 0, done.stderr
    assert "checkpoint.pth: its weights are not finite; taking the one before it" in done.stdout


def test_a_broken_checkpoint_does_not_take_the_place_of_the_good_one_before_it(command, tmp_path, monkeypatch):
    assert command(*FRESH, *settings("max_steps=3", "checkpoint_minutes=0")).returncode == 0
    folder = tmp_path / "runs/logs/tiny/ckpt"
    (folder / "checkpoint.pth").write_bytes(b"broken")
    kept, write = [], checkpoint.write

    def watched(state, path, keep=None):
        write(state, path, keep)
        kept.append(checkpoint.read(folder / checkpoint.PREVIOUS)["step"])

    monkeypatch.setattr(checkpoint, "write", watched)
    assert command(*RUN, "--resume_training", *settings("max_steps=6")).returncode == 0
    assert kept[0] == 3
