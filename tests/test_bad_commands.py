"""Bad command lines, configurations and files, each with the one line that it gets and exit code 2; nothing is written.

Those that name a runner or a configuration that is not there are in test_command_line.py, and wrong calls in Python in
test_bad_input.py.
"""

import os
import shlex
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import test_command_line

OWN_DENOISER = """
import models

LEVELS = (0.01, 1.0)
model = models.from_denoiser(lambda x, sigma: x / (1 + sigma**2), LEVELS, (3, None, None), values=(0, 1))
"""
DIGITS = ["--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--doc", "x", "--ni", "--device", "cpu"]

SETTINGS = {
    "batch_size=0": "input should be greater than or equal to 1",
    "batch_size=2.5": "input should be a valid integer",
    "batch_size=[1]": "input should be a valid integer",
    "max_epochs=0": "input should be greater than or equal to 1",
    "max_epochs=true": "input should be a valid integer",
    "max_steps=0": "input should be greater than or equal to 1",
    "max_steps=-5": "input should be greater than or equal to 1",
    "max_steps=soon": "input should be a valid integer",
    "lr=0": "input should be greater than 0",
    "lr=nan": "input should be a finite number",
    "lr=inf": "input should be a finite number",
    "lr=fast": "input should be a valid number",
    "lr=null": "input should be a valid number",
    "betas=0.9": "input should be a valid tuple",
    "betas=[0.9]": "betas.1: [0.9]: field required",
    "betas=[0.9, 1.0]": "betas.1: 1.0: input should be less than 1",
    "betas=[0.9, 0.99, 0.999]": "tuple should have at most 2 items after validation, not 3",
    "weight_decay=-1": "input should be greater than or equal to 0",
    "weight_decay=x": "input should be a valid number",
    "warmup_steps=-1": "input should be greater than or equal to 0",
    "warmup_steps=1.5": "input should be a valid integer",
    "lr_schedule=linear": "input should be 'constant' or 'cosine'",
    "clip_grad=0": "input should be greater than 0",
    "clip_grad=-1": "input should be greater than 0",
    "clip_grad=all": "input should be a valid number",
    "precision=16": "input should be 'fp32', 'bf16' or 'auto'",
    "channels_last=1": "input should be a valid boolean",
    "compile=2": "input should be a valid boolean",
    "print_every=0": "input should be greater than or equal to 1",
    "save_interval=0": "input should be greater than or equal to 1",
    "checkpoint_epochs=0": "input should be greater than or equal to 1",
    "checkpoint_minutes=-1": "input should be greater than or equal to 0",
    "checkpoint_minutes=often": "input should be a valid number",
    "seed=1.5": "input should be a valid integer",
    "seed=9223372036854775808": "input should be less than 9223372036854775808",
    "seed=abc": "input should be a valid integer",
    "noise=[]": "one noise level, or the lowest and the highest of a range, is expected",
    "noise=[1, 0.5]": "one noise level, or the lowest and the highest of a range, is expected",
    "noise=[0.1, 0.2, 0.3]": "one noise level, or the lowest and the highest of a range, is expected",
    "noise=[0, 1]": "input should be greater than 0",
    "noise={a: 1}": "input should be a valid number",
    "noise=null": "input should be a valid number",
    "rank=-1": "input should be greater than or equal to 1",
    "rank=many": "input should be a valid integer",
    "comment=[1]": "input should be a valid string",
    "loss=": "input should be a valid string",
    "loss=[dsm]": "input should be a valid string",
    "model.network=resnet": "one of refinenet, mlp, mlp_softplus, unet is expected",
    "model.ngf=1": "input should be greater than or equal to 2",
    "model.ngf=1.5": "input should be a valid integer",
    "model.trunk=both": "input should be 'separate' or 'shared'",
    "model.covariance=negative": "input should be 'free' or 'positive'",
    "model.head=full": "input should be 'none', 'diagonal' or 'low_rank'",
    "model.ema=maybe": "input should be a valid boolean",
    "model.ema_rate=-0.1": "input should be greater than or equal to 0",
    "model.ema_rate=1": "input should be less than 1",
    "model.ema_ramp=2": "input should be a valid boolean",
    "model.unet.widths=[]": "list should have at least 1 item after validation, not 0",
    "model.unet.widths=32": "input should be a valid list",
    "model.unet.widths=[0]": "model.unet.widths.0: 0: input should be greater than or equal to 1",
    "model.unet.blocks=0": "input should be greater than or equal to 1",
    "model.unet.attention=-1": "input should be greater than or equal to 0",
    "model.unet.dropout=1": "input should be less than 1",
    "model.unet.dropout=-0.5": "input should be greater than or equal to 0",
    "model.unet.positions=here": "input should be a valid boolean",
    "model.unet.deep=3": "unknown key model.unet.deep; did you mean model.unet?",
    "model.unet=big": "a section with keys of its own is expected",
    "model.second_order=old": "input should be 'begun', 'fresh' or 'features'",
    "model.covariance_positions=no way": "input should be a valid boolean",
    "model.orthogonal=1": "input should be a valid boolean",
    "data.image_size=0": "a whole number of pixels from 4 on is expected, or a pair of them, [H, W]",
    "data.image_size=-8": "a whole number of pixels from 4 on is expected, or a pair of them, [H, W]",
    "data.image_size=8.5": "a whole number of pixels from 4 on is expected, or a pair of them, [H, W]",
    "data.image_size={h: 8}": "a whole number of pixels from 4 on is expected, or a pair of them, [H, W]",
    "data.channels=0": "input should be 1 or 3",
    "data.channels=RGB": "input should be 1 or 3",
    "data.mean=much": "input should be a valid number",
    "data.std=0": "input should be greater than 0",
    "data.std=-1": "input should be greater than 0",
    "data.random_flip=often": "input should be a valid boolean",
    "data.density=moons": "one of normal, independent_normal, logistics, wide_logistics",
    "data.dimension=1": "input should be greater than or equal to 2",
    "data.dimension=2.5": "input should be a valid integer",
    "data.size=0": "input should be greater than or equal to 1",
    "data.size=2000000000": "input should be less than or equal to 1000000000",
    "data.workers=-1": "input should be greater than or equal to 0",
    "data.workers=some": "input should be a valid integer",
    "data.colour=red": "unknown key data.colour; did you mean data.crop?",
    "data_dir=3": "input should be a valid string",
    "data=[1]": "a section with keys of its own is expected",
    "lr": "write it as key=value or section.key=value",
    "=3": "write it as key=value or section.key=value",
    "lr==3": "input should be a valid number",
    "lr.=3": "write it as key=value or section.key=value",
    ".lr=3": "write it as key=value or section.key=value",
    "model..ngf=3": "write it as key=value or section.key=value",
    "model.=3": "write it as key=value or section.key=value",
    "nois=0.5": "unknown key nois; did you mean noise?",
    "lr={a: 1}": "input should be a valid number",
}
"""Values of --set that are none, on the digits: the line begins with `--set VALUE: `."""

