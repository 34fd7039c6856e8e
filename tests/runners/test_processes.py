"""Two processes under torchrun take the steps of one."""

import subprocess
import sys

import pytest
import torch

from models import checkpoint
from tests.conftest import ROOT

FIRST = ["--runner", "UnetDSMRunner", "--config", "digits_dsm.yml"]
BOTH = ["--runner", "LowRankHybridRunner", "--config", "digits_low_rank.yml", "--rank", "3"]
RUN = [
    *("--device", "cpu", "--ni"),
    *("--set", "model.ngf=4", "--set", "batch_size=64", "--set", "max_steps=3", "--set", "print_every=1"),
    *("--set", "data.random_flip=true", "--set", "lr=1e-3"),
]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def call(folder, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(("runner", "suffix"), [(FIRST, ""), (BOTH, "_rank3")], ids=["first order", "both orders"])
def test_two_processes_are_one(tmp_path, runner, suffix):
    one = call(tmp_path, ROOT / "main.py", *runner, *RUN, "--doc", "one")
    two = call(tmp_path, *TWO, ROOT / "main.py", *runner, *RUN, "--doc", "two")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    folders = [tmp_path / "runs/logs" / f"{doc}{suffix}" for doc in ("one", "two")]
    states = [checkpoint.read(folder / "ckpt/checkpoint.pth") for folder in folders]
    # Adam's first moment after three steps is a sum of the three gradients
    for a, b in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        torch.testing.assert_close(a["exp_avg"], b["exp_avg"], rtol=1e-3, atol=1e-3 * a["exp_avg"].abs().max().item())
    for name, value in states[0]["model"].items():
        torch.testing.assert_close(value, states[1]["model"][name], rtol=0, atol=2e-4)
    first = [(folder / "stdout.txt").read_text().partition("loss ")[2].partition(",")[0] for folder in folders]
    assert float(first[0]) == pytest.approx(float(first[1]), rel=1e-4)
    assert two.stdout.count("step 3/3") == 1  # the first process alone writes
    assert [path.name for path in (tmp_path / "runs/logs").glob("two*")] == [f"two{suffix}"]


def test_a_batch_that_cannot_be_divided(tmp_path):
    two = call(tmp_path, *TWO, ROOT / "main.py", *FIRST, *RUN, "--doc", "two", "--set", "batch_size=63")
    assert two.returncode != 0
    assert "batch_size: 63 cannot be divided among 2 processes" in two.stderr
    assert not (tmp_path / "runs").exists()
