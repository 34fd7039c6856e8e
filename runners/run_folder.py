"""The run folder `RUN/logs/DOC`: where it lies, what is written into it at the start, what never happens to it."""

import importlib.metadata
import logging
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch
import yaml

import configs
from configs import Config, UserError
from runners import locks

__all__ = ["create", "create_untrained", "existing", "inside", "locate", "record", "recorded_data"]

log = logging.getLogger(__name__)

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


def create(folder: Path, config: Config, images: Path, ask: bool, data: dict[str, str] | None = None) -> None:
    """Makes a fresh run folder with `config.yml` and `environment.yml`, and claims it for this process.

    An existing one is moved aside, unless a process is at work in it. The new one takes its place when it is whole.

    Args:
        folder: where.
        config: of the run.
        images: the folder for pictures, in it.
        ask: whether the user is asked before an existing one is moved.
        data: what the data set can be known by again, kept in `environment.yml`.

    Raises:
        UserError: where another process trains or tests the run of the folder, the folder exists and the user, asked,
            says no or can't be asked, or it cannot be made.
    """
    staging, aside = folder.with_name(f".{folder.name}.new"), None
    try:
        if folder.exists():
            aside = _give_way(folder, ask)
        staging.mkdir(parents=True, exist_ok=True)
        locks.claim(staging)
        for part in (staging / "ckpt", staging / "tensorboard", staging / images.relative_to(folder)):
            part.mkdir(parents=True, exist_ok=True)
        configs.save(config, staging / "config.yml")
        environment = yaml.safe_dump(_environment() | {"data": data}, sort_keys=False, allow_unicode=True)
        configs.write_text(staging / "environment.yml", environment)
        _put_in_place(staging, folder, aside)
    except BaseException as error:
        if locks.release(staging):
            shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):
            staging.rmdir()  # empty where it could not be claimed
        locks.release(folder)
        if isinstance(error, OSError):
            raise UserError(f"{folder}: the run folder cannot be made ({error.strerror})") from error
        raise
    finally:
        if aside is not None:
            locks.release(aside)


def create_untrained(folder: Path, config: Config) -> None:
    """Makes the folder of a test that needs no checkpoint, or takes that of another such test.

    Raises:
        UserError: where the folder is that of a training, or it cannot be made.
    """
    if (folder / "ckpt").exists():
        raise UserError(f"{folder}: has a trained run; give another --doc to test {config.model.denoiser}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        configs.save(config, folder / "config.yml")
    except OSError as error:
        raise UserError(f"{folder}: the run folder cannot be made ({error.strerror})") from error


def _give_way(folder: Path, ask: bool) -> Path:
    """Claims an existing folder, so that nobody trains in it, and asks; where it is to be moved to."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    locks.claim(folder)
    try:
        if locks.held_by_a_test(folder):
            raise UserError(f"{folder}: another process tests its run; give another --doc, or wait for its end")
        if ask:
            if not sys.stdin.isatty():
                raise UserError(f"{folder}: exists; give another --doc, --ni to move it aside, or --resume_training")
            answer = input(f"{folder} exists. Move it to {aside} and start anew? [y/N] ")
            if answer.strip().lower() not in ("y", "yes"):
                raise UserError(f"{folder}: left as it is; give another --doc, or --resume_training to continue it")
    except BaseException:
        locks.release(folder)
        raise
    return aside


def _put_in_place(staging: Path, folder: Path, aside: Path | None) -> None:
    """Renames the whole new folder to its name, after the one that has it gave way."""
    if aside is not None:
        folder.rename(aside)
        locks.renamed(folder, aside)
    try:
        staging.rename(folder)
    except OSError:
        if aside is not None and not folder.exists():
            aside.rename(folder)
        raise
    locks.renamed(staging, folder)


def record(folder: Path, config: Config) -> None:
    """Keeps in `config.yml` what a resumed run changed, and says so in the log.

    Raises:
        OSError: where it can't be written.
    """
    path = folder / "config.yml"
    changed = configs.differences(configs.load(path), config)
    if changed:
        configs.save(config, path)
        log.info("from here on: %s", ", ".join(f"{key} {now} in place of {was}" for key, (was, now) in changed.items()))


def recorded_data(folder: Path) -> dict[str, str]:
    """What `create` was given to know the data set by again; nothing for older folders."""
    try:
        environment = yaml.safe_load((folder / "environment.yml").read_text(encoding="utf-8"))
        return dict(environment.get("data") or {})
    except (OSError, UnicodeError, yaml.YAMLError, AttributeError, TypeError, ValueError):
        return {}


def _environment() -> dict:
    """What the run can be traced back to: the command, the commit, the versions, the machine."""
    source = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", *arguments], cwd=source, capture_output=True, encoding="utf-8", errors="replace", check=False
            )
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