TOGETHER = {
    "lr_schedule=cosine": "digits_dsm.yml: lr_schedule is cosine and max_steps is not given",
    "noise=[0.1, 1]": "digits_dsm.yml: noise is a range and model.network is refinenet; unet takes a range",
    "loss=centered": "loss: UnetDSMRunner has no centered; one of dsm, dsm_vr",
    "model.denoiser=nowhere": "digits_dsm.yml: model.denoiser is given and model.network is refinenet; unet is",
    "model.taper_learned=true": "digits_dsm.yml: model.taper_learned is true and model.taper is not given",
    "dataset=MNIST": "digits_dsm.yml: dataset is MNIST and data.dataset is Digits; they name the same thing",
    "channel=3": "digits_dsm.yml: channel is 3 and data.channels is 1; they name the same thing: make them equal",
    "a.b.c=1": "digits_dsm.yml: a: unknown key; did you mean rank?",
}
"""Values of --set that do not go together with others."""

TAPERED = ["--runner", "LowRankHybridRunner", "--config", "mnist.yml", "--doc", "x", "--ni", "--device", "cpu",
           "--rank", "4", "--set", "data.dataset=Digits", "--set", "data.image_size=8",
           "--set", "model.taper=null"]  # fmt: skip
RANGE = {
    "model.taper={2: 3}": "mnist.yml: model.taper has 3 columns and rank is 4; make them equal",
    "model.taper={0: 4}": "--set model.taper={0: 4}: model.taper.0: 0: input should be greater than 0",
    "model.taper={-1: 4}": "--set model.taper={-1: 4}: model.taper.-1: -1: input should be greater than 0",
    "model.taper={2: 0}": "--set model.taper={2: 0}: model.taper.2: 0: input should be greater than or equal to 1",
    "model.taper={wide: 4}": "--set model.taper={wide: 4}: model.taper.wide: 'wide': input should be a valid number",
    "model.taper=[2, 4]": "--set model.taper=[2, 4]: input should be a valid dictionary",
    "model.taper={.nan: 4}": "--set model.taper={.nan: 4}: model.taper.nan: nan: input should be greater than 0",
    "loss=nppc": "mnist.yml: loss is nppc; model.network: unet and model.orthogonal: true are expected",
    "noise=[0.2, 0.2]": "noise=[0.2, 0.2]: one noise level, or the lowest and the highest of a range, is expected",
    "model.network=mlp": "mnist.yml: noise is a range and model.network is mlp; unet takes a range",
    "lr_schedule=none": "--set lr_schedule=none: input should be 'constant' or 'cosine'",
    "model.second_order=features  model.trunk=shared": "second_order is features and model.trunk is shared; separate",
    "model.orthogonal=true  model.taper={2: 4}": "orthogonal is true and model.taper is given; tapered columns cannot",
    "model.denoiser=nowhere": "nowhere: not a run folder or a checkpoint in one",
}
"""Those of a network for a range of noise levels; several are parted by two blanks."""

