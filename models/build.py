"""The networks of a configuration, fresh or from a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import configs
from configs import Config, UserError
from datasets.synthetic import DENSITIES
from models import checkpoint
from models.mlp import MLP
from models.published import translate_checkpoint
from models.refinenet import RefineNet
from models.second_order import DiagonalHead, LowRankHead, second_order_score, windows
from models.structured import DiagonalPlusLowRank

__all__ = ["ScoreModel", "SharedScoreModel", "build", "build_model", "evaluate", "load", "load_model"]


class ScoreModel(nn.Module):
    """The networks that are trained together: s1, and s2 where the runner has a second order."""

    def __init__(self, s1: nn.Module, s2: nn.Module | None = None):
        super().__init__()
        self.s1 = s1
        self.s2 = s2

    def forward(self, x: Tensor, rows: int | None = None) -> tuple[Tensor, DiagonalPlusLowRank | None]:
        """Both scores at x `(B, D)` in one call; s2 at the first `rows` points only, where that is given."""
        return self.s1(x), None if self.s2 is None else self.s2(x[:rows])


class SharedScoreModel(nn.Module):
    """One network whose last layer gives s1, α and β together: one evaluation where there are up to three.

    Its first D outputs are σ s1, free of units; s2 is scaled by `second_order_score`.

    Args:
        trunk: maps `(B, D)` to `(B, (2 + rank)·D)`.
        rank: columns of β; 0 for a diagonal s2.
        covariance, sigma: as of `second_order_score`.
        windows: where the columns of β are multiplied by learned maps, `(rank, D)`: these to begin with.
    """

    def __init__(self, trunk: nn.Module, rank: int, covariance: str, sigma: float, windows: Tensor | None = None):
        super().__init__()
        self.covariance, self.sigma = covariance, sigma
        self.outputs = 2 + rank
        self.trunk = trunk
        self.windows = None if windows is None else nn.Parameter(windows)

    def forward(self, x: Tensor, rows: int | None = None) -> tuple[Tensor, DiagonalPlusLowRank]:
        """As `ScoreModel.forward`."""
        images = self.trunk(x).unflatten(1, (self.outputs, -1))
        diagonal, factor = images[:rows, 1], images[:rows, 2:]
        if self.windows is not None:
            factor = factor * self.windows
        factor = factor.mT if self.outputs > 2 else None
        return images[:, 0] / self.sigma, second_order_score(diagonal, factor, self.covariance, self.sigma)

    def s1(self, x: Tensor) -> Tensor:
        """The score alone, `(B, D)`."""
        return self(x)[0]

    def s2(self, x: Tensor) -> DiagonalPlusLowRank:
        """The second-order score alone."""
        return self(x)[1]


def build_model(config: Config) -> ScoreModel | SharedScoreModel:
    """Fresh networks for the runner that a configuration names, as one module."""
    model = config.model
    kind = {"covariance": model.covariance, "sigma": config.noise}
    heads = {"LowRankHybridRunner": "low_rank", "DoubleDiagonalHybridRunner": "diagonal", "SyntheticRunner": model.head}
    rank = {"low_rank": config.rank, "diagonal": 0}.get(heads.get(config.runner))
    if rank is None:
        return ScoreModel(_network(config))
    if model.trunk == "shared":
        trunk = _network(config, 2 + rank)
        maps = windows(rank, trunk.shape) if rank and isinstance(trunk, RefineNet) else None
        return SharedScoreModel(trunk, rank, **kind, windows=maps)
    if rank == 0:
        return ScoreModel(_network(config), DiagonalHead(_network(config), **kind))
    return ScoreModel(_network(config), LowRankHead(_network(config), _network(config, rank), rank, **kind))


def _network(config: Config, outputs: int = 1) -> nn.Module:
    """A network that gives `outputs` values for every entry of an image."""
    channels, size = config.data.channels, config.data.image_size
    if config.data.dataset == "Synthetic":
        return MLP(DENSITIES[config.data.density](config.data.dimension).dimension, config.model.ngf, outputs)
    if config.model.network == "mlp":
        return MLP(channels * size**2, config.model.ngf, outputs)
    return RefineNet(channels, size, config.model.ngf, channels * outputs)


def build(config: Config) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], DiagonalPlusLowRank] | None]:
    """Fresh scores for the runner that a configuration names.

    Returns:
        `(s1, s2)`: `s1(x)` maps `(B, D)` to `(B, D)`; `s2(x)` gives a `DiagonalPlusLowRank`. s2 is None
        for `UnetDSMRunner`. Where both are wanted at the same points and the trunk is shared,
        `build_model` gives them in one evaluation.
    """
    model = build_model(config)
    return model.s1, model.s2


def evaluate(
    s1: Callable[[Tensor], Tensor], s2: Callable[[Tensor], DiagonalPlusLowRank], x: Tensor
) -> tuple[Tensor, DiagonalPlusLowRank]:
    """Both scores at x `(B, D)`: in one call of the network where they are the two of one `SharedScoreModel`."""
    model = getattr(s1, "__self__", None)
    if isinstance(model, SharedScoreModel) and getattr(s2, "__self__", None) is model:
        return model(x)
    return s1(x), s2(x)


def load(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], DiagonalPlusLowRank] | None, Config]:
    """Trained scores: `load_model`, with s1 and s2 apart.

    Returns:
        `(s1, s2, config)`, as of `build`.
    """
    model, config = load_model(path, device)
    return model.s1, model.s2, config


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[ScoreModel | SharedScoreModel, Config]:
    """Trained networks from a run folder or one of its checkpoints, written by this or the published program.

    Args:
        path: a run folder (the newest readable checkpoint is taken), or a `.pth` file in its `ckpt/`.
        device: where the networks are wanted.

    Returns:
        the networks in evaluation mode, with the EMA weights where there are any, and the configuration.

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

    model = build_model(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit the networks of {folder / 'config.yml'}") from error
    return model.to(device).eval(), config
