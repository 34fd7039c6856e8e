import torch

from experiments import speed


def test_step_time_is_that_of_the_changed_configuration():
    seconds, batch = speed.step_time("digits_dsm.yml", torch.device("cpu"), repeats=1, batch_size=4)
    assert batch == 4
    assert 0 < seconds < 60


def test_table_names_every_configuration_and_variant(monkeypatch, capsys):
    monkeypatch.setattr(speed, "step_time", lambda name, device, repeats, **changes: (0.5, changes["batch_size"]))
    speed.main(["step", "--device", "cpu", "--batch-size", "3"])
    rows = [line for line in capsys.readouterr().out.splitlines() if ".yml" in line]
    assert len(rows) == len(speed.STEP_CONFIGS) * len(speed.STEP_VARIANTS)
    assert all(row.endswith("6.0    1.00") for row in rows)