POINTS = {
    "rank=3": "rank: 3 columns for points of 2 values; at most 2 is allowed",
    "data.density=rings  data.dimension=3": "data.dimension: 3 does not fit rings, whose points have 2 values; 2 is",
    "data.size=10": "batch_size: 512 is more than the 10 training images of Synthetic; at most 10 is allowed",
    "data.dataset=npz": "data.dataset: SyntheticRunner trains on Synthetic, not on npz",
}
"""Those of a run on points of the plane."""

FLAGS = {
    "--rank 1.5": "argument --rank: invalid int value: '1.5'",
    "--rank x": "argument --rank: invalid int value: 'x'",
    "--rank -3": "--rank -3: input should be greater than or equal to 1",
    "--seed 1.5": "argument --seed: invalid int value: '1.5'",
    "--seed x": "argument --seed: invalid int value: 'x'",
    "--seed 9223372036854775808": "--seed 9223372036854775808: input should be less than 9223372036854775808",
    "--noise": "argument --noise: expected at least one argument",
    "--noise 0.2 0.5": "digits_dsm.yml: noise is a range and model.network is refinenet; unet takes a range",
    "--noise 0.5 0.2": "--noise 0.5 0.2: one noise level, or the lowest and the highest of a range, is expected",
    "--noise 0.1 0.2 0.3": "--noise 0.1 0.2 0.3: one noise level, or the lowest and the highest of a range, is",
    "--noise auto": "argument --noise: auto only with --input; a number is expected",
    "--noise 0.2 x": "argument --noise: invalid float value: 'x'",
    "--noise ''": "argument --noise: invalid float value: ''",
    "--noise 1/0": "argument --noise: invalid float value: '1/0'",
    "--noise 25/": "argument --noise: invalid float value: '25/'",
    "--noise 1/2/3": "argument --noise: invalid float value: '1/2/3'",
    "--noise auto/2": "argument --noise: invalid float value: 'auto/2'",
    "--model x": "argument --model: only with --input",
    "--test --input ''": "argument --input: empty; a path is expected",
    "--test --model nowhere --input x": "argument --config: not with --model, which says what answers",
    "--region 0 0 4 4": "argument --region: only with --input",
    "--region 0 0 4": "argument --region: expected 4 arguments",
    "--region 0 0 4 x": "argument --region: invalid int value: 'x'",
    "--region 0 0 4 1.5": "argument --region: invalid int value: '1.5'",
    "--test --region 0 0 4 4": "argument --region: only with --input",
    "--measure blur:2": "argument --measure: only with --input",
    "--measure": "argument --measure: expected one argument",
    "--test --input x.png --measure blur:2": "argument --noise: a number is expected with --measure, of the noise",
    "--resize": "argument --resize: only with --input",
    "--clean": "argument --clean: only with --input",
    "--output o": "argument --output: only with --input",
    "--input x.png": "argument --input: only with --test",
    "--doc a/../../..": "--doc 'a/../../..': leads out of runs/logs; a plain name is expected",
    "--doc .": "--doc '.': leads out of runs/logs; a plain name is expected",
    "--config ''": "--config : no such file, here or in configs/",
    "--config configs": "--config configs: no such file, here or in configs/",
    "--set": "argument --set: expected one argument",
    "--set ''": "--set : write it as key=value or section.key=value",
    "--verbose": "argument --verbose: expected one argument",
    "--device ''": "--device : not on this machine",
    "--device cuda:x": "--device cuda:x: not on this machine",
    "--ni=yes": "argument --ni: ignored explicit argument 'yes'",
    "--comment": "argument --comment: expected one argument",
    "extra": "unrecognized arguments: extra",
    "--tes": "unrecognized arguments: --tes",
    "--test --resume_training": "argument --resume_training: not allowed with argument --test",
    "--resume_training --input x": "argument --input: only with --test",
    "--test --output o": "argument --output: only with --input",
    "--test --input x.png --set model.denoiser=nowhere": "runs/logs/x: no run folder; check --run, --doc and --rank",
    "--test --input x.png": "runs/logs/x: no run folder; check --run, --doc and --rank",
    "--image_folder /tmp": "--image_folder '/tmp': leads out of runs/logs/x; a plain name is expected",
    "--image_folder ''": "--image_folder '': leads out of runs/logs/x; a plain name is expected",
    "-i .": "--image_folder '.': leads out of runs/logs/x; a plain name is expected",
    "--runner SyntheticRunner": "data.dataset: SyntheticRunner trains on Synthetic, not on Digits",
    "--runner ''": "argument --runner:  is not a runner; one of UnetDSMRunner",
    "--runner unetdsmrunner": "argument --runner: unetdsmrunner is not a runner",
}
"""Command lines that end so."""


