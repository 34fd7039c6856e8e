"""Images that are not square, or of odd size: trained, tested and explained where the network takes them."""

import json

import numpy as np
import pytest
from PIL import Image

BASE = ["--config", "digits_low_rank.yml", "--noise", "0.3", "--rank", "2", "--doc", "x", "--device", "cpu", "--ni"]
SMALL = ["data.dataset=npz", "data_dir=own", "max_steps=2", "batch_size=4", "model.ngf=8", "model.unet.widths=[8, 16]"]


def settings(*texts: str) -> list[str]:
    return [part for text in (*SMALL, *texts) for part in ("--set", text)]


def write_images(folder, size: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(8, *size), dtype=np.uint8)
    for split in ("train", "test"):
        np.savez(folder / f"own_{split}.npz", images=pixels)


@pytest.mark.parametrize(
    ("runner", "network", "trunk", "size"),
    [
        ("UnetDSMRunner", "refinenet", "separate", (8, 12)),
        ("LowRankHybridRunner", "refinenet", "shared", (12, 6)),
        ("DoubleDiagonalHybridRunner", "mlp", "shared", (5, 7)),
        ("LowRankHybridRunner", "unet", "shared", (9, 7)),
        ("UnetDSMRunner", "unet", "shared", (6, 11, 3)),
    ],
)
def test_every_network_and_runner(tmp_path, command, runner, network, trunk, size):
    write_images(tmp_path, size)
    height, width, channels = (*size, 1)[:3]
    shape = [f"data.image_size=[{height}, {width}]", f"data.channels={channels}"]
    network = [f"model.network={network}", f"model.trunk={trunk}", "data.random_flip=true", "loss=dsm"]
    done = command("--runner", runner, *BASE, *settings(*shape, *network))
    assert done.returncode == 0, done.stderr
    call = ["--runner", runner, "--doc", "x", "--test", "--device", "cpu"]
    assert command(*call).returncode == 0
    folder = next((tmp_path / "runs/logs").iterdir())
    assert json.loads((folder / "metrics.json").read_text())["images"] == 8
    picture = np.random.default_rng(1).integers(256, size=(2 * height, 3 * width, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "mine.png")
    done = command(*call, "--input", "mine.png", "--resize", "--clean")
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "images/input/mine_denoised.png") as image:
        assert image.size == (width, height)


@pytest.mark.parametrize(
    ("size", "network", "message"),
    [
        ("[7, 8]", "refinenet", "model.network: refinenet takes images of even height and width from 4 on, not 7×8"),
        ("9", "refinenet", "model.network: refinenet takes images of even height and width from 4 on, not 9×9 pixels;"),
        ("[3, 8]", "mlp", "--set data.image_size=[3, 8]: a whole number of pixels from 4 on is expected, or a pair"),
        ("[8, 8, 8]", "mlp", "a whole number of pixels from 4 on is expected, or a pair of them, [H, W]"),
        ("wide", "mlp", "a whole number of pixels from 4 on is expected, or a pair of them, [H, W]"),
        ("true", "mlp", "a whole number of pixels from 4 on is expected, or a pair of them, [H, W]"),
        ("[8, 4]", "mlp", "an array of shape (8, 7, 8); images of 8×4 with 1 channel(s) are expected"),
    ],
)
def test_sizes_that_are_refused(tmp_path, command, size, network, message):
    write_images(tmp_path, (9, 9) if size == "9" else (7, 8))
    done = command(
        "--runner", "UnetDSMRunner", *BASE, *settings(f"data.image_size={size}", f"model.network={network}", "loss=dsm")
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_images_too_small_for_the_levels_of_a_unet(tmp_path, command):
    write_images(tmp_path, (4, 9))
    options = ["data.image_size=[4, 9]", "model.network=unet", "model.unet.widths=[8, 8, 8, 8, 8]", "loss=dsm"]
    done = command("--runner", "UnetDSMRunner", *BASE, *settings(*options))
    assert done.returncode == 2
    assert "model.unet.widths: images of 4×9 pixels are too small for levels that divide by 16; fewer" in done.stderr
