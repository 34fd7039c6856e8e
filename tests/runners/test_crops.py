"""Runs on crops of large files: a resumed one goes on with the crops that come next."""

import numpy as np
import torch
from PIL import Image

from models import checkpoint

RUN = [
    *("--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--noise", "0.3", "--device", "cpu", "--ni"),
    *("--set", "data.dataset=ImageFolder", "--set", "data_dir=own", "--set", "data.image_size=[6, 8]"),
    *("--set", "data.crop=5", "--set", "data.workers=0", "--set", "model.network=mlp"),
    *("--set", "model.ngf=8", "--set", "batch_size=8", "--set", "max_steps=8", "--set", "checkpoint_minutes=0"),
]


def test_a_resumed_run_takes_the_same_steps(command, tmp_path, interrupted):
    """Epochs of six steps: the run is stopped in the middle of the first and ends in the second."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 2)):
        (tmp_path / "own" / split).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(256, size=(20, 17 + number), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"own/{split}/{number}.png")
    done = command(*RUN, "--doc", "whole")
    assert done.returncode == 0, done.stderr
    with interrupted():
        assert command(*RUN, "--doc", "half").returncode == 130
    call = ["--runner", "UnetDSMRunner", "--doc", "half", "--device", "cpu"]
    assert "resuming from" in command(*call, "--resume_training").stdout
    whole, half = (checkpoint.read(tmp_path / f"runs/logs/{doc}/ckpt/checkpoint.pth") for doc in ("whole", "half"))
    assert whole["step"] == half["step"] == 8
    assert all(torch.equal(value, half["model"][name]) for name, value in whole["model"].items())
    assert command(*call, "--test").returncode == 0
