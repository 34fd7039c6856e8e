"""Runners: what is trained, with which losses, and what is shown of it; all on the one loop of `runners.training`.

This module imports nothing heavy, so that `main.py --help` answers at once.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runners.runner import Runner

__all__ = ["RUNNERS", "get"]

RUNNERS = {
    "UnetDSMRunner": "runners.unet_dsm",
    "LowRankHybridRunner": "runners.hybrid",
    "DoubleDiagonalHybridRunner": "runners.hybrid",
    "SyntheticRunner": "runners.synthetic",
}


def get(name: str) -> "type[Runner]":
    """The runner class of a registered name."""
    return getattr(importlib.import_module(RUNNERS[name]), name)
