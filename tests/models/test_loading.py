"""`models.load`: every path that means a run, and what is said of one that does not."""

import shutil

import numpy as np
import pytest
import torch

import models
from configs import UserError
from tests.conftest import ROOT


@pytest.fixture
def run(tmp_path):
    """A copy of a small trained model's run folder."""
    folder = tmp_path / "runs/logs/digits"
    shutil.copytree(ROOT / "checkpoints/digits", folder)
    return folder


def weights(model) -> np.ndarray:
    return torch.cat([value.flatten() for value in model.network.parameters()]).detach().numpy()


@pytest.mark.parametrize("where", ["outside", "run folder", "ckpt"])
@pytest.mark.parametrize("what", ["run folder", "ckpt", "checkpoint"])
def test_a_run_is_known_from_within_and_from_without(run, monkeypatch, where, what):
    places = {"outside": run.parent, "run folder": run, "ckpt": run / "ckpt"}
    target = {"run folder": run, "ckpt": run / "ckpt", "checkpoint": run / "ckpt/checkpoint.pth"}[what]
    monkeypatch.chdir(places[where])
    relative = {
        ("outside", "run folder"): "digits",
        ("outside", "ckpt"): "digits/ckpt/",
        ("outside", "checkpoint"): "digits/ckpt/checkpoint.pth",
        ("run folder", "run folder"): ".",
        ("run folder", "ckpt"): "ckpt",
        ("run folder", "checkpoint"): "ckpt/checkpoint.pth",
        ("ckpt", "run folder"): "..",
        ("ckpt", "ckpt"): ".",
        ("ckpt", "checkpoint"): "checkpoint.pth",
    }[where, what]
    np.testing.assert_array_equal(weights(models.load(relative)), weights(models.load(target)))


def test_links_to_a_run_its_folder_and_its_checkpoint(run, tmp_path):
    for number, target in enumerate((run, run / "ckpt", run / "ckpt/checkpoint.pth")):
        (tmp_path / f"link{number}").symlink_to(target)
        assert models.load(tmp_path / f"link{number}").shape == (1, 8, 8)
    (run / "ckpt/best.pth").symlink_to("checkpoint.pth")
    assert models.load(run / "ckpt/best.pth").shape == (1, 8, 8)
    store = tmp_path / "store"
    (run / "ckpt").rename(store)
    (run / "ckpt").symlink_to(store)  # the checkpoints lie on another disk
    assert models.load(run / "ckpt/checkpoint.pth").shape == (1, 8, 8)
    assert models.load(run).shape == (1, 8, 8)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_named(run, device):
    for path in (run, run / "ckpt/checkpoint.pth"):
        with pytest.raises(UserError, match=f"^device {device}: not on this machine"):
            models.load(path, device)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_cannot_be_read_is_named_not_called_corrupt(run, kind, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    path = run if kind == "folder" else run / "ckpt/checkpoint.pth"
    with pytest.raises(UserError, match="Permission denied") as raised:
        models.load(path)
    assert "corrupt" not in str(raised.value)


def test_a_folder_in_place_of_a_checkpoint_and_paths_that_mean_nothing(run, tmp_path):
    (run / "ckpt/checkpoint_2.pth").mkdir()
    with pytest.raises(UserError, match="not a run folder or a checkpoint in one"):
        models.load(run / "ckpt/checkpoint_2.pth")
    with pytest.raises(UserError, match="not a run folder or a checkpoint in one"):
        models.load(run / "images")
    with pytest.raises(UserError, match="no such checkpoint"):
        models.load(run / "ckpt/checkpoint_3.pth")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"loop: (not a run folder|Symlink loop|Too many)"):
        models.load(tmp_path / "loop")
