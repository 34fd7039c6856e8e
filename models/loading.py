"""Trained scores, from a run folder or a checkpoint of this or the published program."""

import os
from pathlib import Path

import torch
from torch import Tensor

import configs
from configs import Config, UserError
from models import checkpoint
from models.conditional import ConditionalNetworks
from models.networks import build
from models.published import translate_checkpoint
from models.scores import ScoreModel, score_model

__all__ = ["load", "take_denoiser"]


def load(path: str | Path, device: torch.device | str = "cpu") -> ScoreModel:
    """Trained scores from a run folder or one of its checkpoints, written by this or the published program.

    Args:
        path: a run folder or its `ckpt/` (the newest readable checkpoint is taken), or a `.pth` file in that; a link to
            any of these.
        device: where the networks are to be.

    Returns:
        the model, with its networks in evaluation mode and the EMA weights where there are any.

    Raises:
        UserError: where the folder, its `config.yml` or the checkpoint is missing, unreadable or broken, the two
            do not fit each other, or the machine does not have the device.
    """
    path = Path(path)
    folder = _run_folder(path)
    config = configs.load(folder / "config.yml")
    if path.is_dir():
        state, path = checkpoint.read_latest(folder / "ckpt", device)
    else:
        state = checkpoint.read(path, device)
    config, weights = _weights(state, config, path)

    network = build(config, config.data.shape)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit the networks of {folder / 'config.yml'}") from error
    return score_model(network.to(device).eval(), config, config.data.shape)


def _run_folder(path: Path) -> Path:
    """The run folder of a path, as it is written or where its links lead: itself, or the one that it lies in."""
    candidates = []
    for way in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):  # noqa: PTH100 (no error in a loop)
        if not path.is_dir():
            candidates.append(way.parent.parent)
        else:
            candidates += [way, way.parent] if way.name == "ckpt" else [way]
    try:
        return next(folder for folder in candidates if (folder / "config.yml").is_file())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except StopIteration as error:
        missing = candidates[0] / "config.yml"
        raise UserError(f"{path}: not a run folder or a checkpoint in one ({missing} is missing)") from error


def take_denoiser(network: ConditionalNetworks, model: ScoreModel) -> None:
    """Copies a trained denoiser into networks that have a covariance, which begins from it where they say so.

    Args:
        network: `ConditionalNetworks`.
        model: of a run with the same `model.unet`.

    Raises:
        UserError: where the two are not of the same network.
    """
    trained = getattr(model.network, "denoiser", None)
    try:
        if trained is None or network.covariance is None:
            raise RuntimeError
        network.begin_from(trained)
    except RuntimeError as error:
        raise UserError("model.denoiser: not a run of the same model.network: unet and model.unet") from error


def _weights(state: object, config: Config, path: Path) -> tuple[Config, dict[str, Tensor]]:
    """The weights of a checkpoint, and the configuration with what a published one says in its weights alone."""
    if isinstance(state, list):
        try:
            head, weights = translate_checkpoint(state)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        rank = len(weights["s2.factor.end.bias"]) // config.data.channels if head == "low_rank" else config.rank
        model = config.model.model_copy(update={"head": head})
        return config.model_copy(update={"model": model, "rank": rank}), weights
    if isinstance(state, dict) and "model" in state:
        return config, state["model"] if state.get("ema") is None else state["ema"]
    raise UserError(f"{path}: not a checkpoint of this or the published program")
