import json
import math

import pytest

from runners.metrics import in_lines, read_metrics, write_metrics


def test_metrics_there_and_back(tmp_path):
    metrics = {"noise": 0.5, "images": 3, "jacobian_of_s1": {"component_ratios": [1.5, 0.25]}}
    path = write_metrics(tmp_path, metrics)
    assert path == tmp_path / "metrics.json"
    assert json.loads(path.read_text()) == read_metrics(tmp_path) == metrics
    write_metrics(tmp_path, {"noise": 1.0})
    assert read_metrics(tmp_path) == {"noise": 1.0}


def test_numbers_that_are_not_finite_are_null(tmp_path):
    """JSON has no NaN: what other programs read must have none."""
    metrics = {"mse": math.nan, "levels": [{"ratios": [1.0, -math.inf], "images": 3}]}
    path = write_metrics(tmp_path, metrics)
    assert "NaN" not in path.read_text()
    assert read_metrics(tmp_path) == {"mse": None, "levels": [{"ratios": [1.0, None], "images": 3}]}


def test_metrics_in_lines():
    """No name is parted from its number, whatever the length."""
    metrics = {f"metric_{i}": 10.0**-i for i in range(12)} | {"ratios": [1.23456, 2.0], "of": {"images": 3}}
    lines = in_lines(metrics).splitlines()
    assert all(line.startswith("  ") and len(line) <= 112 for line in lines)
    assert lines[0].startswith("  metric_0=1, metric_1=0.1, metric_2=0.01,")
    assert lines[-3:] == [lines[-3], "  of:", "    images=3"]
    assert lines[-3].endswith("ratios=[1.235, 2]")


def test_a_run_that_was_not_tested(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.json"):
        read_metrics(tmp_path)
