"""Where results go: under `results/`, a CSV that says how it was made, and pictures."""

import csv
import importlib.metadata
import platform
from pathlib import Path

import torch
from matplotlib.figure import Figure

__all__ = ["machine", "save_figure", "save_table"]

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
