"""A trained run called again with other values: which of them may change, and how the call is compared with the run.

What the weights of a run mean may not change: the runner, the noise, the rank, the network and its second-order head
(`model`), and the density that was learned (`data`). How they are trained may: the length, the batch size, the learning
rate and its schedule, the loss, the precision, the seed, where the data lie.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from configs.errors import UserError
from configs.loading import load, source_of, sources
from configs.schema import Config

__all__ = ["differences", "load_trained"]

FIXED = ("runner", "noise", "rank", "model", "data", "dataset", "channel", "img")
"""Keys that say what the weights mean, and sections of such keys."""
FREE = ("model.ema_rate", "model.ema_ramp", "model.unet.dropout", "data.size", "data.workers")
"""Keys of those sections that do not."""
AUTO = "auto"
"""A value that a run replaces at its start by what it finds."""


def differences(trained: Config, asked: Config) -> dict[str, tuple[Any, Any]]:
    """The values that differ, `section.key: (trained, asked)`; those without effect are left out."""
    was, now = dict(_values(trained)), dict(_values(asked))
    unused = {*trained.unused_keys(), *asked.unused_keys()}
    return {key: (was[key], now[key]) for key in was if was[key] != now[key] and key not in unused}


def load_trained(folder: Path, overrides: list[str], beside: Path | None = None, **flags: Any) -> Config:
    """The configuration of a run folder, with what a call asks to change.

    Args:
        folder: the run folder.
        overrides, flags: see `load`.
        beside: a file that is given too, with `--config`: what it says must be what the run has, but for what
            `overrides` and `flags` say.

    Raises:
        UserError: where a change would give the weights another meaning, or `beside` says something else.
    """
    saved, given = folder / "config.yml", sources(overrides, flags)
    unsaid = {key: value for key, value in flags.items() if key not in load(saved).model_fields_set}
    trained = load(saved, **unsaid)  # files of the published program leave the noise and the runner to the flags
    if beside is not None:
        _compare_file(trained, beside, overrides, flags, saved)
    asked = load(saved, overrides, **flags)
    for key, (was, now) in differences(trained, asked).items():
        if _is_fixed(key):
            source = source_of(key, given) or f"{key} {_shown(now)}"
            raise UserError(f"{source}: {folder} was trained with {_shown(was)}; leave it out, or give that")
    return asked


def _compare_file(trained: Config, beside: Path, overrides: list[str], flags: dict[str, Any], saved: Path) -> None:
    own, given = dict(_values(load(beside), given=True)), sources(overrides, flags)
    for key, (was, now) in differences(trained, load(beside, overrides, **flags)).items():
        if key in own and now != AUTO and source_of(key, given) is None:
            way = "" if _is_fixed(key) else f", or say --set {key}={_shown(now)}"
            raise UserError(
                f"--config {beside}: {key} is {_shown(now)} there and {_shown(was)} in {saved}; leave --config out{way}"
            )


def _is_fixed(key: str) -> bool:
    parts = key.split(".")
    return parts[0] in FIXED and key not in FREE


def _values(section: BaseModel, prefix: str = "", given: bool = False) -> Iterator[tuple[str, Any]]:
    """Every key with its value, those of sections as `section.key`; with `given` only those that were given."""
    for name in section.model_fields_set if given else type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _values(value, f"{prefix}{name}.", given)
        else:
            yield prefix + name, value


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)
