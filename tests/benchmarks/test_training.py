import csv
from dataclasses import replace

import pytest
import torch

import configs
import losses
from benchmarks import training

CPU = torch.device("cpu")
DIGITS = "digits_low_rank.yml", "LowRankHybridRunner"


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("loss", ["dsm", "dsm_vr"])
def test_step_time_of_both_arrangements(published, loss):
    changes = {"batch_size": 2, "loss": loss, "rank": 2}
    assert 0 < training.step_time(*DIGITS, CPU, repeats=1, published=published, **changes) < 60


@pytest.mark.parametrize("loss", ["dsm", "dsm_vr"])
def test_the_published_arrangement_minimises_the_same(tmp_path, loss, monkeypatch):
    """With the same noise for both orders, it has the value of our arrangement."""
    overrides = ["model.covariance=free", f"loss={loss}", "batch_size=4"]
    config = configs.load(configs.find("digits_diagonal.yml"), overrides, runner="DoubleDiagonalHybridRunner")
    runner, state, batch = training.fresh_runner(config, tmp_path, CPU)
    noise = torch.randn_like(batch)
    ours = runner.batch_losses(state, batch, noise)["loss"]
    perturb = losses.perturb
    monkeypatch.setattr(losses, "perturb", lambda *args, **options: perturb(*args, **(options | {"noise": noise})))
    torch.testing.assert_close(training.published_losses(runner, state, batch), ours, rtol=1e-4, atol=1e-3)


def test_a_published_step_moves_the_weights(tmp_path):
    config = configs.load(configs.find(DIGITS[0]), ["batch_size=4", "loss=dsm_vr"], runner=DIGITS[1])
    runner, state, batch = training.fresh_runner(config, tmp_path, CPU)
    before = [value.clone() for value in state.network.parameters()]
    training.published_step(runner, state, batch)
    assert state.step == 1
    assert all(not torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))


def test_table_has_a_row_for_every_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "step_time", lambda *args, **changes: 0.5)
    training.main(["--device", "cpu", "--batch-size", "3", "--results", str(tmp_path)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("6.0   1.00")]
    assert len(rows) == len(training.STEPS)
    assert len({(step.config, step.variant) for step in training.STEPS}) == len(training.STEPS)
    lines = (tmp_path / "benchmark_training.csv").read_text().splitlines()
    assert len(list(csv.DictReader(line for line in lines if not line.startswith("#")))) == len(rows)


def test_table_of_some_steps(tmp_path, monkeypatch, capsys):
    smallest = [replace(step, changes=step.changes | {"rank": 2}) for step in training.STEPS]
    monkeypatch.setattr(training, "STEPS", smallest)
    training.main(["--device", "cpu", "--batch-size", "2", "--repeats", "1", "--results", str(tmp_path),
                   "--only", "digits_dsm.yml", "--variants", "fp32", "bf16"])  # fmt: skip
    assert capsys.readouterr().out.count("digits_dsm.yml") == 4  # as it comes, and in the table
