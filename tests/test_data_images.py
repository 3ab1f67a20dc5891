"""Decoding: what is converted, what is refused, and that nothing is cut off silently."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from roteq.data.images import BadImage, decode, encode, fit, is_image


@pytest.mark.parametrize(
    ("mode", "suffix", "expected", "note"),
    [
        ("RGB", ".tif", "RGB", ""),
        ("L", ".tif", "L", ""),
        ("1", ".png", "L", ""),
        ("P", ".png", "RGB", "palette"),
        ("CMYK", ".tif", "RGB", "CMYK"),
        ("CMYK", ".jpg", "RGB", "CMYK"),
        ("RGBA", ".png", "RGB", "alpha"),
        ("LA", ".png", "L", "alpha"),
    ],
)
def test_every_eight_bit_kind_becomes_grey_or_rgb(
    tmp_path: Path, mode: str, suffix: str, expected: str, note: str
) -> None:
    path = tmp_path / f"x{suffix}"
    picture(0).convert(mode).save(path)
    image, converted = decode(path)
    assert (image.mode, converted, image.size) == (expected, note, (12, 12))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    layer.save(tmp_path / "x.png")
    image, _ = decode(tmp_path / "x.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (255, 255, 255)]


def test_a_palette_with_a_transparent_colour_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png", transparency=0)
    flat, note = decode(tmp_path / "x.png")
    assert (flat.getpixel((0, 0)), flat.getpixel((1, 0)), note) == ((255, 255, 255), (9, 9, 9), "alpha")


def sixteen_bit_rgb_png() -> bytes:
    """Pillow reads this as 8-bit RGB without a word."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", 1, 300, 5, 70, 800, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["grey tif", "grey png", "rgb png", "float tif"])
def test_more_than_eight_bits_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind.split()[1]}"
    if kind == "rgb png":
        path.write_bytes(sixteen_bit_rgb_png())
    else:
        Image.fromarray(np.ones((4, 4), np.float32 if kind == "float tif" else np.uint16)).save(path)
    with pytest.raises(BadImage, match=r"16-bit: .* rescale it to 8 bits first"):
        decode(path)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_a_truncated_tiff_is_refused(tmp_path: Path, compression: str) -> None:
    buffer = io.BytesIO()
    picture(0, 96).save(buffer, "TIFF", compression=compression)
    whole = buffer.getvalue()
    (tmp_path / "x.tif").write_bytes(whole)
    decode(tmp_path / "x.tif")
    for length in (len(whole) // 2, 20, 0):
        (tmp_path / "x.tif").write_bytes(whole[:length])
        with pytest.raises(BadImage, match=r"truncated|unreadable"):
            decode(tmp_path / "x.tif")


def test_a_truncated_jpeg_is_called_truncated(tmp_path: Path) -> None:
    whole = encode(picture(0, 96), "jpeg", 90)
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImage, match="truncated") as caught:
        decode(tmp_path / "x.jpg")
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("side", [40_000, 9_000])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "x.png").write_bytes(data)  # no pixels: decoding would say "truncated"
    with pytest.raises(BadImage, match="too many pixels"):
        decode(tmp_path / "x.png")


def test_what_is_no_image_or_absent_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("hello")
    with pytest.raises(BadImage, match="unreadable: not an image"):
        decode(tmp_path / "x.png")
    with pytest.raises(BadImage, match="missing"):
        decode(tmp_path / "y.png")


def test_the_crop_is_the_centre() -> None:
    pixels = np.zeros((9, 10, 3), np.uint8)
    pixels[3:6, 3:6] = 255  # rows (9-3)//2, columns (10-3)//2
    assert np.asarray(fit(Image.fromarray(pixels), crop=3)).min() == 255


def test_a_resize_does_not_distort() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255  # the centre square
    assert np.asarray(fit(Image.fromarray(pixels), size=8)).min() == 255


def test_one_pixel_is_smaller_than_the_crop() -> None:
    with pytest.raises(BadImage, match="smaller than the crop: 1 x 1, crop 32"):
        fit(Image.new("RGB", (1, 1)), crop=32)


def test_png_keeps_every_pixel() -> None:
    image = picture(3)
    assert Image.open(io.BytesIO(encode(image, "png", 95))).tobytes() == image.tobytes()


def test_hidden_files_are_no_images() -> None:
    assert [is_image(Path(name)) for name in ("a.TIF", "._a.tif", "a.txt")] == [True, False, False]
