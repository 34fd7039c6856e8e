"""Every mode that Pillow opens: the values that a viewer shows, or a refusal that names the mode."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from configs import UserError
from datasets.pictures import cover, open_picture, to_mode

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
HALF = 128 / 255
PINK = tuple(round(HALF * value + (1 - HALF) * 255) for value in RED)  # half transparent red on white


def grey(colour: tuple[int, int, int]) -> int:
    """Luma of ITU-R 601."""
    return round(float(np.dot(colour, (0.299, 0.587, 0.114))))


def palette(alpha: bytes | int | None = None, mode: str = "P") -> Image.Image:
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([*RED, *BLUE])
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    elif alpha is not None:
        image.info["transparency"] = alpha
    return image


def pixels(mode: str, *values: object) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return image


def transparent(image: Image.Image, value: object) -> Image.Image:
    image.info["transparency"] = value
    return image


CASES = {  # an image of two pixels, the format that keeps it, and what a viewer shows on a white page
    "1": (pixels("1", 0, 255), "png", [(0, 0, 0), WHITE]),
    "1, tRNS": (transparent(pixels("1", 0, 255), 0), "png", [WHITE, WHITE]),
    "L": (pixels("L", 7, 200), "png", [(7,) * 3, (200,) * 3]),
    "L, tRNS": (transparent(pixels("L", 7, 200), 7), "png", [WHITE, (200,) * 3]),
    "LA": (pixels("LA", (7, 0), (7, 255)), "png", [WHITE, (7,) * 3]),
    "P": (palette(), "png", [RED, BLUE]),
    "P, one colour clear": (palette(0), "png", [WHITE, BLUE]),
    "P, alphas": (palette(bytes([128, 0])), "png", [PINK, WHITE]),
    "P, gif": (palette(1), "gif", [RED, WHITE]),
    "PA": (palette(mode="PA"), "tif", [WHITE, BLUE]),
    "RGB": (pixels("RGB", RED, BLUE), "png", [RED, BLUE]),
    "RGB, tRNS": (transparent(pixels("RGB", RED, BLUE), RED), "png", [WHITE, BLUE]),
    "RGBA": (pixels("RGBA", (*RED, 128), (*BLUE, 0)), "png", [PINK, WHITE]),
    "CMYK": (pixels("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "tif", [RED, BLUE]),
    "I;16": (pixels("I;16", 0, 65535), "png", [(0, 0, 0), WHITE]),
    "I;16, rounded": (pixels("I;16", 32768, 257 * 77 + 128), "png", [(128,) * 3, (77,) * 3]),
    "I;16, tRNS": (transparent(pixels("I;16", 0, 514), 0), "png", [WHITE, (2,) * 3]),
    "I;16, tif": (pixels("I;16", 514, 65535), "tif", [(2,) * 3, WHITE]),
    "I;16B": (pixels("I;16B", 514, 65535), "tif", [(2,) * 3, WHITE]),
    "I, pgm": (pixels("I", 514, 65535), "pgm", [(2,) * 3, WHITE]),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_what_a_viewer_shows(tmp_path, case):
    image, suffix, shown = CASES[case]
    path = tmp_path / f"image.{suffix}"
    options = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    image.save(path, **options)
    coloured, in_grey = open_picture(path, 3), open_picture(path, 1)
    assert (coloured.mode, in_grey.mode) == ("RGB", "L")
    np.testing.assert_array_equal(np.array(coloured)[0], shown)
    assert np.abs(np.array(in_grey)[0].astype(int) - [grey(colour) for colour in shown]).max() <= 1


@pytest.mark.parametrize(("mode", "suffix"), [("I", "tif"), ("F", "tif"), ("LAB", "tif")])
def test_a_mode_of_no_known_range_is_refused_by_name(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.new(mode, (2, 2)).save(path)
    with pytest.raises(UserError, match=rf"image\.{suffix}: cannot be read as an image \(.*\b{mode}\b") as raised:
        open_picture(path, 1)
    assert "\n" not in str(raised.value)


def test_twelve_bits_and_white_as_zero_of_tiff(tmp_path):
    for tag, value, expected in ((258, 12, [0, 255]), (262, 0, [255, 239])):
        path = tmp_path / f"{tag}.tif"
        write_tiff(path, [0, 4095], **{f"tag{tag}": value})
        assert np.array(open_picture(path, 1))[0].tolist() == expected


def write_tiff(path, values: list[int], tag258: int = 16, tag262: int = 1) -> None:
    """An uncompressed TIFF of one row: Pillow reads 12 bits and white as zero, but writes neither."""
    if tag258 == 12:
        bits = "".join(f"{value:012b}" for value in values)
        data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    else:
        data = np.array(values, "<u2").tobytes()
    entries = [(256, 4, len(values)), (257, 4, 1), (258, 3, tag258), (259, 3, 1), (262, 3, tag262), (273, 4, 200)]
    entries += [(277, 3, 1), (278, 4, 1), (279, 4, len(data))]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    path.write_bytes(head.ljust(200, b"\0") + data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["RGB.jpg", "RGB.png", "I;16.png", "P.png", "LA.png"])
def test_exif_orientation_is_applied(tmp_path, orientation, kind):
    mode, _, suffix = kind.partition(".")
    upright = np.zeros((24, 16), np.uint8)
    upright[:8, :8] = 255  # the corner that is up and left in the world
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = np.ascontiguousarray(undo[orientation](upright))
    image = Image.fromarray(stored.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(stored).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    shown = np.array(open_picture(tmp_path / f"a.{suffix}", 1)).astype(int)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).max() < 20  # a JPEG is not exact


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(20_000, 20_000), "more than 89 million pixels; make it smaller"),
        (png(10_000, 10_000), "more than 89 million pixels; make it smaller"),
        (png(8, 8)[:20] + b"IDAT" + png(8, 8)[20:], "cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 4) + b"\xff\xff\xff\xffabcdefgh", "cannot be read as an image"),
        (png(8, 8)[:45], "cannot be read as an image"),
        (b"", "cannot be read as an image (no known format); mend or remove it"),
        (b"not an image", "cannot be read as an image (no known format); mend or remove it"),
    ],
)
def test_broken_and_huge_files_are_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        open_picture(path, 1)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error", [SyntaxError("broken PNG file"), MemoryError(), struct.error("x\ny"), OSError(13, "no")]
)
def test_whatever_pillow_raises_is_one_line(tmp_path, monkeypatch, error):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")

    def fail(self):
        raise error

    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(UserError, match=r"a\.png: cannot be read as an image \(.+\); mend or remove it$"):
        open_picture(tmp_path / "a.png", 1)


def test_no_picture_is_changed_that_is_as_it_should_be():
    values = np.random.default_rng(0).integers(256, size=(6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    np.testing.assert_array_equal(to_mode(image, 3), values)
    np.testing.assert_array_equal(cover(image, 6, 9), values)
    np.testing.assert_array_equal(cover(image, 6, 5), values[:, 2:7])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (12, 8), (7, 3)])
def test_a_covering_picture_keeps_proportions(height, width):
    from torchvision.transforms import v2

    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 60), dtype=np.uint8))
    covered = cover(image, height, width)
    assert covered.size == (width, height)
    if height == width:
        published = v2.Compose([v2.Resize(height, antialias=True), v2.CenterCrop(height)])
        np.testing.assert_array_equal(covered, published(image))
