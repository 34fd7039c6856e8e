"""Two processes take the steps of one."""

import shutil
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import main
from configs import Config, UserError
from models import checkpoint
from runners import distributed
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


def test_a_mistake_of_all_processes_is_said_once(tmp_path):
    started = start_two(tmp_path, *FIRST, *RUN, "--set", "batch_size=63")
    (first, other) = [process.end() for process in started]
    assert (first[0], other[0]) == (2, 2)
    assert first[2] == "main.py: batch_size: 63 cannot be divided among 2 processes\n"
    assert other[2] == ""


@pytest.mark.parametrize(
    "mistake", [["--runner", "None"], [*FIRST, "--noise", "-1"], [*FIRST, "--test"]], ids=["line", "value", "folder"]
)
def test_a_mistake_of_the_call_is_said_by_the_first(command, monkeypatch, mistake):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(main, "GRACE", 0.0)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        done = command(*mistake)
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, lines, "")


@pytest.mark.parametrize(("said", "told"), [("no room", True), ("another", False), (None, False)])
def test_a_mistake_of_one_process_alone_is_said_by_it(monkeypatch, said, told):
    store = dist.HashStore()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "_store", lambda: store)
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(seconds=0.01))
    if said is not None:
        distributed.tell(said)
    assert distributed.told("no room") is told


def test_one_process_tests(command, small_run, tmp_path, monkeypatch):
    folder = tmp_path / "runs/logs/small"
    shutil.copytree(small_run("UnetDSMRunner"), folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    call = ["--runner", "UnetDSMRunner", "--doc", "small", "--device", "cpu", "--test"]
    monkeypatch.setenv("RANK", "1")
    for more in ([], ["--input", "nowhere.png"]):
        assert command(*call, *more).returncode == 0
    assert not (folder / "metrics.json").exists()
    assert not (folder / "images/test.png").exists()
    monkeypatch.setenv("RANK", "0")
    assert command(*call).returncode == 0
    assert (folder / "metrics.json").exists()
    assert (folder / "images/test.png").exists()
