"""What `--test` writes into a run folder: `metrics.json`, and its pictures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import configs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["read_metrics", "write_figure", "write_metrics"]

NAME = "metrics.json"


def write_metrics(folder: Path, metrics: dict) -> Path:
    """Writes the metrics of a run, in place of those from before.

    Args:
        folder: the run folder.
        metrics: by name: numbers, texts, lists and dictionaries of them.

    Returns:
        the file.

    Raises:
        OSError: where it can't be written; those from before stay.
    """
    path = folder / NAME
    configs.write_text(path, json.dumps(metrics, indent=2) + "\n")
    return path


def write_figure(path: Path, figure: "Figure") -> None:
    """Writes a picture, in place of the one from before.

    Raises:
        OSError: where it can't be written; the one from before stays.
    """
    with configs.replacing(path) as file:
        figure.savefig(file, dpi=120)


def read_metrics(folder: Path) -> dict:
    """The metrics of a run that was tested.

    Raises:
        FileNotFoundError: where it was not.
    """
    return json.loads((folder / NAME).read_text(encoding="utf-8"))
