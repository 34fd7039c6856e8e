"""A preconditioned denoiser for every noise level of a range.

With σ_d the standard deviation of the data and μ their mean, it is right in scale at either end of the axis (D → x̃ as
σ → 0, D → μ as σ → ∞):

    D(x̃, σ) = μ + c_skip (x̃ − μ) + c_out F(c_in (x̃ − μ), ¼ ln σ)

Source: Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*, NeurIPS 2022, table 1.
"""

from torch import Tensor, nn

from models.unet import UNet

__all__ = ["Denoiser", "Level", "condition", "variance_scale"]

Level = float | Tensor
"""σ of all points, or of each, `(B, 1)`."""


def variance_scale(sigma: Level, std: float) -> Level:
    """`v = σ²σ_d²/(σ² + σ_d²)`: the posterior variance under a normal density of the data."""
    return sigma**2 * std**2 / (sigma**2 + std**2)


def condition(sigma: Level, x: Tensor) -> Tensor:
    """`¼ ln σ`, `(B,)` or `(1,)`."""
    level = sigma.flatten() if isinstance(sigma, Tensor) else x.new_full((1,), sigma)
    return level.log() / 4


class Denoiser(nn.Module):
    """`D(x̃, σ) = E[x|x̃]` from a conditional network F with EDM's preconditioning.

    Args:
        network: F, from images `(B, C, H, W)` and c `(B,)` to images, whose first C channels count.
        shape: of an image, `(C, H, W)`.
        mean, std: μ and σ_d, of all values of the data.
    """

    def __init__(self, network: UNet, shape: tuple[int, int, int], mean: float, std: float):
        super().__init__()
        self.network, self.shape, self.mean, self.std = network, shape, mean, std

    def forward(self, x: Tensor, sigma: Level) -> Tensor:
        """From points `(B, D)` to their posterior means `(B, D)`."""
        return self.with_outputs(x, sigma)[0]

    def with_outputs(self, x: Tensor, sigma: Level) -> tuple[Tensor, Tensor]:
        """D(x̃), and what the network says in its further channels, `(B, n, H, W)`."""
        raw = self.network(self._images(x, sigma), condition(sigma, x))
        own, further = raw.tensor_split((self.shape[0],), dim=1)
        return self._denoised(x, own, sigma), further

    def with_features(self, x: Tensor, sigma: Level) -> tuple[Tensor, Tensor]:
        """D(x̃), and the features that the network's last layers make it of, `(B, n, H, W)`."""
        raw, features = self.network(self._images(x, sigma), condition(sigma, x), with_features=True)
        return self._denoised(x, raw, sigma), features

    def _images(self, x: Tensor, sigma: Level) -> Tensor:
        total = (sigma**2 + self.std**2) ** 0.5
        return ((x - self.mean) / total).unflatten(1, self.shape)

    def _denoised(self, x: Tensor, raw: Tensor, sigma: Level) -> Tensor:
        total = (sigma**2 + self.std**2) ** 0.5
        return self.mean + (self.std / total) ** 2 * (x - self.mean) + sigma * self.std / total * raw.flatten(1)
