"""Trainings that are killed at any moment of their lives, writing included, and resumed: equal to one that never was.

`make slow KILLS=100` says how many; of two processes under torchrun a fifth as many.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import checkpoint
from tests.conftest import ROOT
from tests.runners.processes import start
from tests.runners.test_training import same

KILLS = int(os.environ.get("KILLS", "100"))
SAME = ["--runner", "LowRankHybridRunner", "--device", "cpu", "--doc", "tiny"]
FRESH = [  # a checkpoint each step, a numbered one with pictures each epoch: most of its life it writes
    *(*SAME, "--config", "digits_low_rank.yml", "--ni", "--rank", "4", "--set", "model.ngf=64"),
    *("--set", "batch_size=300", "--set", "max_epochs=8", "--set", "print_every=1", "--set", "save_interval=2"),
    *("--set", "checkpoint_minutes=0", "--set", "data.random_flip=true", "--set", "loss=jacobian"),
]
RESUME = [*SAME, "--resume_training"]
NAME = "runs/logs/tiny_rank4"

pytestmark = pytest.mark.slow


def read(folder: Path) -> dict:
    return checkpoint.read(folder / NAME / "ckpt/checkpoint.pth")


def is_the_undisturbed(folder: Path, undisturbed: Path) -> bool:
    ours, theirs = read(folder), read(undisturbed)
    assert checkpoint.read(folder / NAME / f"ckpt/checkpoint_{ours['epoch']}.pth")["step"] == ours["step"]
    keys = set(theirs) - {"random"}  # of the process: nothing is drawn from it where there is no dropout
    return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in keys)


def begun(folder: Path) -> bool:
    return (folder / NAME / "config.yml").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run that nothing disturbed, and the seconds that it took: of three, the second longest."""
    seconds = []
    for _ in range(3):
        folder = tmp_path_factory.mktemp("alone")
        began = time.monotonic()
        assert start(folder, *FRESH).end()[0] == 0
        seconds.append(time.monotonic() - began)
    return folder, sorted(seconds)[1]


@pytest.mark.parametrize("number", range(KILLS))
def test_one_process(alone, tmp_path, number):
    undisturbed, life = alone
    run = start(tmp_path, *FRESH)
    run.process.join(random.Random(number).uniform(0, life))
    run.process.kill()
    run.process.join()
    code, _, errors = start(tmp_path, *(RESUME if begun(tmp_path) else FRESH)).end()
    assert (code, errors) == (0, "")
    assert is_the_undisturbed(tmp_path, undisturbed)


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen:
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "main.py"]
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen([*call, *arguments], cwd=folder, stdout=output, stderr=output)


def workers_of(agent: subprocess.Popen) -> list[int]:
    """The processes that it has started, the first one first."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    return sorted(int(number) for number, parent, command in rows if int(parent) == agent.pid and "main.py" in command)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of a run of two processes, and the seconds between its first file and its end."""
    folder = tmp_path_factory.mktemp("together")
    agent = torchrun(folder, *FRESH)
    while not begun(folder) and agent.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    assert agent.wait() == 0, (folder / "output.txt").read_text()
    return folder, time.monotonic() - began


@pytest.mark.parametrize("number", range(max(1, KILLS // 5)))
def test_two_processes_under_torchrun(together, tmp_path, number):
    """All of them are killed, or one of the two, after which torchrun ends the other."""
    undisturbed, life = together
    agent = torchrun(tmp_path, *FRESH)
    while not begun(tmp_path) and agent.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(number).uniform(0, life))
    workers = workers_of(agent)
    killed = [[agent.pid, *workers], workers[:1], workers[1:]][number % 3]
    for process in killed:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            assert process != agent.pid  # a worker has ended by itself
    agent.wait()
    again = torchrun(tmp_path, *RESUME)
    assert again.wait() == 0, (tmp_path / "output.txt").read_text()
    assert is_the_undisturbed(tmp_path, undisturbed)
