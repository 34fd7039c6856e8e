"""What a trained run may be called with again."""

import pytest

import configs
from configs import UserError

SAVED = {
    "one level": "runner: UnetDSMRunner\nnoise: 0.5\nrank: 8\nmax_steps: 20\nmodel: {ngf: 4}",
    "a range": "runner: LowRankHybridRunner\nnoise: [0.2, 1]\nrank: 4\nmodel: {network: unet, taper: {2: 3, .inf: 1}}",
    "published": "model: {ngf: 64, batch_norm: false}\nlr_decay: 0.9",
}


@pytest.fixture
def trained(tmp_path):
    def folder_of(kind: str):
        (tmp_path / "config.yml").write_text(SAVED[kind])
        return tmp_path

    return folder_of


MEANING = {  # a folder, overrides, flags, what is named as the source, and what it was trained with
    "noise by the flag": ("one level", [], {"noise": [0.1]}, "--noise 0.1", "0.5"),
    "noise by --set": ("one level", ["noise=0.1"], {}, "--set noise=0.1", "0.5"),
    "a level for a range": ("a range", [], {"noise": [0.5]}, "--noise 0.5", "[0.2, 1.0]"),
    "another range": ("a range", ["noise=[0.2, 2.0]"], {}, "--set noise=[0.2, 2.0]", "[0.2, 1.0]"),
    "rank": ("one level", ["rank=9"], {}, "--set rank=9", "8"),
    "rank by the flag": ("one level", [], {"rank": 9}, "--rank 9", "8"),
    "runner": ("one level", [], {"runner": "LowRankHybridRunner"}, "--runner LowRankHybridRunner", "UnetDSMRunner"),
    "width": ("one level", ["model.ngf=8"], {}, "--set model.ngf=8", "4"),
    "average": ("one level", ["model.ema=true"], {}, "--set model.ema=true", "false"),
    "a whole section": ("one level", ["model={ngf: 8}"], {}, "--set model={ngf: 8}", "4"),
    "within the U-Net": ("a range", ["model.unet.blocks=2"], {}, "--set model.unet.blocks=2", "1"),
    "taper": ("a range", ["model.taper={2: 2, 4: 2}"], {}, "--set model.taper={2: 2, 4: 2}", "{2.0: 3, inf: 1}"),
    "denoiser": ("a range", ["model.denoiser=x"], {}, "--set model.denoiser=x", "nothing"),
    "data set": ("one level", ["data.dataset=MNIST"], {}, "--set data.dataset=MNIST", "Digits"),
    "image size": ("one level", ["data.image_size=16"], {}, "--set data.image_size=16", "8"),
    "flips": ("one level", ["data.random_flip=true"], {}, "--set data.random_flip=true", "false"),
}


@pytest.mark.parametrize("case", MEANING)
def test_what_changes_the_meaning_of_the_weights_is_refused(trained, case):
    kind, overrides, flags, source, was = MEANING[case]
    folder = trained(kind)
    with pytest.raises(UserError) as refused:
        configs.load_trained(folder, overrides, **flags)
    assert str(refused.value) == f"{source}: {folder} was trained with {was}; leave it out, or give that"


@pytest.mark.parametrize(
    ("kind", "overrides", "flags"),
    [
        ("one level", ["noise=0.5"], {"noise": [0.5], "rank": 8, "runner": "UnetDSMRunner"}),
        ("a range", ["model.unet.dropout=0.1"], {"noise": [0.2, 1.0]}),
        ("published", [], {"noise": [0.3], "rank": 7, "runner": "UnetDSMRunner"}),  # its files say none of these
        ("published", ["lr_decay=0.5", "model.batch_norm=true"], {}),  # without effect
    ],
)
def test_the_same_said_again_and_what_was_not_said_before(trained, kind, overrides, flags):
    config = configs.load_trained(trained(kind), overrides, **flags)
    if "noise" in flags:
        assert config.sigmas == (flags["noise"][0], flags["noise"][-1])


def test_what_may_change(trained):
    overrides = [
        *("max_steps=40", "max_epochs=7", "batch_size=3", "lr=0.1", "precision=bf16", "loss=dsm_vr", "seed=5"),
        *("model.ema_rate=0.5", "data.workers=0", "data_dir=elsewhere", "betas=[0.8, 0.9]", "weight_decay=0.1"),
    ]
    folder = trained("one level")
    config = configs.load_trained(folder, overrides, comment="a note")
    changed = configs.differences(configs.load(folder / "config.yml"), config)
    assert set(changed) == {text.partition("=")[0] for text in overrides} | {"comment"}
    assert changed["max_steps"] == (20, 40)
    assert changed["betas"] == ((0.9, 0.999), (0.8, 0.9))


FILES = {
    "the same": ("noise: 0.5\nmodel: {ngf: 4}\nlr_decay: 0.3", [], None),
    "without what was set beside it": ("model: {ngf: 4}", [], None),
    "other weights": ("model: {ngf: 8}", [], "model.ngf is 8 there and 4 in {path}; leave --config out"),
    "another noise": ("noise: 1", [], "noise is 1.0 there and 0.5 in {path}; leave --config out"),
    "another length": ("max_steps: 30", [], "max_steps is 30 there and 20 in {path}; leave --config out, or say --set "
                       "max_steps=30"),
    "another length that is said": ("max_steps: 30", ["max_steps=40"], None),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_given_too_is_compared(trained, tmp_path, case):
    text, overrides, message = FILES[case]
    folder, beside = trained("one level"), tmp_path / "beside.yml"
    beside.write_text(text)
    if message is None:
        configs.load_trained(folder, overrides, beside, runner="UnetDSMRunner")
        return
    with pytest.raises(UserError) as refused:
        configs.load_trained(folder, overrides, beside, runner="UnetDSMRunner")
    assert str(refused.value) == f"--config {beside}: {message.format(path=folder / 'config.yml')}"
