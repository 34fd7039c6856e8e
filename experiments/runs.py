"""Ordinary runs as parts of an experiment."""

import json
from collections.abc import Callable
from pathlib import Path

import configs
import models
import runners
from configs import Config, UserError
from models import ScoreModel, SharedScoreModel
from runners import folder as run_folder
from runners.world import World

__all__ = ["figures_of", "trained"]


def trained(
    config: Config,
    folder: Path,
    here: World,
    evaluate: Callable[[ScoreModel | SharedScoreModel], dict] | None = None,
    tested: dict | None = None,
) -> Path:
    """The folder of a finished run: trained and tested if it is not there yet, so that an experiment that was
    interrupted goes on where it stopped.

    Args:
        config: of the run.
        folder: where it is, or is to be.
        here: the device.
        evaluate: figures of the networks, kept in the place of those that `--test` would find.
        tested: on what, kept beside them.

    Raises:
        UserError: where the folder holds a run of another configuration, or one that was tested on something else.
    """
    if (folder / "config.yml").exists():
        saved, wanted = configs.load(folder / "config.yml").model_dump(), config.model_dump()
        if different := [key for key in wanted if saved[key] != wanted[key]]:
            raise UserError(f"{folder}: a run with another {', '.join(different)}; name another folder with --run")
    tested = tested or {}
    if not (folder / "metrics.json").exists():
        runner = runners.get(config.runner)(config, folder, here, folder / "images")
        run_folder.create(folder, config, folder / "images", ask=False)
        runner.train()
        if evaluate is None:
            runner.test()
        else:
            model, _ = models.load_model(folder, here.device)
            (folder / "metrics.json").write_text(json.dumps(evaluate(model) | tested, indent=2) + "\n")
    elif not tested.items() <= figures_of(folder).items():
        raise UserError(f"{folder}: tested on other points; name another folder with --run")
    return folder


def figures_of(folder: Path) -> dict:
    """What `--test` found of a run."""
    return json.loads((folder / "metrics.json").read_text())
