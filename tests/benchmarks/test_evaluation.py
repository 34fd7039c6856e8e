import csv

import pytest

from benchmarks import evaluation
from benchmarks.evaluation import Way

DIGITS = "digits_low_rank.yml", "LowRankHybridRunner", 3


@pytest.mark.parametrize("use", ["jacobian s2", *evaluation.USES])
def test_cost_of_s2_and_its_uses(use):
    seconds, memory = evaluation.cost(Way(*DIGITS, "s2", use, ""), batch=2, rows=64, device_name="cpu")
    assert 0 < seconds < 60
    assert memory >= 0


def test_table_has_a_row_for_every_way(tmp_path, monkeypatch, capsys):
    ways = [Way(*DIGITS, "s2", "jacobian s2", "by differentiation"), Way(*DIGITS, "s2", "s2", "by the head")]
    monkeypatch.setattr(evaluation, "WAYS", ways)
    monkeypatch.setattr(evaluation, "in_own_process", lambda function, *arguments: function(*arguments))
    evaluation.main(["--only", "digits_low_rank.yml", "--device", "cpu", "--results", str(tmp_path)])
    assert "by the head" in capsys.readouterr().out
    lines = (tmp_path / "benchmark_evaluation.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [row["by"] for row in rows] == ["by differentiation", "by the head"]
    assert float(rows[0]["faster"]) == 1
