"""Trained scores, from a run folder or a checkpoint of this or the published program."""

import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import configs
from configs import Config, UserError
from models import checkpoint
from models.conditional import ConditionalNetworks
from models.denoisers.external import ExternalDenoiser
from models.denoisers.names import external_denoiser
from models.networks import Networks, build
from models.published import translate_checkpoint
from models.scores import ScoreModel, Scores
from models.third_order import ConditionalThirdOrderHead, ThirdOrderNetworks

__all__ = ["load", "score_model", "take_denoiser"]


def load(path: str | Path, device: torch.device | str = "cpu") -> ScoreModel:
    """Trained scores from a run folder or one of its checkpoints, written by this or the published program.

    Args:
        path: a run folder or its `ckpt/` (the newest readable checkpoint is taken), or a `.pth` file in that; a link to
            any of these. The folder of a test of a denoiser from elsewhere needs no checkpoint.
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
    if config.model.head == "none" and config.model.external:
        return _untrained(config, device)
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


def _untrained(config: Config, device: torch.device | str) -> ScoreModel:
    """A denoiser from elsewhere, of which a run folder has the name alone."""
    found = external_denoiser(cast(str, config.model.denoiser), config)
    network = build(config, config.data.shape, found.network).to(device).eval()
    model = score_model(network, config, config.data.shape)
    model.shape = found.shape
    return model


def score_model(network: Networks, config: Config, shape: tuple[int, ...]) -> ScoreModel:
    """The scores that a network gives, at the noise levels of its configuration.

    Args:
        network: see `models.build`; it is used as it is, not copied.
        config: of the network.
        shape: of a point that it was made for. A convolutional network without a map of positions gives scores of
            images of other sizes too, see `ScoreModel.at`.
    """
    network_of: dict[tuple[int, ...], Networks] = {tuple(shape): network}
    denoiser = getattr(network, "denoiser", None)
    values = config.data.values
    if isinstance(denoiser, ExternalDenoiser):
        values = values or denoiser.values

    def at(sigma: float, shape: tuple[int, ...]) -> Scores:
        if shape not in network_of:
            network_of[shape] = resized(network, config, shape)
        sized = network_of[shape]

        def s1(x: Tensor) -> Tensor:
            return sized.first_order(x, sigma)

        about: dict[str, Any] = {"shape": shape, "like": next(network.parameters(), None), "values": values}
        if isinstance(denoiser, ExternalDenoiser):
            about |= {"like": denoiser.like, "locality": denoiser.locality(sigma)}
        if config.model.head == "none":
            return Scores(sigma, s1, **about)
        lower: Any = sized
        if isinstance(sized, ThirdOrderNetworks):
            lower, about["s3"] = sized.lower, lambda x: sized.third_order(x, sigma)
        return Scores(sigma, s1, lambda x: sized.second_order(x, sigma), lambda x: lower(x, sigma), **about)

    return ScoreModel(at, config.sigmas, shape, config, network, values)


def resized(network: Networks, config: Config, shape: tuple[int, ...]) -> Networks:
    """The same networks for points of another shape; weights are shared.

    Raises:
        UserError: where their weights are for one size.
    """
    like = next(network.parameters(), None)
    with torch.random.fork_rng(devices=[]):
        other = build(config, shape, getattr(network, "denoiser", None))
    other.to(None if like is None else like.device)
    try:
        other.load_state_dict(network.state_dict(keep_vars=True), assign=True)
    except RuntimeError as error:
        raise UserError(
            f"the model was trained on points of shape {config.data.shape} and cannot take {shape}; only "
            "model.network: unet with model.unet.positions: false takes images of other sizes"
        ) from error
    return other.train(network.training)


def _run_folder(path: Path) -> Path:
    """The run folder of a path, as it is written or where its links lead: itself, or the one that it lies in."""
    candidates = []
    for way in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):  # noqa: PTH100 (no error in a loop)
        if not path.is_dir():
            candidates.append(way.parent.parent)
        else:
            candidates += [way, way.parent] if way.name == "ckpt" else [way]
    try:
        if folder := next((way for way in candidates if (way / "config.yml").is_file()), None):
            return folder
        there = path.exists()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    missing = f"{candidates[0] / 'config.yml'} is missing" if there else "it is not there"
    raise UserError(f"{path}: not a run folder or a checkpoint in one ({missing})")


def take_denoiser(network: Networks, model: ScoreModel) -> None:
    """Copies a trained denoiser into networks that have a covariance, which begins from it where they say so; or both
    orders into networks that have a third, which begins from them.

    Args:
        network: `ConditionalNetworks`, or such with a third order.
        model: of a run with the same `model.unet`.

    Raises:
        UserError: where the two are not of the same network.
    """
    if isinstance(network, ThirdOrderNetworks):
        _take_lower_orders(network, model)
        return
    assert isinstance(network, ConditionalNetworks)  # the schema asks for it
    trained = getattr(model.network, "denoiser", None)
    try:
        if trained is None or network.covariance is None:
            raise RuntimeError
        network.begin_from(trained)
    except RuntimeError as error:
        raise UserError("model.denoiser: not a run of the same model.network: unet and model.unet") from error


def _take_lower_orders(network: ThirdOrderNetworks, model: ScoreModel) -> None:
    trained = model.network
    if isinstance(trained, ThirdOrderNetworks):
        trained = trained.lower
    try:
        if not isinstance(trained, ConditionalNetworks) or trained.covariance is None:
            raise RuntimeError
        network.lower.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise UserError(
            "model.denoiser: not a run of s1 and s2 with the same networks, which model.order: 3 expects"
        ) from error
    if isinstance(network.third, ConditionalThirdOrderHead):
        network.third.begin_from(trained)


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
