"""What `--test` writes into a run folder: `metrics.json`, and its pictures."""

import json
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import configs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["in_lines", "read_metrics", "write_figure", "write_metrics"]

NAME = "metrics.json"
WIDTH = 110


def write_metrics(folder: Path, metrics: dict) -> Path:
    """Writes the metrics of a run, in place of those from before.

    Args:
        folder: the run folder.
        metrics: by name: numbers, texts, lists and dictionaries of them. What is not finite is written as null: JSON
            has no such numbers.

    Returns:
        the file.

    Raises:
        OSError: where it can't be written; those from before stay.
    """
    path = folder / NAME
    configs.write_text(path, json.dumps(_finite(metrics), indent=2, allow_nan=False) + "\n")
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_lines(metrics: dict) -> str:
    """Metrics as indented lines of text, to four digits; a dictionary among them in lines of its own."""
    parts = {name: value for name, value in metrics.items() if isinstance(value, dict)}
    text = ", ".join(f"{name}={_in_digits(value)}" for name, value in metrics.items() if name not in parts)
    lines = [textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)]
    lines += [f"{name}:\n{in_lines(part)}" for name, part in parts.items()]
    return textwrap.indent("\n".join(lines), "  ")


def _in_digits(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_in_digits, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
