"""Two runs, one folder: the second is refused in one line, and a process that dies leaves nothing behind."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import time

import pytest

from models import checkpoint
from runners import locks
from tests.runners.processes import start, start_two

SAME = ["--runner", "UnetDSMRunner", "--device", "cpu", "--doc", "tiny"]
FRESH = [
    *(*SAME, "--config", "digits_dsm.yml", "--ni", "--set", "model.network=mlp", "--set", "model.ngf=16"),
    *("--set", "print_every=1000", "--set", "max_steps=8", "--set", "checkpoint_minutes=0"),
]
RESUME = [*SAME, "--resume_training"]
TEST = [*SAME, "--test"]


@pytest.fixture
def stopped(tmp_path):
    """Starts a process that stops at a moment, `stopped("step", 3, *arguments)`, until it is told to go on."""
    processes = []

    def started(moment: str, number: int, *arguments):
        (tmp_path / "first").mkdir()
        call = start(tmp_path / "first", *arguments, "--run", tmp_path / "runs", stop=(signal.SIGSTOP, moment, number))
        processes.append(call.process)
        while "T" not in _state(call.process.pid):
            assert call.process.exitcode is None, call.end()
            time.sleep(0.05)
        return call

    yield started
    for process in processes:
        process.kill()
        process.join()


def _state(number: int) -> str:
    return subprocess.run(["ps", "-o", "state=", "-p", str(number)], capture_output=True, text=True).stdout


def refused(done, reason: str) -> bool:
    return (done.returncode, done.stderr.count("\n")) == (2, 1) and reason in done.stderr


def test_a_second_run_is_refused_until_the_first_is_dead(command, stopped, tmp_path):
    first = stopped("step", 5, *FRESH)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    holder = f"runs/logs/tiny: another run (process {first.process.pid} on "
    for arguments in (FRESH, RESUME):
        assert refused(command(*arguments), holder)
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before
    assert command(*TEST).returncode == 0  # reads what was saved, and moves nothing

    first.process.kill()
    first.process.join()
    done = command(*RESUME)
    assert done.returncode == 0, done.stderr
    assert "step 4," in done.stdout
    assert command(*FRESH).returncode == 0
    assert {path.name for path in (tmp_path / "runs/logs").iterdir()} == {"tiny", "tiny.1"}


def test_a_run_that_is_tested_is_not_moved_away(command, stopped, tmp_path):
    assert command(*FRESH).returncode == 0
    test = stopped("flush", 1, *TEST)  # before its picture is written
    assert refused(command(*FRESH), "runs/logs/tiny: another process tests its run; give another --doc, or wait")
    assert command(*RESUME, "--set", "max_steps=9").returncode == 0
    os.kill(test.process.pid, signal.SIGCONT)
    assert test.end()[0] == 0
    assert command(*FRESH).returncode == 0


def test_of_two_processes_only_the_first_locks_and_all_are_refused(command, stopped, tmp_path):
    first = stopped("step", 5, *FRESH)
    ends = [process.end() for process in start_two(tmp_path, *RESUME)]
    assert [code for code, _, _ in ends] == [2, 2]
    (line,) = "".join(errors for _, _, errors in ends).splitlines()
    assert f"runs/logs/tiny: another run (process {first.process.pid} on " in line


def test_many_that_start_at_once(tmp_path):
    """Each that ends well has a whole folder of its own, and the others say in a line why not."""
    calls = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        calls.append(start(tmp_path / str(number), *FRESH, "--run", tmp_path / "runs", "--comment", f"run {number}"))
    ends = [call.end() for call in calls]
    finished = sum(code == 0 for code, _, _ in ends)
    assert finished
    for code, _, errors in ends:
        assert code in (0, 2), errors
        assert errors.count("\n") == (code == 2)
    folders = [path for path in (tmp_path / "runs/logs").iterdir() if not path.name.startswith(".")]
    assert len(folders) == finished
    assert all(checkpoint.read(folder / "ckpt/checkpoint.pth")["step"] == 8 for folder in folders)
    assert len({(folder / "config.yml").read_text() for folder in folders}) == finished


def test_what_a_process_has_forked_does_not_keep_its_lock(tmp_path):
    """A worker that reads data lives a little longer than a training that is killed."""
    locks.claim(tmp_path)
    locks.claim(tmp_path)  # nothing happens: this process has it
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_sleep, args=(ready,))
    worker.start()
    try:
        ready.wait()
        os.close(locks._training.pop(tmp_path))  # as at its death
        locks.claim(tmp_path)
        assert locks.release(tmp_path)
        assert not locks.release(tmp_path)
    finally:
        worker.kill()
        worker.join()


def _sleep(ready) -> None:
    ready.set()
    time.sleep(60)


def test_a_lock_follows_a_folder_that_is_renamed(tmp_path):
    folder, aside = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    locks.claim(folder)
    folder.rename(aside)
    locks.renamed(folder, aside)
    folder.mkdir()
    locks.claim(folder)  # the new one is free
    assert locks.release(folder)
    assert locks.release(aside)
    shutil.rmtree(aside)
