"""Whether images have the range that they are taken to have."""

import math

import numpy as np

__all__ = ["Limits", "RangeCheck", "value_range"]

Limits = tuple[float, float]
"""Black and white."""

STANDARD_ERRORS = 5
SLACK = 0.01


def value_range(channels: int, limits: Limits | None = None) -> Limits:
    """The range of an image's values, without noise, black and white: `limits` where they are given, else [0, 1] for
    one channel and [−1, 1] for more."""
    if limits is not None:
        return limits
    return (0.0, 1.0) if channels == 1 else (-1.0, 1.0)


class RangeCheck:
    """Counts the values of images as they are read, and says what is odd about them.

    Noise can take values anywhere, but it does not move their mean: that of images in the model's range lies in the
    range, however noisy they are, up to its standard error.

    Args:
        channels: of the images.
        limits: see `value_range`.
    """

    def __init__(self, channels: int, limits: Limits | None = None):
        self.low, self.high = value_range(channels, limits)
        self.pixels = self.floats = self.at_ends = 0
        self.brightest = 0
        self.sum = self.squares = 0.0
        self.least, self.largest, self.whole = math.inf, -math.inf, True

    def add(self, images: np.ndarray) -> None:
        """Counts images of any shape: uint8 pixels, or floats."""
        if images.dtype == np.uint8:
            self.pixels += images.size
            self.brightest = max(self.brightest, int(images.max()))
            self.at_ends += int(((images == 0) | (images == 255)).sum())
            return
        values = images.astype(np.float64)
        self.floats += values.size
        self.sum, self.squares = self.sum + float(values.sum()), self.squares + float(np.square(values).sum())
        self.least, self.largest = min(self.least, float(values.min())), max(self.largest, float(values.max()))
        self.whole = self.whole and bool((values == values.round()).all())
        self.at_ends += int(((values == self.low) | (values == self.high)).sum())

    @property
    def share_at_ends(self) -> float:
        """How many of the values are exactly the lowest or the highest of the range, from 0 to 1."""
        return self.at_ends / max(1, self.pixels + self.floats)

    def doubt(self, clean: bool = False) -> str | None:
        """A sentence where the values seem to be of another range, with what is assumed; else None.

        Args:
            clean: there is no noise: no value lies outside of the range.
        """
        if self.pixels and self.brightest == 1:
            return "no pixel is above 1; uint8 pixels are taken to go from 0 to 255: scale them, or give floats"
        if not self.floats:
            return None
        mean = self.sum / self.floats
        error = STANDARD_ERRORS * math.sqrt(max(0.0, self.squares / self.floats - mean**2) / self.floats)
        slack = SLACK * (self.high - self.low)
        outside = self.least < self.low - slack or self.largest > self.high + slack
        elsewhere = not self.low - error - slack <= mean <= self.high + error + slack
        between = f"values from {self.least:.3g} to {self.largest:.3g} with mean {mean:.3g}"
        assumed = f"floats are taken as they are, for images in [{self.low:g}, {self.high:g}]"
        if elsewhere or (outside and (clean or self.whole)):
            return f"{between}: {assumed}; scale them, or give pixels from 0 to 255 as uint8"
        if (self.low, self.high) == (-1, 1) and 0 <= self.least < self.largest <= 1:
            return f"{between}, none negative: {assumed}; if they are in [0, 1], give 2·x − 1"
        return None
