import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture
def reference():
    """Reads a file of reference numbers as tensors."""

    def read(name: str) -> dict[str, torch.Tensor]:
        with np.load(REFERENCE / name) as content:
            return {key: torch.as_tensor(content[key]) for key in content}

    return read


@pytest.fixture
def command(tmp_path):
    """Runs `main.py` as a process of its own, in an empty folder."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        call = [sys.executable, ROOT / "main.py", *map(str, arguments)]
        return subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=240, **options)

    return run


@pytest.fixture(autouse=True)
def _quiet_logging():
    """`main` hangs its handlers on the root logger; they must not outlive the streams of their test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
