"""Image files of every mode as 8-bit grey or colour: the one way in, for training and for a user's own images.

What a file holds is what a viewer shows: its EXIF orientation is applied, 16 bits are rounded to 8, and what is
transparent is laid on white, so that colours hidden under transparent pixels are no data. Of several frames the first
is taken. A mode whose range is not known is refused by its name.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from configs import UserError, reason_of

__all__ = ["cover", "open_picture", "size_of", "to_mode"]

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
ORIENTATION, TURNED = 274, (5, 6, 7, 8)  # of EXIF: height and width change places
TRANSPARENT_MODES = ("LA", "PA", "RGBA", "La", "RGBa")


def open_picture(path: str | Path, channels: int) -> Image.Image:
    """An image file as a Pillow image.

    Args:
        path: of the file.
        channels: 1 makes a grey image of it (mode L), 3 a coloured one (mode RGB).

    Raises:
        UserError: where the file is missing, broken, too large, or of a mode whose range is not known.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return to_mode(image, channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(f"{path}: more than {most:.0f} million pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: cannot be read as an image (no known format); mend or remove it") from error
    except Exception as error:  # Pillow meets a broken file with a dozen types of exception, SyntaxError among them
        raise UserError(f"{path}: cannot be read as an image ({reason_of(error)}); mend or remove it") from error


def size_of(path: str | Path) -> tuple[int, int] | None:
    """Height and width of an upright picture, from the header of its file; None where that cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                turned = image.getexif().get(ORIENTATION) in TURNED
                return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # Pillow meets a broken file with a dozen types of exception
        return None


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """An open image, turned as its EXIF data say, in mode L for one channel and RGB for three.

    Raises:
        ValueError: where its mode has no known range; the message names it. And whatever Pillow raises for a broken
            file.
    """
    mode = "L" if channels == 1 else "RGB"
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not deep:
        raise ValueError(f"mode {image.mode} has no known range; save it with 8 or 16 bits, or as .npy of floats")
    upright = ImageOps.exif_transpose(image)
    if deep:
        upright = _eight_bits(upright, getattr(image, "tag_v2", {}))
    if upright.mode in TRANSPARENT_MODES or "transparency" in upright.info:
        above = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return upright if upright.mode == mode else upright.convert(mode)


def _eight_bits(image: Image.Image, tags: Mapping[int, object]) -> Image.Image:
    """A grey image of 16 bits, or of the 12 that TIFF allows, rounded to 8; its transparent value becomes white."""
    values = np.asarray(image).astype(np.int64)
    top = 2**12 - 1 if tags.get(BITS_PER_SAMPLE) == (12,) else 2**16 - 1
    pixels = ((values * 255 + top // 2) // top).clip(0, 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        pixels = 255 - pixels
    if "transparency" in image.info:
        pixels[values == image.info["transparency"]] = 255
    return Image.fromarray(pixels)


def cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """An image made to cover `height` × `width` pixels, its proportions kept, and cut to its middle."""
    from torchvision.transforms.v2 import functional

    across, down = image.size
    by_height = height * across >= width * down
    size = [height, height * across // down] if by_height else [width * down // across, width]
    resized = image if size == [down, across] else functional.resize(image, size, antialias=True)
    return functional.center_crop(resized, [height, width])
