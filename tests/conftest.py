import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import main

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"


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


@pytest.fixture(autouse=True)
def _quiet_logging():
    """`main` hangs its handlers on the root logger; they must not outlive the streams of their test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
