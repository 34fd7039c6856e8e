import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of one process wait for each other where others are busy

import numpy as np
import pytest
import torch
from filelock import FileLock

import main
from models import checkpoint

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"

DIGITS = ["--rank", "4", "--set", "model.ngf=16", "--set", "max_steps=120", "--set", "lr=0.005", "--set",
          "model.ema=false"]  # fmt: skip
SMALL_RUNS = {
    "UnetDSMRunner": ["--config", "digits_low_rank.yml", *DIGITS, "--set", "loss=dsm"],
    "LowRankHybridRunner": ["--config", "digits_low_rank.yml", *DIGITS],
    "DoubleDiagonalHybridRunner": ["--config", "digits_low_rank.yml", *DIGITS],
    "SyntheticRunner": ["--config", "synthetic/plane.yml", "--set", "data.density=gaussians", "--set", "model.ngf=64",
                        "--set", "data.size=4096", "--set", "model.ema_rate=0.98", "--set", "lr=0.006",
                        "--set", "max_steps=300", "--set", "loss=centered"],
}  # fmt: skip


@pytest.fixture
def reference():
    """Reads a file of reference numbers as tensors."""

    def read(name: str) -> dict[str, torch.Tensor]:
        with np.load(REFERENCE / name) as content:
            return {key: torch.as_tensor(content[key]) for key in content}

    return read


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs `main.py`'s `main` in an empty folder; what a process of its own would show."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        try:
            code = main.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def interrupted():
    """Ctrl-C as soon as the checkpoint of step 3 is written, within `with interrupted():`."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        write = checkpoint.write

        def stop_at_three(state: dict, path: Path, keep: Path | None = None) -> None:
            write(state, path, keep)
            if state["step"] == 3:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "write", stop_at_three)
            yield

    return context


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A folder that is made once for all processes of pytest-xdist, `once("name", make)`, when it is first asked for.

    `make` is called with the empty folder. Only to be read: a test that writes takes a copy.
    """
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = place / "once" / name, place / "once" / f"{name}.done"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(done.with_suffix(".lock")):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def small_run(once):
    """The run folder of a small run by the name of its runner, `small_run("LowRankHybridRunner")`; see `once`."""

    def folder_of(runner: str) -> Path:
        def train(folder: Path) -> None:
            call = ["--runner", runner, "--run", str(folder), "--doc", "small", "--ni", "--device", "cpu"]
            with contextlib.redirect_stdout(io.StringIO()):
                assert main.main([*call, *SMALL_RUNS[runner]]) == 0

        return next((once(runner, train) / "logs").iterdir())

    return folder_of


@pytest.fixture(autouse=True)
def _quiet_logging(monkeypatch):
    """What `main` sets up for its process, handlers of the root logger and how warnings are shown, ends with a test."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    for handler in logging.root.handlers:
        if handler not in handlers:
            handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.captureWarnings(False)
