"""What `model.denoiser` may name beside a run folder of this program."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

from configs import Config, UserError
from models.denoisers.external import from_denoiser
from models.denoisers.ffdnet import ffdnet
from models.scores import ScoreModel

__all__ = ["PUBLISHED", "external_denoiser", "is_external"]

PUBLISHED: dict[str, Callable[..., ScoreModel]] = {"ffdnet": ffdnet}
"""By name, from a path (None where there is none) to the scores of a published denoiser."""

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_external(name: str | None) -> bool:
    """Whether it names a denoiser that this program did not train: `ffdnet`, `ffdnet:FILE`, or `module:function` where
    there is no file or folder of that name."""
    if name is None:
        return False
    return name.partition(":")[0] in PUBLISHED or (bool(FUNCTION.fullmatch(name)) and not Path(name).exists())


def external_denoiser(name: str, config: Config) -> ScoreModel:
    """The scores of a denoiser that this program did not train.

    Args:
        name: see `is_external`. A function is `denoise(x̃, σ)`, as `from_denoiser` takes it, or a `ScoreModel`.
        config: whose noise levels, shape and values of black and white are a function's.

    Raises:
        UserError: where it can't be had.
    """
    kind, _, rest = name.partition(":")
    if kind in PUBLISHED:
        return PUBLISHED[kind](rest or None)
    try:
        found = getattr(importlib.import_module(kind), rest)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model.denoiser: {name} cannot be had ({error})") from error
    if isinstance(found, ScoreModel):
        return found
    if not callable(found):
        kind = type(found).__name__
        raise UserError(f"model.denoiser: {name} is of type {kind}; a function denoise(x̃, σ) is expected")
    return from_denoiser(found, config.sigmas, config.data.shape, values=config.data.values)
