"""The networks of a configuration, fresh or from a checkpoint."""

from pathlib import Path

import torch
from torch import Tensor, nn

import configs
from configs import Config, UserError
from models import checkpoint
from models.published import translate_checkpoint
from models.refinenet import RefineNet
from models.second_order import DiagonalHead, LowRankHead
from models.structured import DiagonalPlusLowRank

__all__ = ["ScoreModel", "build", "load"]


class ScoreModel(nn.Module):
    """The networks that are trained together: s1, and s2 where the runner has a second order."""

    def __init__(self, s1: nn.Module, s2: nn.Module | None = None):
        super().__init__()
        self.s1 = s1
        self.s2 = s2

    def forward(self, x: Tensor) -> tuple[Tensor, DiagonalPlusLowRank | None]:
        """Both scores at x `(B, D)`, in one call."""
        return self.s1(x), None if self.s2 is None else self.s2(x)


def build(config: Config) -> tuple[nn.Module, nn.Module | None]:
    """Fresh networks for the runner that a configuration names.

    Returns:
        `(s1, s2)`: `s1(x)` maps `(B, D)` to `(B, D)`; `s2(x)` gives a `DiagonalPlusLowRank`. s2 is None
        for `UnetDSMRunner`.
    """
    size = (config.data.channels, config.data.image_size, config.model.ngf)
    s1 = RefineNet(*size)
    if config.runner == "LowRankHybridRunner":
        return s1, LowRankHead(*size, rank=config.rank)
    if config.runner == "DoubleDiagonalHybridRunner":
        return s1, DiagonalHead(*size)
    return s1, None


def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, nn.Module | None, Config]:
    """Trained networks from a run folder or one of its checkpoints, written by this or the published program.

    Args:
        path: a run folder (the newest readable checkpoint is taken), or a `.pth` file in its `ckpt/`.
        device: where the networks are wanted.

    Returns:
        `(s1, s2, config)` in evaluation mode, with the EMA weights where there are any.

    Raises:
        UserError: where the folder, its `config.yml` or the checkpoint is missing or broken, or the two
            do not fit each other.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent.parent
    if not (folder / "config.yml").is_file():
        raise UserError(f"{path}: not a run folder or a checkpoint in one ({folder / 'config.yml'} is missing)")
    config = configs.load(folder / "config.yml")
    if path.is_dir():
        state, path = checkpoint.read_latest(folder / "ckpt", device)
    else:
        state = checkpoint.read(path, device)

    if isinstance(state, list):
        try:
            runner, weights = translate_checkpoint(state)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        config = config.model_copy(update={"runner": runner})
        if runner == "LowRankHybridRunner":  # the rank was a flag, and is not in a published config.yml
            rank = len(weights["s2.factor.end.bias"]) // config.data.channels
            config = config.model_copy(update={"rank": rank})
    elif isinstance(state, dict) and "model" in state:
        weights = state["model"] if state.get("ema") is None else state["ema"]
    else:
        raise UserError(f"{path}: not a checkpoint of this or the published program")

    model = ScoreModel(*build(config))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit the networks of {folder / 'config.yml'}") from error
    model.to(device).eval()
    return model.s1, model.s2, config