def write(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)


def picture(name: str, mode: str = "L", size: tuple[int, int] = (8, 8), kept: int | None = None) -> None:
    """A picture, of which only the first bytes are kept."""
    Image.frombytes(mode, size, bytes(range(256)) * 9, "raw", mode).save(name)
    if kept is not None:
        os.truncate(name, kept)


def archive(name: str, kept: int | None = None, **arrays: np.ndarray) -> None:
    np.savez(name, **arrays)
    if kept is not None:
        os.truncate(name, kept)


def folder(name: str, *files: tuple) -> None:
    Path(name).mkdir()
    for file, *options in files:
        picture(f"{name}/{file}", *options)


def cut_array(name: str) -> None:
    np.save(name, np.zeros((3, 8, 8)))
    os.truncate(name, 300)


NO_IMAGE, NO_ARRAY = "cannot be read as an image (", "cannot be read as an array ("
TYPE = "uint8, or floats in the model's range, are expected"
SHAPE = "images of 8×8 with 1 channel(s) are expected"
BYTES = np.zeros((20, 8, 8), np.uint8)
OBJECTS = np.array([None] * 3, dtype=object)

INPUTS = {
    "none.png": (lambda name: None, "none.png: no such file or folder"),
    "link.png": (lambda name: Path(name).symlink_to("nowhere"), "link.png: no such file or folder"),
    "empty": (folder, "empty: the folder has no files"),
    "text.txt": (lambda name: write(name, b"hello"), f"text.txt: {NO_IMAGE}no known format); mend or remove it"),
    "empty.png": (lambda name: write(name, b""), f"empty.png: {NO_IMAGE}no known format)"),
    "text.png": (lambda name: write(name, b"hello"), f"text.png: {NO_IMAGE}no known format)"),
    "cut.png": (lambda name: picture(name, kept=48), f"cut.png: {NO_IMAGE}"),
    "cut.jpg": (lambda name: picture(name, kept=300), f"cut.jpg: {NO_IMAGE}"),
    "cut.gif": (lambda name: picture(name, "L", kept=30), f"cut.gif: {NO_IMAGE}"),
    "cut.bmp": (lambda name: picture(name, kept=30), f"cut.bmp: {NO_IMAGE}"),
    "cut.webp": (lambda name: picture(name, "RGB", kept=40), f"cut.webp: {NO_IMAGE}"),
    "cut.tiff": (lambda name: picture(name, kept=100), f"cut.tiff: {NO_IMAGE}"),
    "drawing.svg": (lambda name: write(name, b"<svg/>"), f"drawing.svg: {NO_IMAGE}no known format)"),
    "floats.tiff": (
        lambda name: Image.new("F", (8, 8)).save(name),
        f"floats.tiff: {NO_IMAGE}mode F has no known range",
    ),
    "wide.png": (
        lambda name: picture(name, size=(9, 8)),
        f"wide.png: an array of shape (8, 9); {SHAPE}; --resize makes",
    ),
    "text.npy": (lambda name: write(name, b"x"), f"text.npy: {NO_ARRAY}"),
    "cut.npy": (cut_array, f"cut.npy: {NO_ARRAY}mmap length is greater than file size)"),
    "objects.npy": (lambda name: np.save(name, OBJECTS, allow_pickle=True), f"objects.npy: {NO_ARRAY}"),
    "letters.npy": (lambda name: np.save(name, np.full((8, 8), "a")), f"letters.npy: images of type <U1; {TYPE}"),
    "complex.npy": (lambda name: np.save(name, np.zeros((8, 8), complex)), f"images of type complex128; {TYPE}"),
    "truth.npy": (lambda name: np.save(name, np.zeros((8, 8), bool)), f"images of type bool; {TYPE}"),
    "whole.npy": (lambda name: np.save(name, np.zeros((8, 8), int)), f"images of type int64; {TYPE}"),
    "wide.npy": (lambda name: np.save(name, np.zeros((8, 9))), f"wide.npy: an array of shape (8, 9); {SHAPE}"),
    "axes.npy": (lambda name: np.save(name, np.zeros((1, 1, 1, 8, 8))), f"an array of shape (1, 1, 1, 8, 8); {SHAPE}"),
    "number.npy": (lambda name: np.save(name, np.float64(3)), f"number.npy: an array of shape (); {SHAPE}"),
    "nothing.npy": (lambda name: np.save(name, np.zeros((0, 8, 8))), "nothing.npy: an array without images"),
    "nan.npy": (lambda name: np.save(name, np.full((8, 8), np.nan)), "nan.npy: the images have values that are not"),
    "inf.npy": (lambda name: np.save(name, np.full((8, 8), np.inf)), "inf.npy: the images have values that are not"),
    "colour.npy": (lambda name: np.save(name, np.zeros((2, 8, 8, 3))), f"an array of shape (2, 8, 8, 3); {SHAPE}"),
    "key.npz": (lambda name: archive(name, pictures=BYTES), "key.npz: the archive has no array 'images'"),
    "empty.npz": (archive, "empty.npz: the archive has no array 'images'"),
    "text.npz": (lambda name: write(name, b"x"), f"text.npz: {NO_ARRAY}not an archive, or the end of one is missing)"),
    "cut.npz": (lambda name: archive(name, 100, images=BYTES), f"cut.npz: {NO_ARRAY}not an archive, or the end of one"),
    "objects.npz": (
        lambda name: archive(name, images=OBJECTS),
        f"objects.npz: {NO_ARRAY}Object arrays cannot be loaded",
    ),
    "letters.npz": (
        lambda name: zipfile.ZipFile(name, "w").writestr("images.npy", "hello"),
        f"letters.npz: images of type |S5; {TYPE}",
    ),
    "one broken": (
        lambda name: folder(name, ("a.png",), ("b.png", "L", (8, 8), 48)),
        f"one broken/b.png: {NO_IMAGE}",
    ),
    "one small": (
        lambda name: folder(name, ("a.png",), ("b.png", "L", (4, 4))),
        f"one small/b.png: an array of shape (4, 4); {SHAPE}; --resize makes them so",
    ),
}
"""Files and folders for --input, which make them, of a model of digits at σ = 0.5."""

