import logging
import resource
import signal

import pytest
import torch

import models
from configs import UserError
from models import checkpoint


class Evil:
    def __reduce__(self):
        return (print, ("code of a checkpoint has run",))


def test_only_tensors_and_plain_containers_are_read(tmp_path, capsys):
    torch.save({"model": Evil()}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoint.read(tmp_path / "checkpoint.pth")
    assert "has run" not in capsys.readouterr().out


def test_the_one_before_is_kept_and_taken_where_the_last_is_broken(tmp_path, caplog):
    path = tmp_path / "checkpoint.pth"
    for step in (1, 2, 3):
        checkpoint.write({"step": step}, path, keep=tmp_path / checkpoint.PREVIOUS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pth", "checkpoint_previous.pth"]
    assert checkpoint.read_latest(tmp_path)[0]["step"] == 3
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        state, read = checkpoint.read_latest(tmp_path)
    assert (state["step"], read.name) == (2, "checkpoint_previous.pth")
    assert "truncated" in caplog.text
    assert "checkpoint_previous.pth" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"not a zip", bytes(5000)])
def test_a_broken_file_alone_is_named(tmp_path, damage):
    (tmp_path / "checkpoint.pth").write_bytes(damage)
    with pytest.raises(UserError, match=r"checkpoint\.pth: truncated, corrupt or not a checkpoint"):
        checkpoint.read_latest(tmp_path)


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB in this process: what a full disk does to a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_loses_nothing(tmp_path, small_disk):
    path = tmp_path / "checkpoint.pth"
    checkpoint.write({"weights": torch.arange(10)}, path)
    with pytest.raises(UserError, match="could not be written"):
        checkpoint.write({"weights": torch.zeros(10**6)}, path)
    assert torch.equal(checkpoint.read(path)["weights"], torch.arange(10))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        models.load(tmp_path)
    (tmp_path / "config.yml").write_text("{}")
    with pytest.raises(UserError, match=r"ckpt/checkpoint\.pth: no such checkpoint"):
        models.load(tmp_path)
