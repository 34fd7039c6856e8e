"""Networks of the library diffusers: a folder with a `UNet2DModel` and its scheduler."""

from pathlib import Path

from torch import Tensor, nn

from configs import UserError
from models.denoisers.external import Output, from_denoiser
from models.scores import ScoreModel

__all__ = ["diffusers_model"]

OUTPUTS: dict[str, Output] = {"epsilon": "noise", "sample": "denoised", "v_prediction": "velocity"}


class OfSteps(nn.Module):
    """From images and t to what the network predicts, without the library's wrapping."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t, return_dict=False)[0]


def diffusers_model(folder: str | Path) -> ScoreModel:
    """The scores of a network of diffusers, of images with values in [−1, 1], at the noise levels of its schedule.

    Args:
        folder: as `DDPMPipeline.save_pretrained` writes it, with subfolders `unet` and `scheduler`. Nothing is
            downloaded.

    Raises:
        UserError: where the library is not installed, the folder cannot be read, or predicts what is not known here.
    """
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except ImportError as error:
        raise UserError("model.denoiser: diffusers is not installed; pip install diffusers") from error
    if not (Path(folder) / "unet").is_dir() or not (Path(folder) / "scheduler").is_dir():
        raise UserError(f"{folder}: not a folder of diffusers; its subfolders unet and scheduler are expected")
    try:
        network = UNet2DModel.from_pretrained(folder, subfolder="unet", local_files_only=True)
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: cannot be read by diffusers ({str(error).splitlines()[0]})") from error
    predicted = scheduler.config.prediction_type
    if predicted not in OUTPUTS:
        raise UserError(f"{folder}: predicts {predicted}; one of {', '.join(OUTPUTS)} is expected")
    schedule = scheduler.alphas_cumprod.double()
    low, high = ((1 - schedule) / schedule).sqrt()[[0, -1]].tolist()
    shape = (network.config.in_channels, None, None)
    return from_denoiser(
        OfSteps(network), (low, high), shape, values=(-1, 1), output=OUTPUTS[predicted], level=schedule
    )
