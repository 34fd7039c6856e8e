import pytest
import torch

import models
from configs import UserError
from tests.published_networks import fill, low_rank_shapes, optimizer_state, shapes, with_prefix, write_run_folder


def layout(networks: list[dict[str, torch.Tensor]], ema: bool) -> list:
    """A published checkpoint list. With EMA the networks hold other weights than their shadows."""
    trained = [{k: v + 1 for k, v in network.items()} for network in networks] if ema else networks
    return [*map(with_prefix, trained), optimizer_state(networks[-1]), *(networks if ema else [])]


def both(model: models.ScoreModel):
    """s1 and s2 at the model's noise level, and its configuration."""
    scores = model.at(model.config.noise)
    return scores.s1, scores.s2, model.config


@pytest.mark.parametrize("ema", [False, True])
class TestEveryLayout:
    def test_dsm(self, reference, tmp_path, ema):
        numbers = reference("refinenet_ngf8_3x32x32.npz")
        folder = write_run_folder(tmp_path / "run", layout([fill(shapes(3, 3))], ema), 3, 32)
        s1, s2, config = both(models.load(folder))
        assert s2 is None
        assert (config.model.head, config.model.ngf, config.data.dataset) == ("none", 8, "CIFAR10")
        torch.testing.assert_close(s1(numbers["input"]), numbers["output"], atol=1e-4, rtol=0)

    def test_low_rank(self, reference, tmp_path, ema):
        numbers = reference("low_rank_s2_ngf8_rank4_1x28x28.npz")
        first = reference("refinenet_ngf8_1x28x28.npz")
        networks = [fill(low_rank_shapes(rank=4)), fill(shapes(1, 1))]
        folder = write_run_folder(tmp_path / "run", layout(networks, ema), 1, 28)
        s1, s2, config = both(models.load(folder / "ckpt" / "checkpoint.pth"))
        assert (config.model.head, config.rank) == ("low_rank", 4)
        torch.testing.assert_close(s1(first["input"]), first["output"], atol=1e-4, rtol=0)
        torch.testing.assert_close(s2(numbers["input"]).beta, numbers["factor"], atol=1e-4, rtol=0)
        torch.testing.assert_close(s2(numbers["input"]).alpha, numbers["diagonal"], atol=1e-4, rtol=0)

    def test_diagonal(self, reference, tmp_path, ema):
        numbers = reference("refinenet_ngf8_3x32x32.npz")
        folder = write_run_folder(tmp_path / "run", layout([fill(shapes(3, 3)), fill(shapes(3, 3))], ema), 3, 32)
        s1, s2, config = both(models.load(folder))
        assert config.model.head == "diagonal"
        torch.testing.assert_close(s1(numbers["input"]), numbers["output"], atol=1e-4, rtol=0)
        torch.testing.assert_close(s2(numbers["input"]).alpha, numbers["output"], atol=1e-4, rtol=0)
        assert s2(numbers["input"]).rank == 0


def test_a_list_of_another_layout_is_refused(tmp_path):
    folder = write_run_folder(tmp_path / "run", [with_prefix(fill(shapes(1, 1)))], 1, 28)
    with pytest.raises(UserError, match="none of the published layouts"):
        models.load(folder)


def test_weights_of_another_width_are_refused(tmp_path):
    folder = write_run_folder(tmp_path / "run", layout([fill(shapes(1, 1, ngf=16))], False), 1, 28)
    with pytest.raises(UserError, match="do not fit the networks of .*config.yml"):
        models.load(folder)