ASKED = {
    "--noise 0.4": "the model has scores at σ = 0.5, not at σ = 0.4",
    "--noise 0": "argument --noise: 0.0; a positive, finite number is expected, or auto",
    "--noise -1": "argument --noise: -1.0; a positive, finite number is expected, or auto",
    "--noise nan": "argument --noise: nan; a positive, finite number is expected, or auto",
    "--noise inf": "argument --noise: inf; a positive, finite number is expected, or auto",
    "--noise 0/255": "argument --noise: 0.0; a positive, finite number is expected, or auto",
    "--noise 25/255": "the model has scores at σ = 0.5, not at σ = 0.098",
    "--noise 0.2 0.5": "argument --noise: one level is expected with --input, or auto",
    "--region 4 0 8 8": "--region 4 0 8 8: good: a region of 8×8 pixels from (4, 0) on does not lie in a picture",
    "--region 0 -1 4 4": "--region 0 -1 4 4: good: a region of 4×4 pixels from (0, -1) on does not lie in a picture",
    "--region 0 0 0 4": "--region 0 0 0 4: good: a region of 0×4 pixels from (0, 0) on does not lie in a picture",
    "--noise auto --clean": "--noise auto: with --clean there is no noise yet to measure; give a number",
    "--measure blur:2 --noise 0.1": "--measure: the model has scores at σ = 0.5 alone; one of a range of levels is",
    "--measure x --noise 0.1": "--measure x: a mask picture, blur:σ or down:F is expected",
    "--measure blur:2 --noise auto": "argument --noise: a number is expected with --measure, of the noise of the",
    "--measure blur:2 --noise 0.1 --region 0 0 4 4": "argument --region: not with --measure",
    "--measure blur:2 --noise 0.1 --resize": "argument --resize: with --measure only for --clean images",
    "--seed -1": "--seed -1: input should be greater than or equal to 0",
    "--rank 3": "small: no run folder; check --run, --doc and --rank",
    "--set rank=3": "--set rank=3: {folder} was trained with 4; leave it out, or give that",
    "--set model.ngf=9": "--set model.ngf=9: {folder} was trained with 16; leave it out, or give that",
    "--set data.channels=3": "--set data.channels=3: {folder} was trained with 1; leave it out, or give that",
    "--set noise=0.4": "--set noise=0.4: {folder} was trained with 0.5; leave it out, or give that",
    "--config digits_dsm.yml": "digits_dsm.yml: loss is dsm there and centered in {folder}/config.yml; leave",
    "--output good.png": "good.png: cannot be written (File exists); --output DIR says where else",
}
"""What else is asked of it, with a picture that is good."""

