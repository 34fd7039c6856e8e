"""What all experiments share: start and arguments, finished runs, printed tables, results as CSV and pictures."""

import argparse
import csv
import importlib.metadata
import itertools
import json
import math
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

import configs
import datasets
import models
import runners
from configs import Config, UserError, reason_of
from datasets import ImageData
from losses import OBJECTIVES
from models import ScoreModel, Scores
from runners import run_folder
from runners.distributed import World
from runners.metrics import read_metrics, write_figure
from runners.runner import Runner
from runners.state import TrainingState
from runners.training import take_step

__all__ = [
    "SECOND_ORDER",
    "OpenedImages",
    "argument_parser",
    "check_same",
    "image_test_set",
    "machine",
    "not_negative",
    "number_from_zero",
    "open_images",
    "open_run",
    "over_seeds",
    "positive",
    "print_progress",
    "read_table",
    "rows_so_far",
    "run",
    "save_figure",
    "save_table",
    "table",
    "trained",
    "training",
    "whole_number",
]


Number = TypeVar("Number", int, float)


def number_type(
    kind: Callable[[str], Number], allowed: Callable[[Number], bool], expected: str
) -> Callable[[str], Number]:
    """What argparse makes of a text: a number of a kind, where it is allowed; else it says what is expected."""

    def parsed(text: str) -> Number:
        with suppress(ValueError):
            if allowed(number := kind(text)):
                return number
        raise argparse.ArgumentTypeError(f"{text}{expected} is expected")

    return parsed


seed_number = number_type(int, lambda n: 0 <= n < 2**63, " is no seed; a whole number from 0 to 2⁶³ − 1")
whole_number = number_type(int, lambda n: n > 0, "; a whole number from 1 on")
number_from_zero = number_type(int, lambda n: n >= 0, "; a whole number from 0 on")
positive = number_type(float, lambda x: 0 < x < math.inf, "; a number above 0")
not_negative = number_type(float, lambda x: 0 <= x < math.inf, "; a number from 0 on")


def folder(text: str) -> Path:
    """A folder that is there or can be made."""
    path = Path(text)
    try:
        if files := [part for part in (path, *path.parents) if part.exists() and not part.is_dir()]:
            raise argparse.ArgumentTypeError(f"{files[0]} is a file; a folder is expected")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error
    return path


def override(text: str) -> str:
    """What `--set` takes: not what has a flag of its own here."""
    key = text.partition("=")[0].strip()
    if key in ("noise", "seed"):
        raise argparse.ArgumentTypeError(f"{text}: --{key} says that")
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r}: KEY=VALUE in one line is expected")
    return text


FITTED = 10_000

SHARED: dict[str, dict[str, Any]] = {
    "device": {"help": "cuda, cuda:N, mps or cpu; the best of this machine where it is left out"},
    "run": {"type": folder, "help": "folder of the runs; a run that is there is not repeated"},
    "seed": {"type": seed_number},
    "seeds": {"type": seed_number},
    "noise": {"type": positive, "help": "σ, in the units of the data"},
    "set": {
        "type": override,
        "action": "append",
        "dest": "overrides",
        "metavar": "KEY=VALUE",
        "help": "of every run's configuration",
    },
}
"""The arguments that several experiments have."""

