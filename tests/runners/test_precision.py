"""`precision: auto` takes the faster of bf16 and fp32, keeps it in config.yml, and draws no random numbers."""

import pytest
import torch
import yaml

import configs
import models
from models import checkpoint
from runners import precision

RUN = ["--runner", "LowRankHybridRunner", "--device", "cpu", "--doc", "auto"]
FRESH = [
    *(*RUN, "--config", "mnist.yml", "--ni", "--rank", "2", "--noise", "0.2", "1.0", "--set", "data.dataset=Digits"),
    *("--set", "data.image_size=8", "--set", "data_dir=data", "--set", "model.unet.widths=[8, 8]"),
    *("--set", "model.taper=null", "--set", "loss=centered", "--set", "batch_size=32", "--set", "max_steps=3"),
]


@pytest.fixture
def timer(monkeypatch):
    """Sets what a pass is to take in each precision, in seconds."""

    def takes(fp32: float, bf16: float) -> None:
        def step_time(network, config, rows, in_bf16, device):
            torch.randn(3)
            return bf16 if in_bf16 else fp32

        monkeypatch.setattr(precision, "step_time", step_time)

    return takes


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(2, 1, "bf16"), (1, 2, "fp32"), (1, 0.95, "fp32")])
def test_the_faster_one_is_taken(timer, caplog, fp32, bf16, chosen):
    timer(fp32 / 1e3, bf16 / 1e3)
    config = configs.load(configs.find("digits_low_rank.yml"), ["model.ngf=8"], runner="LowRankHybridRunner")
    caplog.set_level("INFO")
    before = torch.get_rng_state()
    assert precision.faster(config, 16, torch.device("cpu")) == chosen
    assert torch.equal(torch.get_rng_state(), before)
    assert f"precision: {chosen} (a pass of 16 points: fp32 {fp32:.1f} ms, bf16 {bf16:.1f} ms)" in caplog.text


def test_the_shortest_pass_counts_and_the_first_two_do_not(monkeypatch):
    times = {False: iter([1, 1, 9, 4, 9, 9, 9]), True: iter([1, 1, 3, 9, 9, 9, 9])}
    monkeypatch.setattr(precision, "step_time", lambda network, config, rows, bf16, device: next(times[bf16]))
    config = configs.load(configs.find("digits_dsm.yml"), ["model.ngf=8"], runner="UnetDSMRunner")
    assert precision.faster(config, 16, torch.device("cpu")) == "bf16"


def test_a_processor_without_bf16_is_known_by_the_first_pass(monkeypatch):
    times = {False: iter([1]), True: iter([20])}
    monkeypatch.setattr(precision, "step_time", lambda network, config, rows, bf16, device: next(times[bf16]))
    config = configs.load(configs.find("digits_dsm.yml"), ["model.ngf=8"], runner="UnetDSMRunner")
    assert precision.faster(config, 16, torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("name", "runner"), [("digits_dsm.yml", "UnetDSMRunner"), ("digits_low_rank.yml", "LowRankHybridRunner")]
)
@pytest.mark.parametrize("bf16", [True, False])
def test_a_pass_goes_forward_and_backward_in_its_precision(name, runner, bf16):
    config = configs.load(configs.find(name), ["model.ngf=8"], runner=runner)
    network = models.build(config, config.data.shape)
    types, backward = set(), []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, inputs, output: types.add(output.dtype))
            layer.weight.register_hook(backward.append)
    seconds = precision.step_time(network, config, 4, bf16, torch.device("cpu"))
    assert seconds > 0
    assert types == {torch.bfloat16 if bf16 else torch.float32}
    assert len(backward) == sum(isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) for layer in network.modules())
    assert all(weight.grad is None for weight in network.parameters())


def test_a_run_keeps_its_choice(command, timer, tmp_path):
    """On the way back the machine may be another one: the precision is that of config.yml, whatever is faster now."""
    timer(2.0, 1.0)
    done = command(*FRESH)
    assert done.returncode == 0, done.stderr
    assert "training on cpu in bf16: steps 0 to 3" in done.stdout
    folder = tmp_path / "runs/logs/auto_rank2"
    assert yaml.safe_load((folder / "config.yml").read_text())["precision"] == "bf16"
    timer(1.0, 2.0)
    file = ["--config", "mnist.yml", *(part for part in FRESH[6:] if part != "--ni")]
    done = command(*RUN, *file, "--resume_training", "--set", "max_steps=5")
    assert done.returncode == 0, done.stderr
    assert "training on cpu in bf16: steps 3 to 5" in done.stdout
    assert checkpoint.read(folder / "ckpt/checkpoint.pth")["step"] == 5
    assert yaml.safe_load((folder / "config.yml").read_text())["precision"] == "bf16"


def test_auto_takes_the_very_steps_of_its_choice(command, timer, tmp_path):
    timer(1.0, 2.0)
    assert command(*FRESH).returncode == 0
    assert command(*FRESH, "--doc", "given", "--set", "precision=fp32").returncode == 0
    auto, given = (
        checkpoint.read(tmp_path / f"runs/logs/{name}_rank2/ckpt/checkpoint.pth") for name in ("auto", "given")
    )
    assert all(torch.equal(value, given["model"][name]) for name, value in auto["model"].items())
