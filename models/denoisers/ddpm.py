"""The networks of Ho et al. in their PyTorch conversion, whose checkpoints are plain state dicts.

They answer ε at `√ᾱ_t x̃` and t, so that `D(x̃, σ) = x̃ − σ ε(√ᾱ_t x̃, t)` with `σ = √((1 − ᾱ_t)/ᾱ_t)`.

Source: Ho, Jain and Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs import UserError
from models import checkpoint
from models.denoisers.external import from_denoiser
from models.scores import ScoreModel
from models.unet import DDPMUNet

__all__ = ["ddpm", "linear_schedule"]

STEPS, FIRST, LAST = 1000, 1e-4, 0.02


def linear_schedule() -> Tensor:
    """`ᾱ_t = Π (1 − β_s)`, β from 1e-4 to 0.02 in a thousand equal steps, float64."""
    return torch.cumprod(1 - torch.linspace(FIRST, LAST, STEPS, dtype=torch.float64), 0)


def ddpm(path: str | Path) -> ScoreModel:
    """The scores of such a network, of images with values in [−1, 1], at σ from 0.01 to 157.

    Widths, levels, blocks and attention are read off the weights; height and width are not: those that it was trained
    on are the right ones.

    Args:
        path: of the state dict.

    Raises:
        UserError: where the file can't be read, or names are missing, unknown, or of another shape; it says which.
    """
    weights = checkpoint.read(Path(path))
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path}: not a state dict; names with tensors are expected")
    network = DDPMUNet(**_architecture(weights, path))
    expected = network.state_dict()
    for names, what in (
        (expected.keys() - weights.keys(), "is missing"),
        (weights.keys() - expected.keys(), "is unknown"),
    ):
        if names:
            raise UserError(f"{path}: {min(names)} {what}{_and_others(len(names) - 1)}")
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            shapes = f"{tuple(weights[name].shape)}, and {tuple(value.shape)} is expected"
            raise UserError(f"{path}: {name} has shape {shapes}")
    network.load_state_dict(weights)
    schedule = linear_schedule()
    low, high = ((1 - schedule) / schedule).sqrt()[[0, -1]].tolist()
    shape = (weights["conv_in.weight"].shape[1], None, None)
    return from_denoiser(network, (low, high), shape, values=(-1, 1), output="noise", level=schedule)


def _architecture(weights: dict[str, Tensor], path: str | Path) -> dict[str, Any]:
    """The arguments of `DDPMUNet` that have such weights."""
    try:
        ch, channels = weights["conv_in.weight"].shape[:2]
        levels = 1 + max(int(match[1]) for name in weights if (match := re.match(r"down\.(\d+)\.", name)))
        blocks = 1 + max(int(match[1]) for name in weights if (match := re.match(r"down\.0\.block\.(\d+)\.", name)))
        widths = [len(weights[f"down.{level}.block.0.norm2.weight"]) for level in range(levels)]
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from error
    except ValueError as error:
        raise UserError(f"{path}: down.0.block.0 is missing") from error
    if ch % 32 or any(width % ch for width in widths):
        raise UserError(f"{path}: widths {ch}, {widths}; multiples of 32 are expected, the later ones of the first")
    sizes = [2 ** (levels - level) for level in range(levels)]
    attends = [any(name.startswith(f"down.{level}.attn.") for name in weights) for level in range(levels)]
    return {
        "channels": channels,
        "image_size": sizes[0],
        "ch": ch,
        "multipliers": [width // ch for width in widths],
        "blocks": blocks,
        "attention": [size for size, attend in zip(sizes, attends, strict=True) if attend],
    }


def _and_others(count: int) -> str:
    return f", and {count} others" if count else ""