NAMES = {"dsm": "d2sm", "dsm_vr": "d2sm_vr", "jacobian": "jacobian matching"}
SECOND_ORDER = {NAMES.get(name, name): name for name, objective in OBJECTIVES[2].items() if not objective.orthogonal}
"""The objectives of both orders for any s2, by the names that tables and pictures give them."""


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def argument_parser(module: str, description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The parser of an experiment: `--results`, and those of the shared arguments for which there is a default.

    Args:
        module: as `python -m` knows it.
        description: of the experiment.
        defaults: of the arguments of `SHARED`, by their names; one whose default is a list takes several values.
    """
    parser = Parser(prog=f"python -m {module}", description=description)
    parser.add_argument("--results", type=folder, default=Path("results"), help="folder of the tables and pictures")
    for name, default in defaults.items():
        several: dict[str, Any] = {}
        if isinstance(default, list) and "action" not in SHARED[name]:
            several["nargs"] = "+"
        parser.add_argument(f"--{name}", default=default, **SHARED[name], **several)
    return parser


def run(main: Callable[[], None]) -> None:
    """Runs an experiment as a program: a user's mistake, or a file that cannot be written, is one line and exit code 2,
    as in `main.py`."""
    torch.set_float32_matmul_precision("high")
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"{error.filename or 'a file'}: {reason_of(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


# --- runs ---


def open_run(
    folder: Path, device: torch.device | str = "cpu", count: int | None = None, sigma: float | None = None
) -> tuple[Scores, Config, ImageData]:
    """The scores of a run folder or checkpoint at σ, its lowest noise level by default, its configuration, and its test
    images, or the first `count` of them.

    Raises:
        UserError: where the run cannot be read, or has no s2; see also `image_test_set`.
    """
    model = models.load(folder, device)
    config = model.config
    assert config is not None  # what is loaded from a folder has one
    scores = model.at(config.sigmas[0] if sigma is None else sigma)
    if scores.s2 is None:
        raise UserError(f"{folder}: a model of s1 alone; one with a second order is expected")
    return scores, config, image_test_set(config, device, count)


@dataclass(frozen=True)
class OpenedImages:
    """A trained model of images, and the images that an experiment takes.

    Attributes:
        model: of a range of noise levels.
        test: the first test images, `(B, D)`.
        train: up to 10,000 training images, `(N, D)`, always the same.
        shape: of an image, `(C, H, W)`.
        limits: black and white.
    """

    model: ScoreModel
    test: Tensor
    train: Tensor
    shape: tuple[int, int, int]
    limits: datasets.Limits


def open_images(folder: Path, device: torch.device, count: int) -> OpenedImages:
    """A run folder or checkpoint, the first `count` test images, and training images.

    Raises:
        UserError: where the run cannot be read, or has no s2 or only one noise level; see also `image_test_set`.
    """
    model = models.load(folder, device)
    config = model.config
    assert config is not None  # what is loaded from a folder has one
    if config.model.head == "none" or not isinstance(config.noise, tuple):
        raise UserError(f"{folder}: a model with a second order, for a range of noise levels, is expected")
    test, train = image_test_set(config, device), datasets.load(config, "train", device)
    return OpenedImages(
        model,
        next(datasets.batches(test, torch.arange(min(count, len(test)))[None])),
        next(datasets.batches(train, datasets.training_order(train, 0, 0)[None, :FITTED])),
        test.shape,
        datasets.value_range(test.shape[0], test.limits),
    )


def image_test_set(config: Config, device: torch.device | str = "cpu", count: int | None = None) -> ImageData:
    """The test images of a configuration, or the first `count` of them.

    Raises:
        UserError: where they cannot be read, the data set is not one of images, or those of the first cannot be taken
            alone because it is a folder of files.
    """
    data = datasets.load(config, "test", device)
    if not isinstance(data, ImageData):
        raise UserError(f"data.dataset: images are expected, not {config.data.dataset}")
    if count is None:
        return data
    if not isinstance(data.images, Tensor):
        raise UserError(f"data.dataset: a data set in memory is expected, not {config.data.dataset}")
    return replace(data, images=data.images[:count])


def trained(
    config: Config,
    folder: Path,
    world: World,
    measure: Callable[[Scores], dict] | None = None,
    settings: dict | None = None,
) -> dict:
    """The metrics of a finished run. It is trained and tested where it is not there yet, and one that was interrupted
    resumes from its checkpoint: an experiment called again goes through what is left of it.

    Args:
        config: of the run.
        folder: where it is, or is to be.
        world: the device.
        measure: from its scores to the experiment's own metrics, kept in `experiment.json`; without it those of
            `--test`.
        settings: of `measure`, kept beside its metrics.

    Raises:
        UserError: where the folder holds a run of another configuration, or one that was measured otherwise.
    """
    check_same(config, folder)
    settings = settings or {}
    own = folder / "experiment.json"
    if not (folder / "metrics.json" if measure is None else own).exists():
        assert config.runner is not None
        runner = runners.get(config.runner)(config, folder, world, folder / "images")
        runner.load_data()
        if not (interrupted := (folder / "ckpt" / "checkpoint.pth").exists()):
            run_folder.create(folder, runner.config, folder / "images", ask=False, data=runner.fingerprints())
        runner.train(resume=interrupted)
        if measure is None:
            runner.test()
        else:
            metrics = measure(models.load(folder, world.device).at(config.sigmas[0]))
            configs.write_text(own, json.dumps(metrics | settings, indent=2) + "\n")
    metrics = read_metrics(folder) if measure is None else json.loads(own.read_text(encoding="utf-8"))
    if not settings.items() <= metrics.items():
        raise UserError(f"{folder}: measured on other points; name another folder with --run")
    return metrics


def check_same(config: Config, folder: Path) -> None:
    """Compares a run that is already in a folder with the one that is to be there.

    Raises:
        UserError: where it has another configuration.
    """
    if not (folder / "config.yml").exists():
        return
    kept = configs.load(folder / "config.yml")
    if config.data.std is None:  # measured when the run was made
        data = config.data.model_copy(update={"mean": kept.data.mean, "std": kept.data.std})
        config = config.model_copy(update={"data": data})
    if config.precision == "auto":
        config = config.model_copy(update={"precision": kept.precision})
    saved, expected = kept.model_dump(), config.model_dump()
    if different := [key for key in expected if saved[key] != expected[key]]:
        raise UserError(f"{folder}: a run with another {', '.join(different)}; name another folder with --run")


def training(runner: Runner) -> Iterator[TrainingState]:
    """Trains without a run folder: the state after each step, for as long as the next one is asked for."""
    runner.load_data()
    data, config = runner.train_data, runner.config
    state = TrainingState(config, data.shape, runner.world)
    state.begin()
    for epoch in itertools.count():
        order = datasets.epoch_order(len(data), config.batch_size, config.seed, epoch)
        for clean in datasets.batches(data, order):
            take_step(runner, state, clean)
            yield state


# --- tables and pictures ---


def print_progress(row: dict) -> None:
    """A row in a line, as soon as it is known."""
    print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def over_seeds(rows: list[dict], *keys: str) -> list[dict]:
    """A row for each combination of the values of `keys`, in which every other column is the list of its values."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        dict(zip(keys, values, strict=True)) | {k: [row[k] for row in group] for k in group[0] if k not in keys}
        for values, group in groups.items()
    ]


