"""Runs on a denoiser from elsewhere: what it adds to their configuration, and what it must be for them."""

import math
from typing import Any, cast

import torch

import losses
import models
from configs import Config, UserError
from models import ExternalDenoiser, ScoreModel

__all__ = ["completed"]


def completed(config: Config, device: torch.device | str = "cpu") -> Config:
    """A configuration with what its denoiser says of itself, where it has one from elsewhere: noise levels, channels,
    height and width, black and white, as far as they were not given; and the hash of its weights.

    Raises:
        UserError: where the denoiser cannot be had or is not for such a run; see `models.external_denoiser` and
            `models.check_external`; or the loss takes gradients of it and it has none.
    """
    if not config.model.external:
        return config
    model = models.external_denoiser(cast(str, config.model.denoiser), config)
    denoiser = cast(ExternalDenoiser, model.network)
    updates: dict[str, Any] = {
        "model": config.model.model_copy(update={"denoiser_sha256": denoiser.sha256}),
        "data": config.data.model_copy(update=_of_the_data(model, config)),
    }
    if "noise" not in config.model_fields_set:
        low, high = model.sigmas
        updates["noise"] = low if low == high else (low, high)
    config = config.model_copy(update=updates)
    models.check_external(model, config)
    if config.model.head != "none" and losses.OBJECTIVES[config.model.order][config.loss].probes:
        _check_gradients(denoiser.to(device), config)
    return config


def _of_the_data(model: ScoreModel, config: Config) -> dict[str, Any]:
    """Keys of the section `data` that were not given."""
    known: dict[str, Any] = {"values": model.values}
    if len(model.shape) == 3:
        known["channels"] = model.shape[0]
        if None not in model.shape:
            known["image_size"] = model.shape[1:]
    given = [key for key in config.data.model_fields_set if getattr(config.data, key) is not None]
    return {key: value for key, value in known.items() if key not in given}


def _check_gradients(denoiser: ExternalDenoiser, config: Config) -> None:
    x = torch.full((1, math.prod(config.data.shape)), 0.5, requires_grad=True)
    like = denoiser.like
    answer = denoiser.resized(config.data.shape)(x if like is None else x.to(like), config.sigmas[1])
    if not answer.requires_grad:
        raise UserError(
            f"loss: {config.loss} takes gradients of the denoiser, and {config.model.denoiser} has none; take "
            "centered, or a model that models.from_denoiser makes with derivatives=False"
        )
