"""Makes a small checkpoint of a trained run: `python -m experiments.publish RUN_FOLDER TARGET`.

What `models.load` needs and what says where it came from: configuration, environment with the command, metrics, and the
weights alone, averaged where there is an average, without the optimizer.
"""

import argparse
import shutil
from pathlib import Path

import models
from configs import UserError
from experiments.harness import run
from models import checkpoint

__all__ = ["publish"]


def publish(folder: Path, target: Path) -> Path:
    """Copies a tested run into `target`.

    Returns:
        the checkpoint's path.

    Raises:
        UserError: where the run was not tested, or its checkpoint cannot be read.
    """
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder}: no metrics.json; run main.py --test first")
    network = models.load(folder).network
    assert network is not None  # what is loaded from a folder has one
    (target / "ckpt").mkdir(parents=True, exist_ok=True)
    for name in ("config.yml", "environment.yml", "metrics.json"):
        shutil.copy(folder / name, target / name)
    path = target / "ckpt" / "checkpoint.pth"
    checkpoint.write({"model": network.state_dict(), "ema": None}, path)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.publish", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args(arguments)
    path = publish(args.folder, args.target)
    print(f"written: {path}, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main)
