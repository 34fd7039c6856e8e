"""`metrics.json` of a run folder: what `--test` has measured."""

import json
from pathlib import Path

__all__ = ["read_metrics", "write_metrics"]

NAME = "metrics.json"


def write_metrics(folder: Path, metrics: dict) -> Path:
    """Writes the metrics of a run, in place of those from before.

    Args:
        folder: the run folder.
        metrics: by name: numbers, texts, lists and dictionaries of them.

    Returns:
        the file.
    """
    path = folder / NAME
    path.write_text(json.dumps(metrics, indent=2) + "\n")
    return path


def read_metrics(folder: Path) -> dict:
    """The metrics of a run that was tested.

    Raises:
        FileNotFoundError: where it was not.
    """
    return json.loads((folder / NAME).read_text())
