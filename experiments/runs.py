"""Ordinary runs as parts of an experiment."""

import json
from pathlib import Path

import runners
from configs import Config
from runners import folder as run_folder
from runners.world import World

__all__ = ["figures_of", "trained"]


def trained(config: Config, folder: Path, here: World) -> Path:
    """The folder of a finished run: trained and tested if it is not there yet, so that an experiment that was
    interrupted goes on where it stopped."""
    if not (folder / "metrics.json").exists():
        runner = runners.get(config.runner)(config, folder, here, folder / "images")
        run_folder.create(folder, config, folder / "images", ask=False)
        runner.train()
        runner.test()
    return folder


def figures_of(folder: Path) -> dict:
    """What `--test` found of a run."""
    return json.loads((folder / "metrics.json").read_text())
