"""Networks of the library diffusers: a folder with a `UNet2DModel` and its scheduler."""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from configs import UserError
from models.denoisers.external import Output, from_denoiser
from models.scores import ScoreModel

__all__ = ["diffusers_model"]

OUTPUTS: dict[str, Output] = {"epsilon": "noise", "sample": "denoised", "v_prediction": "velocity"}


class OfSteps(nn.Module):
    """From images of any size and t to what the network predicts, without the library's wrapping.

    It takes sides that its levels halve without rest: the last pixels of others are repeated, and cut off again.
    """

    def __init__(self, network: nn.Module, levels: int):
        super().__init__()
        self.network = network
        self.multiple = 2 ** (levels - 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        height, width = x.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        return self.network(x, t, return_dict=False)[0][:, :, :height, :width]


def diffusers_model(folder: str | Path) -> ScoreModel:
    """The scores of a network of diffusers, of images with values in [−1, 1], at the noise levels of its schedule.

    Args:
        folder: as `DDPMPipeline.save_pretrained` writes it, with subfolders `unet` and `scheduler`. Nothing is
            downloaded.

    Raises:
        UserError: where the library is not installed, the folder cannot be read, or its network or its scheduler is of
            another kind: of classes, of learned variances, without ᾱ.
    """
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except ImportError as error:
        raise UserError("model.denoiser: diffusers is not installed; pip install diffusers") from error
    if not (Path(folder) / "unet").is_dir() or not (Path(folder) / "scheduler").is_dir():
        raise UserError(f"{folder}: not a folder of diffusers; its subfolders unet and scheduler are expected")
    try:
        network = UNet2DModel.from_pretrained(folder, subfolder="unet", local_files_only=True, low_cpu_mem_usage=False)
        settings = DDPMScheduler.load_config(folder, subfolder="scheduler", local_files_only=True)
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: cannot be read by diffusers ({str(error).splitlines()[0]})") from error
    if "beta_schedule" not in settings:
        raise UserError(f"{folder}: its scheduler, {settings.get('_class_name')}, has no beta_schedule; ᾱ is expected")
    if network.config.class_embed_type or network.config.num_class_embeds:
        raise UserError(f"{folder}: its network takes classes; one of images alone is expected")
    channels = network.config.in_channels
    if channels != network.config.out_channels:
        raise UserError(f"{folder}: from {channels} channels to {network.config.out_channels}; as many are expected")
    predicted = scheduler.config.prediction_type
    if predicted not in OUTPUTS:
        raise UserError(f"{folder}: predicts {predicted}; one of {', '.join(OUTPUTS)} is expected")
    schedule = scheduler.alphas_cumprod.double()
    schedule = schedule[schedule > 0]  # at 0 σ is infinite
    low, high = ((1 - schedule) / schedule).sqrt()[[0, -1]].tolist()
    function = OfSteps(network, len(network.config.down_block_types))
    shape = (channels, None, None)
    return from_denoiser(function, (low, high), shape, values=(-1, 1), output=OUTPUTS[predicted], level=schedule)
