"""The run folder `RUN/logs/DOC`: where it lies, what is written into it at the start, what never happens to it."""

import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch
import yaml

import configs
from configs import Config, UserError

__all__ = ["create", "existing", "inside", "locate"]

PACKAGES = ("torch", "torchvision", "numpy", "pydantic", "tensorboard", "scikit-learn", "matplotlib")


def locate(run: str, doc: str) -> Path:
    """`RUN/logs/DOC`.

    Raises:
        UserError: where `doc` is empty or leads out of `RUN/logs`.
    """
    return inside(Path(run) / "logs", doc, "--doc")


def inside(folder: Path, name: str, flag: str) -> Path:
    """`folder/name`.

    Raises:
        UserError: where that does not lie in `folder`; the message names the flag.
    """
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise UserError(f"{flag} {name!r}: leads out of {folder}; a plain name is expected")
    return path


def existing(run: str, doc: str, rank: int | None) -> Path:
    """The run folder to test or to resume: `RUN/logs/DOC`, or the one `RUN/logs/DOC_rankR` of a low-rank run.

    Raises:
        UserError: where there is none, or several ranks and none was asked for.
    """
    folder = locate(run, doc)
    if (folder / "config.yml").is_file():
        return folder
    ranks = [path for path in folder.parent.glob("*/") if re.fullmatch(re.escape(folder.name) + r"_rank\d+", path.name)]
    candidates = [path for path in ranks if rank is None or path.name.endswith(f"_rank{rank}")]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UserError(f"{folder}: which one of {', '.join(sorted(path.name for path in candidates))}? Give --rank")
    raise UserError(f"{folder}: no run folder; check --run, --doc and --rank")


def create(folder: Path, config: Config, images: Path, ask: bool) -> None:
    """Makes a fresh run folder with `config.yml` and `environment.yml`; an existing one is moved aside.

    Raises:
        UserError: where the folder exists and the user, asked, says no or can't be asked.
    """
    try:
        if folder.exists():
            _move_aside(folder, ask)
        for part in (folder / "ckpt", folder / "tensorboard", images):
            part.mkdir(parents=True)
        configs.save(config, folder / "config.yml")
        (folder / "environment.yml").write_text(yaml.safe_dump(_environment(), sort_keys=False))
    except OSError as error:
        raise UserError(f"{folder}: the run folder cannot be made ({error.strerror})") from error


def _move_aside(folder: Path, ask: bool) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    if ask:
        if not sys.stdin.isatty():
            raise UserError(f"{folder}: exists; give another --doc, --ni to move it aside, or --resume_training")
        if input(f"{folder} exists. Move it to {aside} and start anew? [y/N] ").strip().lower() not in ("y", "yes"):
            raise UserError(f"{folder}: left as it is; give another --doc, or --resume_training to continue it")
    folder.rename(aside)


def _environment() -> dict:
    """What the run can be traced back to: the command, the commit, the versions, the machine."""
    source = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(["git", *arguments], cwd=source, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    return {
        "command": " ".join(sys.argv),
        "git_commit": git("rev-parse", "HEAD"),
        "git_modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
