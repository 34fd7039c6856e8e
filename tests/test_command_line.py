"""Bad command lines and bad files: each gets its line on stderr and exit code 2, and touches nothing."""

import subprocess
import sys

import numpy as np
import pytest

import main
from tests.conftest import ROOT

GOOD = ["--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--doc", "x", "--ni", "--device", "cpu"]


def with_flag(*flags: str) -> list[str]:
    return [*GOOD, *flags]


def with_set(text: str) -> list[str]:
    return with_flag("--set", text)


COMMAND_LINES = {
    "no runner": (["--config", "digits_dsm.yml"], "--runner"),
    "wrong runner": (["--runner", "UnetDSMRuner"], "did you mean UnetDSMRunner"),
    "runner is code": (["--runner", "__import__('os')"], "is not a runner; one of UnetDSMRunner"),
    "unknown flag": (with_flag("--nose", "0.5"), "unrecognized arguments: --nose"),
    "noise is text": (with_flag("--noise", "much"), "--noise: invalid float value: 'much'"),
    "noise negative": (with_flag("--noise", "-0.5"), "--noise -0.5: input should be greater than 0"),
    "noise zero": (with_flag("--noise", "0"), "--noise 0.0: input should be greater than 0"),
    "noise nan": (with_flag("--noise", "nan"), "--noise nan: input should be a finite number"),
    "noise infinite": (with_flag("--noise", "inf"), "--noise inf: input should be a finite number"),
    "rank zero": (with_flag("--rank", "0"), "--rank 0: input should be greater than or equal to 1"),
    "seed negative": (with_flag("--seed", "-1"), "--seed -1: input should be greater than or equal to 0"),
    "verbose": (with_flag("--verbose", "loud"), "invalid choice: 'loud'"),
    "two modes": (with_flag("--test", "--resume_training"), "not allowed with argument --test"),
    "no config": (["--runner", "UnetDSMRunner"], "--config is missing"),
    "config not there": (with_flag("--config", "none.yml"), "none.yml: no such file, here or in configs/, which has: "),
    "doc leaves": (with_flag("--doc", "../../x"), "--doc '../../x': leads out of runs/logs"),
    "doc absolute": (with_flag("--doc", "/tmp/x"), "leads out of runs/logs"),
    "doc empty": (with_flag("--doc", ""), "--doc '': leads out of"),
    "image folder leaves": (with_flag("-i", "../.."), "--image_folder '../..': leads out of"),
    "device not there": (with_flag("--device", "cuda:99"), "--device cuda:99: not on this machine, which has "),
    "device unknown": (with_flag("--device", "abacus"), "--device abacus: not on this machine, which has "),
    "device of no use": (with_flag("--device", "meta"), "--device meta: cuda, cuda:N, mps or cpu is expected"),
    "set without value": (with_set("lr"), "--set lr: write it as key=value"),
    "set unknown": (with_set("batch_szie=3"), "unknown key batch_szie; did you mean batch_size?"),
    "set in wrong section": (with_set("ngf=3"), "unknown key ngf; did you mean model.ngf?"),
    "set below a value": (with_set("lr.x=3"), "lr is a single value"),
    "set broken yaml": (with_set("lr=[1"), "[1 is not valid YAML"),
    "set section": (with_set("model=3"), "--set model=3: a section with keys of its own is expected"),
    "lr negative": (with_set("lr=-1"), "--set lr=-1: input should be greater than 0"),
    "lr is truth": (with_set("lr=true"), "a number is expected, not true or false"),
    "batch is text": (with_set("batch_size=many"), "input should be a valid integer"),
    "batch too large": (
        with_set("batch_size=5000"),
        "5000 is more than the 1438 training images of Digits",
    ),
    "size does not fit": (with_set("data.image_size=28"), "do not fit Digits, whose images are 8×8"),
    "size small": (with_set("data.image_size=3"), "--set data.image_size=3: a whole number of pixels from 4 on is"),
    "channels": (with_set("data.channels=2"), "input should be 1 or 3"),
    "channels do not fit": (with_set("data.channels=3"), "do not fit Digits, whose images are 8×8 with 1 channel(s)"),
    "data set unknown": (with_set("data.dataset=SVHN"), "SVHN: one of Digits, MNIST, "),
    "said twice": (with_set("img=28"), "img is 28 and data.image_size is 8"),
    "loss unknown": (with_set("loss=mse"), "--set loss=mse: one of dsm, dsm_vr, "),
    "precision unknown": (with_set("precision=fp8"), "input should be 'fp32', 'bf16' or 'auto'"),
    "ema rate": (with_set("model.ema_rate=1.5"), "input should be less than 1"),
    "no images": (with_set("data.dataset=npz"), "data_dir: neither a file data nor data_train.npz"),
    "an image of points": (
        ["--runner", "SyntheticRunner", *GOOD[2:]],
        "data.dataset: SyntheticRunner trains on Synthetic, not on Digits",
    ),
    "points for images": (
        with_flag("--config", "synthetic/plane.yml"),
        "data.dataset: UnetDSMRunner trains on images, not on Synthetic",
    ),
    "points mirrored": (
        with_flag("--config", "synthetic/plane.yml", "--set", "data.random_flip=true"),
        "only images can be mirrored",
    ),
    "a plane of five dimensions": (
        [*("--runner", "SyntheticRunner", "--config", "synthetic/plane.yml", "--ni", "--set", "data.dimension=5")],
        "data.dimension: 5 does not fit two_moons, whose points have 2 values; 2 is expected",
    ),
    "second order without a head": (
        [*("--runner", "SyntheticRunner", "--config", "synthetic/plane.yml", "--ni", "--set", "model.head=none")],
        "is of the second order, and model.head is none; one of dsm, dsm_vr",
    ),
    "nothing to test": (with_flag("--test"), "runs/logs/x: no run folder; check --run, --doc and --rank"),
    "nothing to resume": (with_flag("--resume_training"), "runs/logs/x: no run folder; check --run, --doc and --rank"),
}


