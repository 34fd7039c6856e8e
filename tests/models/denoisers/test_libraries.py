"""Networks of other libraries go in as they are: their answers are those of the libraries themselves."""

import importlib.util

import pytest
import torch

import inference
import models
from configs import UserError
from models import denoisers

close = torch.testing.assert_close
SHAPE = (3, 16, 16)


def small_network(diffusers, **changes):
    torch.manual_seed(0)
    settings = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return diffusers.UNet2DModel(16, **settings, **kinds, **changes).eval()


def saved(folder, network, scheduler):
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize("predicted", ["epsilon", "sample", "v_prediction"])
def test_a_network_of_diffusers_denoises_as_its_scheduler_does(tmp_path, predicted):
    diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
    network = small_network(diffusers)
    scheduler = diffusers.DDPMScheduler(clip_sample=False, prediction_type=predicted)
    model = denoisers.diffusers_model(saved(tmp_path, network, scheduler))
    x = torch.randn(2, *SHAPE)
    for t in (0, 300, 999):
        kept = float(scheduler.alphas_cumprod.double()[t])
        sigma = ((1 - kept) / kept) ** 0.5
        with torch.no_grad():
            answer = network(kept**0.5 * x, t).sample
            expected = scheduler.step(answer, t, kept**0.5 * x).pred_original_sample
            denoised = x.flatten(1) + sigma**2 * model.at(sigma, SHAPE).s1(x.flatten(1))
        close(denoised, expected.flatten(1), rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_picture_of_odd_sides_has_its_last_pixels_twice(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
    model = denoisers.diffusers_model(saved(tmp_path, small_network(diffusers), diffusers.DDPMScheduler()))
    x = torch.randn(1, 3, 7, 9)
    padded = torch.cat([x, x[:, :, -1:]], dim=2)
    padded = torch.cat([padded, padded[..., -1:]], dim=3)
    expected = model.at(0.5, (3, 8, 10)).s1(padded.flatten(1)).view(1, 3, 8, 10)[..., :7, :9]
    close(model.at(0.5, (3, 7, 9)).s1(x.flatten(1)), expected.flatten(1))


def test_a_schedule_ends_where_there_is_still_signal(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
    scheduler = diffusers.DDPMScheduler(rescale_betas_zero_snr=True)
    model = denoisers.diffusers_model(saved(tmp_path, small_network(diffusers), scheduler))
    kept = float(scheduler.alphas_cumprod.double()[998])
    assert scheduler.alphas_cumprod[999] == 0
    assert model.sigmas[1] == pytest.approx((1 / kept - 1) ** 0.5)


def test_what_another_kind_of_model_needs_is_refused_in_a_line(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
    usual = diffusers.DDPMScheduler()
    for number, (changes, scheduler, message) in enumerate(
        [
            ({}, diffusers.ScoreSdeVeScheduler(), "its scheduler, ScoreSdeVeScheduler, has no beta_schedule"),
            ({"num_class_embeds": 4}, usual, "its network takes classes"),
            ({"out_channels": 6}, usual, "from 3 channels to 6; as many"),
        ]
    ):
        folder = saved(tmp_path / str(number), small_network(diffusers, **changes), scheduler)
        with pytest.raises(UserError, match=message):
            denoisers.diffusers_model(folder)


def test_what_is_no_folder_of_diffusers_is_refused_in_a_line(tmp_path):
    pytest.importorskip("diffusers", reason="pip install diffusers")
    with pytest.raises(UserError, match="its subfolders unet and scheduler are expected"):
        denoisers.diffusers_model(tmp_path)
    for name in ("unet", "scheduler"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="cannot be read by diffusers"):
        denoisers.diffusers_model(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is not None, reason="diffusers is installed")
def test_without_the_library_it_says_how_to_have_it(tmp_path):
    with pytest.raises(UserError, match="pip install diffusers"):
        denoisers.diffusers_model(tmp_path)


def test_a_denoiser_of_deepinv_goes_in_as_it_is():
    deepinv = pytest.importorskip("deepinv", reason="pip install deepinv")
    torch.manual_seed(0)
    network = deepinv.models.DnCNN(in_channels=3, out_channels=3, depth=3, nf=8, pretrained=None)
    model = models.from_denoiser(network, (0.1, 0.5), (3, None, None), values=(0, 1))
    x = torch.rand(2, *SHAPE)
    with torch.no_grad():
        expected = network(x, 0.2)
    posterior = inference.posterior(model.at(0.2, SHAPE), x)
    close(posterior.mean, expected.flatten(1))
    v = torch.randn(2, 768, generator=torch.Generator().manual_seed(1))
    _, product = torch.autograd.functional.jvp(lambda y: network(y, 0.2), x, v.view_as(x))
    close(posterior.covariance @ v, 0.04 * product.flatten(1), rtol=1e-3, atol=1e-5)
