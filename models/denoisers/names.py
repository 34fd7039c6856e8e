"""What `model.denoiser` may name beside a run folder of this program."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

from configs import Config, UserError
from models.denoisers.ddpm import ddpm
from models.denoisers.diffusers import diffusers_model
from models.denoisers.external import ExternalDenoiser, from_denoiser
from models.denoisers.ffdnet import ffdnet
from models.scores import ScoreModel

__all__ = ["PUBLISHED", "check_external", "external_denoiser", "is_external"]

PUBLISHED: dict[str, Callable[..., ScoreModel]] = {"ffdnet": ffdnet, "ddpm": ddpm, "diffusers": diffusers_model}
"""By name, from a path (None where there is none) to the scores of a published denoiser."""

SLACK = 1e-3
"""By how much, in ratio, noise levels may lie outside of those that a denoiser is good for."""

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_external(name: str | None) -> bool:
    """Whether it names a denoiser that this program did not train: `ffdnet`, `ffdnet:FILE`, `ddpm:FILE`,
    `diffusers:FOLDER`, or `module:function` where there is no file or folder of that name."""
    if name is None:
        return False
    return name.partition(":")[0] in PUBLISHED or (bool(FUNCTION.fullmatch(name)) and not Path(name).exists())


def external_denoiser(name: str, config: Config) -> ScoreModel:
    """The scores of a denoiser that this program did not train.

    Args:
        name: see `is_external`. A function is `denoise(x̃, σ)`, as `from_denoiser` takes it, or a `ScoreModel` that it
            made.
        config: whose noise levels, shape and values of black and white are a function's.

    Raises:
        UserError: where it can't be had, or its weights are not those of `model.denoiser_sha256`.
    """
    model, known = _model(name, config), config.model.denoiser_sha256
    if not isinstance(model.network, ExternalDenoiser):
        raise UserError(f"model.denoiser: {name} is no model that from_denoiser made; name a run by its folder")
    if known is not None and (found := model.network.sha256) != known:
        raise UserError(
            f"model.denoiser: the weights of {name} are not those that the run began with: their sha256 is "
            f"{str(found)[:12]}…, it was {known[:12]}…"
        )
    return model


def check_external(model: ScoreModel, config: Config) -> None:
    """Compares a denoiser from elsewhere with the images and the noise levels of a configuration.

    Raises:
        UserError: where it is not for them.
    """
    name, data = config.model.denoiser, config.data
    if len(model.shape) != len(data.shape) or any(
        size not in (None, own) for size, own in zip(model.shape, data.shape, strict=True)
    ):
        raise UserError(f"model.denoiser: {name} takes {_images(model.shape)}, and the data are {_images(data.shape)}")
    if data.values is not None and model.values is not None and data.values != tuple(model.values):
        own, theirs = ("[{:g}, {:g}]".format(*ends) for ends in (data.values, model.values))
        raise UserError(f"data.values: {own}, and {name} has black and white at {theirs}; leave it out")
    (low, high), (least, most) = config.sigmas, model.sigmas
    if low < least * (1 - SLACK) or high > most * (1 + SLACK):
        noise = f"{low:g}" if low == high else f"from {low:g} to {high:g}"
        raise UserError(f"noise: {noise}, and {name} is for σ from {least:.4g} to {most:.4g}")


def _images(shape: tuple[int | None, ...]) -> str:
    if len(shape) == 1:
        return f"vectors of {shape[0]} values"
    channels, height, width = shape
    size = "of any size" if height is None else f"of {height}×{width} pixels"
    return f"images of {channels} channel(s), {size}"


def _model(name: str, config: Config) -> ScoreModel:
    kind, _, rest = name.partition(":")
    if kind in PUBLISHED:
        if not rest and kind != "ffdnet":
            raise UserError(f"model.denoiser: {kind} has no weights of its own; say where they are, {kind}:PATH")
        return PUBLISHED[kind](rest or None)
    try:
        found = getattr(importlib.import_module(kind), rest)
    except (ImportError, AttributeError) as error:
        advice = "; its folder belongs in PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise UserError(f"model.denoiser: {name} cannot be had ({error}){advice}") from error
    if isinstance(found, ScoreModel):
        return found
    if not callable(found):
        kind = type(found).__name__
        raise UserError(f"model.denoiser: {name} is of type {kind}; a function denoise(x̃, σ) is expected")
    return from_denoiser(found, config.sigmas, config.data.shape, values=config.data.values)
