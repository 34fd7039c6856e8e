import json

import pytest

from runners.metrics import read_metrics, write_metrics


def test_metrics_there_and_back(tmp_path):
    metrics = {"noise": 0.5, "images": 3, "jacobian_of_s1": {"component_ratios": [1.5, 0.25]}}
    path = write_metrics(tmp_path, metrics)
    assert path == tmp_path / "metrics.json"
    assert json.loads(path.read_text()) == read_metrics(tmp_path) == metrics
    write_metrics(tmp_path, {"noise": 1.0})
    assert read_metrics(tmp_path) == {"noise": 1.0}


def test_a_run_that_was_not_tested(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.json"):
        read_metrics(tmp_path)
