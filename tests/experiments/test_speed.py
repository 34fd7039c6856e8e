import pytest
import torch

import configs
import losses
from experiments import speed

CPU = torch.device("cpu")


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("loss", ["dsm", "dsm_vr"])
def test_step_time_of_both_arrangements(published, loss):
    changes = {"batch_size": 2, "loss": loss, "rank": 2}
    config = "digits_low_rank.yml"
    assert 0 < speed.step_time(config, "LowRankHybridRunner", CPU, repeats=1, published=published, **changes) < 60


@pytest.mark.parametrize("loss", ["dsm", "dsm_vr"])
def test_the_published_arrangement_minimises_the_same(tmp_path, loss, monkeypatch):
    """With the same noise for both orders, it has the value of our arrangement."""
    config = configs.load(
        configs.find("digits_diagonal.yml"), ["model.covariance=free", f"loss={loss}", "batch_size=4"]
    )
    config = config.model_copy(update={"runner": "DoubleDiagonalHybridRunner"})
    runner, batch = speed.fresh_runner(config, tmp_path, CPU)
    noise = torch.randn_like(batch)
    perturb = losses.perturb

    def same_noise(*args, **options):
        return perturb(*args, **(options | {"noise": noise}))

    ours = runner.losses(batch, noise)["loss"]
    monkeypatch.setattr(losses, "perturb", same_noise)
    torch.testing.assert_close(speed.published_losses(runner, batch, noise)["loss"], ours, rtol=1e-4, atol=1e-3)


def test_cost_of_a_loss():
    seconds, memory = speed.loss_cost("d2sm_vr", (2, 30, 3), dense=True, device_name="cpu", repeats=1)
    assert 0 < seconds < 60
    assert memory >= 0


def test_step_table_names_every_variant(monkeypatch, capsys):
    monkeypatch.setattr(speed, "step_time", lambda *args, **changes: 0.5)
    speed.main(["step", "--device", "cpu", "--batch-size", "3"])
    rows = [line for line in capsys.readouterr().out.splitlines() if ".yml" in line]
    assert len(rows) == sum(len(variants) for _, variants in speed.step_tables().values())
    assert all(row.endswith("6.0    1.00") for row in rows)


def test_loss_table_has_a_row_for_each_loss_and_size(monkeypatch, capsys):
    monkeypatch.setattr(speed, "LOSS_SIZES", {"(2, 10, 2)": (2, 10, 2)})
    monkeypatch.setattr(speed, "SECOND_ORDER", ("d2sm",))
    monkeypatch.setattr(speed, "step_time", lambda *args, **changes: 2.0)
    speed.main(["loss", "--device", "cpu", "--repeats", "1"])
    out = capsys.readouterr().out
    assert out.count("(2, 10, 2)") == 1
    assert "ms of a step of 2000 ms" in out


@pytest.mark.parametrize("use", ["s2", "product", "diagonal", "top 5"])
@pytest.mark.parametrize("by", ["", "jacobian "])
def test_cost_of_s2_and_its_uses(use, by):
    seconds, memory = speed.eval_cost("digits_low_rank.yml", "LowRankHybridRunner", 3, by + use, 2, 64, "cpu")
    assert 0 < seconds < 60
    assert memory >= 0