FOREIGN = {
    "": "--noise is missing: the model has scores at σ from 0.01 to 1; give that of your images, or auto",
    "--noise 300/255": "the model has scores at σ from 0.01 to 1, not at σ = 1.17647",
    "--noise 0.1 --resize": "--resize: the model takes images of any size; leave it out",
    "--noise 0.1 --region 8 3 4 4": "--region 8 3 4 4: good: a region of 4×4 pixels from (8, 3) on does not lie in a",
    "--noise auto --clean": "--noise auto: with --clean there is no noise yet to measure; give a number",
    "--noise 0.1 --measure own_denoiser.py": "own_denoiser.py: cannot be read as an image (no known format)",
    "--noise 0.1 --measure mask.png": "--measure mask.png: a mask of 5×4 pixels; 8×9 are expected, as the images have",
    "--noise 0.1 --measure blur:-1": "--measure blur:-1: std is -1.0; a positive, finite number is expected",
    "--noise 0.1 --measure down:3 --clean": "--measure down:3: images of 8×9 cannot be divided into blocks of 3×3",
    "--noise 0.1 --input none.png": "none.png: no such file or folder",
    "--noise 0.1 --input flat.npy": "flat.npy: an array of shape (8, 9); pictures with 3 channel(s) are expected, (H,",
    "--noise 0.1 --output good.png": "good.png: cannot be written (File exists); --output DIR says where else",
    "--noise 0.1 --set model.denoiser=own_denoiser:none": "model.denoiser: own_denoiser:none cannot be had (module",
    "--noise 0.1 --set model.denoiser=no_module:model": "model.denoiser: no_module:model cannot be had (No module",
    "--noise 0.1 --set model.denoiser=own_denoiser:LEVELS": "own_denoiser:LEVELS is of type tuple; a function denoise",
    "--noise 0.1 --set model.denoiser=ffdnet:none.pth": "none.pth: no such",
    "--noise 0.1 --set lr=fast": "--set lr=fast: input should be a valid number",
    "--noise 0.1 --seed -1": "--seed -1: input should be greater than or equal to 0",
}
"""What is asked of somebody else's denoiser of colour pictures of any size, with a picture that is good."""

