"""Files whose bytes were flipped, cut and repeated: one line that names the file, or what the file holds.

4,000 of them with `-m slow`; the first hundred otherwise.
"""

import io
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import configs
import datasets
import models
from configs import UserError
from tests.conftest import ROOT

SHAPE = (3, 16, 12)
RUN = ROOT / "checkpoints/digits"
KINDS = ("image.png", "image.jpg", "images.npz", "config.yml", "checkpoint.pth")


def original(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(256, size=(16, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    if kind == "images.npz":
        np.savez(stream, images=np.stack([pixels, pixels]))
    elif kind == "config.yml":
        return (RUN / "config.yml").read_bytes()
    elif kind == "checkpoint.pth":
        return (RUN / "ckpt/checkpoint.pth").read_bytes()
    else:
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(pixels).save(stream, kind.partition(".")[2].replace("jpg", "jpeg"), exif=exif)
    return stream.getvalue()


def damaged(content: bytes, seed: int) -> bytes:
    """One to four of: bits flipped, a piece cut out, a piece repeated, a piece overwritten, the end cut off."""
    generator = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(generator.integers(1, 5)):
        if not data:
            break
        # half of the damage is done to the first 200 bytes, where what comes after is described
        reach = len(data) if generator.random() < 0.5 else min(len(data), 200)
        start = int(generator.integers(reach))
        end = min(len(data), start + int(generator.integers(1, 64)))
        match generator.integers(5):
            case 0:
                for place in generator.integers(start, end, size=3):
                    data[place] ^= 1 << generator.integers(8)
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = data[start:end]
            case 3:
                data[start:end] = generator.bytes(end - start)
            case 4:
                del data[end:]
    return bytes(data)


def read_input(path: Path) -> None:
    names, values = datasets.read_images(path, SHAPE)
    assert values.shape == (len(names), 576)
    assert values.isfinite().all()


def read_training(path: Path) -> None:
    """The same file in a training folder, or as a training set."""
    kind = "npz" if path.suffix == ".npz" else "ImageFolder"
    place = path if kind == "npz" else path.parent
    section = {"dataset": kind, "channels": 3, "image_size": [16, 12], "workers": 0}
    data = datasets.load(configs.Config(data_dir=str(place), data=section), "train")
    for batch in datasets.batches(data, torch.arange(len(data))[:, None]):
        assert batch.isfinite().all()


def read_config(path: Path) -> None:
    config = configs.load(path)
    assert configs.Config.model_validate(config.model_dump()) == config


def read_checkpoint(path: Path) -> None:
    folder = path.parent
    (folder / "ckpt").mkdir()
    (folder / "config.yml").write_bytes((RUN / "config.yml").read_bytes())
    path.rename(folder / "ckpt" / path.name)
    model = models.load(folder)
    trained = torch.load(RUN / "ckpt/checkpoint.pth", weights_only=True)
    expected = trained["model"] if trained.get("ema") is None else trained["ema"]
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, expected[name]), name  # damage to a weight is never taken for the weight


READERS: dict[str, list[Callable[[Path], None]]] = {
    "image.png": [read_input, read_training],
    "image.jpg": [read_input, read_training],
    "images.npz": [read_input, read_training],
    "config.yml": [read_config],
    "checkpoint.pth": [read_checkpoint],
}


def check(kind: str, seed: int, folder: Path) -> bool:
    """Reads a damaged file in each way; whether it was taken in one of them."""
    taken = False
    content = damaged(original(kind), seed)
    for number, read in enumerate(READERS[kind]):
        place = folder / f"{seed}_{number}"
        place.mkdir(parents=True)
        path = place / kind
        path.write_bytes(content)
        (place / "beside.txt").write_text("as it was")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the values of a damaged file seem to be
            try:
                read(path)
                taken = True
            except UserError as error:
                message = str(error)
                assert "\n" not in message, message
                assert len(message) < 1000
                assert place.name in message, message  # of the file or the folder
        assert (place / "beside.txt").read_text() == "as it was"
        left = path if path.exists() else place / "ckpt" / kind
        assert left.read_bytes() == content
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_taken(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.damaged", lambda content, seed: content)
    assert check(kind, 0, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_damaged_files(kind, tmp_path):
    for seed in range(20):
        check(kind, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_four_thousand_damaged_files(kind, tmp_path):
    logging.disable(logging.WARNING)
    refused = sum(not check(kind, seed, tmp_path) for seed in range(800))
    logging.disable(logging.NOTSET)
    assert refused > 80  # else nothing would have been tested


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_ends_with_two_and_changes_nothing(kind, tmp_path, command):
    folder = tmp_path / "runs/logs/digits_rank16"
    shutil.copytree(RUN, folder)
    bad = {"checkpoint.pth": folder / "ckpt/checkpoint.pth", "config.yml": folder / "config.yml"}
    path = bad.get(kind, tmp_path / kind)
    path.write_bytes(original(kind)[: -len(original(kind)) // 3] + b"\0\1\2")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    call = ["--runner", "LowRankHybridRunner", "--doc", "digits", "--rank", "16", "--test", "--device", "cpu"]
    done = command(*call, *([] if kind in bad else ["--input", kind]))
    assert done.returncode == 2
    assert path.name in done.stderr
    assert done.stderr.count("\n") == 1
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    after.pop(folder / "stdout.txt", None)  # the log says so too
    assert after == before