@pytest.mark.parametrize("case", COMMAND_LINES)
def test_bad_command_line(case, tmp_path, command):
    arguments, message = COMMAND_LINES[case]
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


FILES = {
    "unknown key": ("batch_szie: 3", "bad.yml: batch_szie: unknown key; did you mean batch_size?"),
    "unknown key in a section": ("model: {nfg: 3}", "bad.yml: model.nfg: unknown key; did you mean model.ngf?"),
    "wrong type": ("max_epochs: many", "bad.yml: max_epochs: 'many': input should be a valid integer"),
    "half an epoch": ("max_epochs: 0.5", "bad.yml: max_epochs: 0.5: input should be a valid integer"),
    "truth as text": ("model: {ema: maybe}", "bad.yml: model.ema: 'maybe': input should be a valid boolean"),
    "noise": ("noise: -.inf", "bad.yml: noise: -inf: input should be a finite number"),
    "not a mapping": ("- a\n- b", "bad.yml: a mapping of keys to values is expected, this is a list"),
    "not yaml": ("lr: [1, 2\nx: 3", "bad.yml, line 2: not valid YAML"),
    "section missing": ("data: digits", "bad.yml: data: 'digits': a section with keys of its own is expected"),
    "null": ("batch_size:", "bad.yml: batch_size: None: input should be a valid integer"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_file(case, tmp_path, command):
    text, message = FILES[case]
    (tmp_path / "bad.yml").write_text(text)
    done = command("--runner", "UnetDSMRunner", "--config", "bad.yml", "--ni")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yml"]


def test_binary_file_and_folder_as_config(tmp_path, command):
    (tmp_path / "bad.yml").write_bytes(np.arange(256, dtype=np.uint8).tobytes())
    assert "bad.yml: not a text file" in command("--runner", "UnetDSMRunner", "--config", "bad.yml").stderr
    assert "no such file" in command("--runner", "UnetDSMRunner", "--config", tmp_path).stderr


def test_help_does_not_import_torch():
    code = "import sys, main\ntry: main.parse(['--help'])\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0
    assert done.stderr.strip() == "False"
    for flag in ("--runner", "--config", "--seed", "--run ", "--doc", "--comment", "--verbose", "--test", "--set",
                 "--resume_training", "--image_folder", "--ni", "--noise", "--rank", "--device"):  # fmt: skip
        assert flag in done.stdout


def test_published_defaults():
    args = main.parse(["--runner", "UnetDSMRunner"])
    assert (args.run, args.doc, args.verbose, args.image_folder) == ("runs", "0", "info", "images")
    import configs

    defaults = configs.Config()
    assert (defaults.seed, defaults.noise, defaults.rank) == (1234, 0.5, 50)


def test_a_process_ends_with_the_code(tmp_path):
    call = [sys.executable, ROOT / "main.py", *with_flag("--noise", "-1")]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "main.py: --noise -1.0: input should be greater than 0\n"