ARCHIVES = {
    "key": (lambda name: archive(name, x=BYTES), "has no array 'images'; (N, H, W) or (N, H, W, C) uint8 is expected"),
    "size": (lambda name: archive(name, images=BYTES[:, :, :5]), "an array of shape (20, 8, 5); images of 8×8 with 1"),
    "colour": (
        lambda name: archive(name, images=np.zeros((20, 8, 8, 3), np.uint8)),
        f"an array of shape (20, 8, 8, 3); {SHAPE}; see data.image_size and data.channels",
    ),
    "whole": (lambda name: archive(name, images=BYTES.astype(int)), f"images of type int64; {TYPE}"),
    "truth": (lambda name: archive(name, images=BYTES > 0), f"images of type bool; {TYPE}"),
    "complex": (lambda name: archive(name, images=BYTES.astype(complex)), f"images of type complex128; {TYPE}"),
    "letters": (lambda name: archive(name, images=BYTES.astype(str)), "images of type <U"),
    "nan": (lambda name: archive(name, images=BYTES * np.nan), "the images have values that are not finite"),
    "inf": (lambda name: archive(name, images=BYTES + np.inf), "the images have values that are not finite"),
    "objects": (lambda name: archive(name, images=OBJECTS), "cannot be read as .npz (Object arrays cannot be loaded"),
    "nothing": (lambda name: archive(name, images=BYTES[:0]), "an array without images"),
    "cut": (lambda name: archive(name, 150, images=BYTES), "cannot be read as .npz (not an archive, or the end of one"),
    "text": (lambda name: write(name, b"x"), "cannot be read as .npz (not an archive, or the end of one is missing)"),
    "empty": (lambda name: write(name, b""), "cannot be read as .npz (not an archive, or the end of one is missing)"),
}
"""Files of images to train on, which make them."""


