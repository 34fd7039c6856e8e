"""What `model.denoiser` may be: a denoiser from elsewhere, or the folder of a run."""

import pytest
import torch

import models
from configs import Config, UserError


@pytest.mark.parametrize(
    ("name", "external"),
    [
        ("ffdnet", True),
        ("ffdnet:weights/f.pth", True),
        ("my.module:denoise", True),
        ("module:denoise", True),
        (None, False),
        ("runs/logs/denoiser", False),
        ("checkpoints", False),
        ("runs/logs/a:b", False),
        ("here:run", False),
        ("C:\\runs\\denoiser", False),
    ],
)
def test_which_names_are_of_elsewhere(tmp_path, monkeypatch, name, external):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here:run").mkdir()
    assert models.is_external(name) == external


def test_a_model_of_a_function_s_module_is_one_that_from_denoiser_made(tmp_path, monkeypatch):
    module = "import models\nhalf = models.from_denoiser(lambda x, sigma: x / 2, (0.1, 1), (4,))\n"
    (tmp_path / "of_a_user.py").write_text(module + "other = models.ScoreModel(None, (0.1, 1), (4,))\n")
    monkeypatch.syspath_prepend(tmp_path)
    c = Config()
    x = torch.ones(2, 4)
    model = models.external_denoiser("of_a_user:half", c)
    torch.testing.assert_close(model.at(0.5).s1(x), -x / 2 / 0.25)
    with pytest.raises(UserError, match="of_a_user:other is no model that from_denoiser made"):
        models.external_denoiser("of_a_user:other", c)


def test_black_and_white_of_a_run_are_its_denoiser_s(tmp_path):
    torch.save(models.denoisers.FFDNet().state_dict(), tmp_path / "f.pth")
    model = {"denoiser": f"ffdnet:{tmp_path / 'f.pth'}"}
    data = {"channels": 3}
    for given, expected in ((None, (0, 1)), ((0.0, 1.0), (0, 1))):
        c = Config(runner="UnetDSMRunner", noise=0.1, model=model, data=data | {"values": given})
        of_run = models.score_model(models.build(c, (3, 8, 8)), c, (3, 8, 8))
        assert of_run.values == expected
        assert of_run.at(0.1).values == expected