def table(rows: list[dict], columns: dict[str, str]) -> str:
    """Rows as lines of text under a heading.

    Args:
        rows: values by column; a list of numbers is shown as mean ± standard deviation, None or nothing as a dash.
        columns: the columns to show, each with the template of its values for `str.format`; those of `"{}"` stand to
            the left.
    """

    def cell(value: Any, template: str) -> str:
        if value is None:
            return "–"
        if isinstance(value, list):
            spread = statistics.stdev(value) if len(value) > 1 else 0.0
            return f"{template.format(statistics.mean(value))} ± {template.format(spread)}"
        return template.format(value)

    lines = [list(columns), *([cell(row.get(key), template) for key, template in columns.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if template == "{}" else ">" for template in columns.values()]
    return "\n".join(
        "  ".join(f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    )


def machine(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def save_table(path: Path, rows: list[dict], settings: dict, device: torch.device) -> Path:
    """Writes a CSV: the settings, versions and machine as comments, then the rows.

    Returns:
        its path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "numpy"))
    with configs.replacing(path) as whole, whole.open("w", newline="", encoding="utf-8") as file:
        for key, value in (settings | {"machine": machine(device), "versions": versions}).items():
            file.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_table(path: Path) -> list[dict]:
    """The rows that `save_table` wrote: numbers as such, and None where there is nothing."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(lines)]


def rows_so_far(path: Path, settings: dict, columns: Sequence[str]) -> list[dict]:
    """The rows of a table that is to go on, none where there is no table.

    Args:
        path: of the table.
        settings: that it must have been made with.
        columns: that it must have.

    Raises:
        UserError: where it has others, or is no table.
    """
    if not path.exists():
        return []
    advice = "move it away, or name another folder with --results"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = read_table(path)
        numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
        if any(set(row) != set(columns) for row in rows) or not all(map(math.isfinite, numbers)):
            raise ValueError
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a table of this experiment; {advice}") from error
    kept = {key: value for key, _, value in (line[2:].partition(": ") for line in lines if line[:2] == "# ")}
    if rows and (different := [key for key in settings if kept.get(key) != str(settings[key])]):
        raise UserError(f"{path}: made with another {', '.join(different)}; {advice}")
    return rows


def _value(text: str) -> int | float | str | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text or None


def save_figure(path: Path, figure: Figure) -> Path:
    """Writes a picture.

    Returns:
        its path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(path, figure)
    return path