def refuses(command, message: str, *arguments: object) -> None:
    """One line, exit code 2, and nothing that was not there."""
    before = sorted(Path.cwd().rglob("*"))
    done = command(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert sorted(Path.cwd().rglob("*")) == before


def sets(settings: str) -> list[str]:
    return [part for text in settings.split("  ") for part in ("--set", text)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_value_that_is_none(command, setting):
    refuses(command, f"main.py: --set {setting}: {SETTINGS[setting]}", *DIGITS, "--set", setting)


@pytest.mark.parametrize("setting", TOGETHER)
def test_values_that_do_not_go_together(command, setting):
    refuses(command, TOGETHER[setting], *DIGITS, "--set", setting)


@pytest.mark.parametrize("settings", RANGE)
def test_a_network_for_a_range(command, settings):
    refuses(command, RANGE[settings], *TAPERED, *sets(settings))


@pytest.mark.parametrize("settings", POINTS)
def test_a_run_on_points(command, settings):
    call = ["--runner", "SyntheticRunner", "--config", "synthetic/plane.yml", "--ni", "--device", "cpu"]
    refuses(command, POINTS[settings], *call, *sets(settings))


@pytest.mark.parametrize("flags", FLAGS)
def test_a_command_line(command, flags):
    refuses(command, FLAGS[flags], *DIGITS, *shlex.split(flags))


@pytest.fixture
def ask(command, small_run):
    """Asks a small model of digits about a file, `ask(message, *arguments)`."""
    folder = small_run("LowRankHybridRunner")
    call = ["--runner", "LowRankHybridRunner", "--run", folder.parent.parent, "--doc", "small", "--device", "cpu"]

    def of(message: str, *arguments: str) -> None:
        refuses(command, message.replace("{folder}", str(folder)), *call, "--test", "--output", "out", *arguments)

    return of


@pytest.mark.parametrize("name", INPUTS)
def test_a_file_of_images(ask, name):
    make, message = INPUTS[name]
    make(name)
    ask(message, "--input", name)


@pytest.mark.parametrize("flags", ASKED)
def test_what_a_model_cannot_be_asked(ask, flags):
    picture("good.png")
    ask(ASKED[flags], "--input", "good.png", *shlex.split(flags))


@pytest.mark.parametrize("flags", FOREIGN)
def test_what_a_denoiser_cannot_be_asked(command, monkeypatch, flags):
    write("own_denoiser.py", OWN_DENOISER.encode())
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "own_denoiser", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    picture("good.png", "RGB", (9, 8))
    picture("mask.png", "L", (4, 5))
    np.save("flat.npy", np.zeros((8, 9)))
    call = ["--runner", "UnetDSMRunner", "--test", "--device", "cpu", "--set", "model.denoiser=own_denoiser:model"]
    refuses(command, FOREIGN[flags], *call, "--input", "good.png", *shlex.split(flags))


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_to_train_on(command, kind):
    make, message = ARCHIVES[kind]
    make("own.npz")
    refuses(command, f"own.npz: {message}", *DIGITS, *sets("data.dataset=npz  data_dir=own.npz  batch_size=2"))


def test_there_are_two_hundred():
    tables = (SETTINGS, TOGETHER, RANGE, POINTS, FLAGS, INPUTS, ASKED, FOREIGN, ARCHIVES)
    others = (test_command_line.COMMAND_LINES, test_command_line.FILES)
    assert sum(map(len, tables)) >= 200
    assert sum(map(len, (*tables, *others))) >= 250
