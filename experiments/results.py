"""What all experiments share: the start, and results under `results/`: a CSV that says how it was made, pictures."""

import csv
import importlib.metadata
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from configs import UserError

__all__ = ["machine", "run", "save_figure", "save_table"]

FOLDER = Path("results")


def machine(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def save_table(name: str, rows: list[dict], settings: dict, device: torch.device) -> Path:
    """Writes `results/NAME.csv`: the settings, versions and machine as comments, then the rows.

    Returns:
        its path.
    """
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.csv"
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "numpy"))
    with path.open("w", newline="") as file:
        for key, value in (settings | {"machine": machine(device), "versions": versions}).items():
            file.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def save_figure(name: str, figure: Figure) -> Path:
    """Writes `results/NAME.png`.

    Returns:
        its path.
    """
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.png"
    figure.savefig(path, dpi=120)
    return path


def run(main: Callable[[], None]) -> None:
    """Runs an experiment as a program: a user's mistake is one line and exit code 2, as in `main.py`."""
    torch.set_float32_matmul_precision("high")
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
