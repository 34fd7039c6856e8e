"""Makes a small checkpoint of a trained run: `python -m experiments.publish RUN_FOLDER TARGET`.

What `models.load` needs and what says where it came from: configuration, environment with the command, metrics, and the
weights alone, averaged where there is an average, without the optimizer.
"""

import argparse
import shutil
from pathlib import Path

import configs
import models
from configs import UserError
from experiments.harness import run
from models import checkpoint

__all__ = ["publish"]


def publish(folder: Path, target: Path, half: bool = False) -> Path:
    """Copies a tested run into `target`.

    Args:
        folder: the run folder.
        target: where to.
        half: write the weights in 16 bits, half the size; they are read as any others.

    Returns:
        the checkpoint's path.

    Raises:
        UserError: where the run was not tested, or its checkpoint cannot be read.
    """
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder}: no metrics.json; run main.py --test first")
    model = models.load(folder)
    config, network = model.config, model.network
    assert config is not None  # what is loaded from a folder has both
    assert network is not None
    (target / "ckpt").mkdir(parents=True, exist_ok=True)
    for name in ("environment.yml", "metrics.json"):
        shutil.copy(folder / name, target / name)
    if not config.model.external:  # else the weights of the denoiser are not here
        config = config.model_copy(update={"model": config.model.model_copy(update={"denoiser": None})})
    configs.save(config, target / "config.yml")
    weights = network.state_dict()
    if half:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    path = target / "ckpt" / "checkpoint.pth"
    checkpoint.write({"model": weights, "ema": None}, path)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.publish", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--half", action="store_true", help="weights of 16 bits, half the size")
    args = parser.parse_args(arguments)
    path = publish(args.folder, args.target, args.half)
    print(f"written: {path}, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main)
