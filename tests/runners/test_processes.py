"""Two processes take the steps of one."""

import subprocess
import sys

import pytest
import torch

from configs import Config, UserError
from models import checkpoint
from runners.distributed import World
from runners.unet_dsm import UnetDSMRunner
from tests.conftest import ROOT
from tests.runners.processes import start_two

FIRST = ["--runner", "UnetDSMRunner", "--config", "digits_dsm.yml"]
BOTH = ["--runner", "LowRankHybridRunner", "--config", "digits_low_rank.yml", "--rank", "3"]
RUN = [
    *("--device", "cpu", "--ni"),
    *("--set", "model.ngf=4", "--set", "batch_size=64", "--set", "max_steps=3", "--set", "print_every=1"),
    *("--set", "data.random_flip=true", "--set", "lr=1e-3"),
]


def under_torchrun(folder, *arguments: str) -> str:
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "main.py"]
    done = subprocess.run([*call, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_torchrun_would(folder, *arguments: str) -> str:
    results = [process.end() for process in start_two(folder, *arguments)]
    assert [code for code, _, _ in results] == [0, 0], results
    return "".join(out for _, out, _ in results)


@pytest.mark.parametrize(
    ("runner", "suffix", "launch"),
    [(FIRST, "", as_torchrun_would), (BOTH, "_rank3", under_torchrun)],
    ids=["first order", "both orders"],
)
def test_two_processes_are_one(command, tmp_path, runner, suffix, launch):
    assert command(*runner, *RUN, "--doc", "one").returncode == 0
    out = launch(tmp_path, *runner, *RUN, "--doc", "two")
    folders = [tmp_path / "runs/logs" / f"{doc}{suffix}" for doc in ("one", "two")]
    states = [checkpoint.read(folder / "ckpt/checkpoint.pth") for folder in folders]
    # Adam's first moment after three steps is a sum of the three gradients
    for a, b in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        torch.testing.assert_close(a["exp_avg"], b["exp_avg"], rtol=1e-3, atol=1e-3 * a["exp_avg"].abs().max().item())
    for name, value in states[0]["model"].items():
        torch.testing.assert_close(value, states[1]["model"][name], rtol=0, atol=2e-4)
    first = [(folder / "stdout.txt").read_text().partition("loss ")[2].partition(",")[0] for folder in folders]
    assert float(first[0]) == pytest.approx(float(first[1]), rel=1e-4)
    assert out.count("step 3/3") == 1  # the first process alone writes
    assert [path.name for path in (tmp_path / "runs/logs").glob("two*")] == [f"two{suffix}"]


def test_a_batch_that_cannot_be_divided(tmp_path):
    config = Config(runner="UnetDSMRunner", batch_size=63)
    with pytest.raises(UserError, match="batch_size: 63 cannot be divided among 2 processes"):
        UnetDSMRunner(config, tmp_path, World(torch.device("cpu"), 0, 2), tmp_path)
