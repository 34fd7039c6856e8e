"""Folders of images: which files they hold, which parts they have, and which file is in which split."""

import hashlib
import logging
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs import UserError

__all__ = ["held_out_parts", "image_files", "is_litter", "split_by_name"]

log = logging.getLogger(__name__)

SPLIT_SEED = 2019
LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
TRAIN = ("train", "training")
HELD_OUT = (("test", "testing"), ("val", "valid", "validation", "dev"))


def is_litter(name: str) -> bool:
    """Whether a file or folder is left behind by a system: hidden ones, `Thumbs.db`, `__MACOSX` and the like."""
    return name.startswith(".") or name.lower() in LITTER


def image_files(folder: Path, advice: str) -> list[Path]:
    """The image files of a folder and of those in it, sorted.

    Links are followed, each folder is visited once however many ways lead to it, and what a system leaves behind is
    passed over. Files with other endings are counted in the log.

    Args:
        folder: where to look.
        advice: what to do where there are none.

    Raises:
        UserError: where a folder can't be read, a link leads nowhere, or there are no images.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files, others = [], Counter[str]()
    folders, links = deque([folder]), deque[Path]()
    visited: set[tuple[int, int]] = set()
    while folders or links:
        place = folders.popleft() if folders else links.popleft()
        for entry in _entries(place, visited):
            path = place / entry.name
            if path.is_dir() if entry.is_symlink() else entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif path.suffix.lower() not in IMG_EXTENSIONS:
                others[path.suffix or path.name] += 1
            elif path.is_file():
                files.append(path)
            else:
                raise UserError(f"data_dir: {path} is a link that leads nowhere; mend or remove it")
    if not files:
        raise UserError(f"data_dir: no images under {folder}; {advice}")
    if others:
        kinds = ", ".join(sorted(others)[:5])
        log.info("%s: %d files that are no images by their endings left out (%s)", folder, others.total(), kinds)
    return sorted(files)


def _entries(folder: Path, visited: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted, without litter; nothing where it was visited before."""
    try:
        found = folder.stat()
        if (found.st_dev, found.st_ino) in visited:
            return []
        visited.add((found.st_dev, found.st_ino))
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not is_litter(entry.name)), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"data_dir: {folder}: {error.strerror}") from error


def held_out_parts(folder: Path) -> dict[str, Path] | None:
    """The subfolders to train on and to test on, by split, where there are both.

    `train` or `training`, with `test` or `testing`, or else `val`, `valid`, `validation` or `dev`, in any case.

    Raises:
        UserError: where two of them could be meant.
    """
    names = [entry.name for entry in _entries(folder, set()) if (folder / entry.name).is_dir()]

    def one_of(known: Sequence[str]) -> str | None:
        matches = [name for name in names if name.lower() in known]
        if len(matches) > 1:
            raise UserError(f"data_dir: {folder} has {' and '.join(matches)}; which one is meant? Leave one of them")
        return matches[0] if matches else None

    train, test = one_of(TRAIN), one_of(HELD_OUT[0]) or one_of(HELD_OUT[1])
    if train is None or test is None:
        return None
    return {"train": folder / train, "test": folder / test}


def split_by_name(names: Sequence[str], split: str, train: float, test: float) -> np.ndarray:
    """The indices of a split's files. Each file has a place between 0 and 1 that its name alone decides: those below
    `train` are trained on, the next part `test` is held out. So no file changes sides when others come or go.

    Where that leaves one of the two without a file, it takes the file that is nearest to it.

    Args:
        names: of the files, relative to their folder.
        split: `"train"` or `"test"`.
        train, test: shares.
    """
    places = np.array([_place(name) for name in names])
    trained, held_out = places < train, (train <= places) & (places < train + test)
    if not held_out.any() and len(names) > 1:
        nearest = np.abs(places - (train + test / 2)).argmin()
        held_out[nearest], trained[nearest] = True, False
    elif not trained.any() and len(names) > 1:
        nearest = places.argmin()
        trained[nearest], held_out[nearest] = True, False
    return np.flatnonzero(trained if split == "train" else held_out)


def _place(name: str) -> float:
    """Between 0 and 1, evenly distributed; the same however a system writes accents and separates folders."""
    text = unicodedata.normalize("NFC", name.replace(os.sep, "/"))
    digest = hashlib.sha256(f"{SPLIT_SEED}/{text}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
