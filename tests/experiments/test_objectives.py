import csv

import pytest

from experiments import objectives


def test_summary_has_mean_and_spread():
    base = dict.fromkeys(objectives.COLUMNS, 1.0)
    rows = [{"noise": 0.5, "method": "d2sm", "seed": s} | base | {"mse": v} for s, v in enumerate((1.0, 2.0, 3.0))]
    lines = objectives.summarise(rows).splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:5] == ["0.5", "d2sm", "2.0000", "±", "1.0000"]


@pytest.mark.parametrize("method", ["jacobian", "centered"])
def test_a_table_from_real_runs_resumes_where_it_stopped(tmp_path, monkeypatch, capsys, method):
    monkeypatch.chdir(tmp_path)
    call = ["--methods", method, "--noise", "0.5", "--seeds", "0", "--device", "cpu", "--run", "own",
            "--set", "model.ngf=8", "--set", "max_steps=3", "--set", "rank=10"]  # fmt: skip
    objectives.main(call)
    assert f"method {method}, seed 0" in capsys.readouterr().out
    with (tmp_path / "results/objectives_digits.csv").open() as file:
        lines = file.readlines()
    comments = [line for line in lines if line.startswith("#")]
    assert any("max_steps=3" in line for line in comments)
    (row,) = csv.DictReader(line for line in lines if not line.startswith("#"))
    assert row["method"] == method
    assert 0 < float(row["captured_1"]) < float(row["captured_5"]) < float(row["captured_10"]) < 1

    def trained_again(self, resume=False):
        raise AssertionError("trained again")

    monkeypatch.setattr("runners.runner.Runner.train", trained_again)
    objectives.main(call)
