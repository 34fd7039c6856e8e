import csv

import pytest

from benchmarks import losses
from experiments.harness import SECOND_ORDER
from losses import OBJECTIVES


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", SECOND_ORDER.values())
def test_cost_of_a_loss(name, dense):
    cost = losses.loss_cost(name, (2, 30, 3), dense, device_name="cpu", repeats=1)
    assert 0 < cost.seconds < 60
    assert cost.memory >= 0
    points, rows = len(OBJECTIVES[2][name].points), len(OBJECTIVES[2][name].s2_points)
    assert cost.heads == 4 * 2 * 30 * (points + rows * (1 + 3))


@pytest.mark.parametrize("name", OBJECTIVES[3])
def test_cost_of_a_third_order(name):
    cost = losses.loss_cost(name, (4, 30, 3), False, device_name="cpu", repeats=1, order=3)
    assert 0 < cost.seconds < 60
    rows = len(OBJECTIVES[3][name].s3_points)
    assert cost.heads == 4 * 4 * 30 * rows * (1 + (1 + 3) + (1 + 3)) + 4 * 4 * rows * 3


def test_products_of_a_loss_are_counted():
    """At least ββᵀ's norm and its gradient: two products of (r, D) by (D, r) at each point."""
    cost = losses.loss_cost("dsm", (5, 100, 10), dense=False, device_name="cpu", repeats=1)
    assert cost.operations >= 2 * 5 * 2 * 100 * 10**2
    assert cost.operations < 10 * 5 * 2 * 100 * 10**2


def test_rates_of_the_machine():
    rates = losses.rates((2, 100, 10), "cpu", repeats=1)
    assert 1e6 < rates.batched < 1e16
    assert 1e8 < rates.large < 1e16
    assert 1e8 < rates.bandwidth < 1e14
    assert losses.rates((2, 100, 0), "cpu", repeats=1).batched is None


def test_table_has_a_row_for_each_loss_and_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(losses, "SECOND_ORDER", {"d2sm": "dsm"})
    monkeypatch.setattr(losses, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(losses, "step_time", lambda *args, **changes: 2.0)
    sizes = ["--sizes", "2,10,2", "2,10,0", "--third-size", "2,10,2"]
    losses.main(["--device", "cpu", "--repeats", "1", *sizes, "--results", str(tmp_path)])
    assert "centered_jacobian" in (tmp_path / "benchmark_third_order.csv").read_text()
    out = capsys.readouterr().out
    assert "ms of a step of 2000 ms" in out
    lines = (tmp_path / "benchmark_losses.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [(row["loss"], row["rank"]) for row in rows] == [("d2sm", "2"), ("d2sm", "0")]
    assert all(float(row["times_limit"]) > 0 for row in rows)


def test_a_size_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        losses.main(["--sizes", "40,784"])
    assert "40,784: B,D,r is expected" in capsys.readouterr().err
