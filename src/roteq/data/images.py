"""One image: safe decoding, cropping, encoding. No torch: the preparing processes import this and must start fast."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import RoteqError

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".jp2", ".ppm", ".pgm"})
GREY = frozenset({"1", "L", "LA", "La"})  # modes that decode to one channel
MAX_PIXELS = 64_000_000  # refused from the header, before anything is decoded

_SIXTEEN_BIT = "16 bits a sample; rescale it to 8 bits first (cutting it off silently would change what is seen)"


class BadImage(RoteqError):
    """An image that cannot be used. `reason` is what the summary counts by."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def decode(
    source: str | Path | BinaryIO | np.ndarray, formats: tuple[str, ...] | None = None
) -> tuple[Image.Image, str]:
    """Decode an image file, or take an array uint8 (H, W) or (H, W, 3): an 8-bit picture and what was converted.

    The picture is grey ("L") or "RGB". A palette and CMYK become RGB, transparency is laid over white, and the second
    value names that ("palette", "CMYK", "alpha"; "" where nothing changed). The first page of a file with several is
    taken, and pixels as stored: an EXIF orientation is not applied. formats: names of Pillow's decoders that may be
    tried; None: all.

    Raises: BadImage with the reason "missing", "unreadable", "truncated", "16-bit" or "too many pixels".

    >>> decode(np.zeros((4, 6), np.uint8))[0].size
    (6, 4)
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(source), ""
    with readable(), Image.open(source, formats=formats) as image:
        check_header(image)
        image.load()
        return to_eight_bits(image)


def decode_mask(path: Path) -> np.ndarray:
    """The values of a mask, int64 (H, W): indices of a palette, 0 and 1 of 1-bit files, or grey values.

    Raises: BadImage as `decode` does (16 bits are fine here), with the reason "coloured mask" for one in colour.
    """
    with readable(), Image.open(path) as image:
        check_header(image, bits=16)
        image.load()
        values = np.asarray(image).astype(np.int64)
        opaque = image.mode in ("LA", "RGBA") and (values[..., -1] == 255).all()
    if opaque:
        values = values[..., :-1]
    if values.ndim == 3 and image.mode in ("LA", "RGB", "RGBA") and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim == 3 or image.mode == "F":
        raise BadImage("coloured mask", f"mode {image.mode}; expected one value a pixel, the number of its class")
    return values


@contextmanager
def readable() -> Iterator[None]:
    """Whatever goes wrong while a file is read, as BadImage."""
    try:
        yield
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage("missing", "no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage("too many pixels", f"more than the limit of {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BadImage("unreadable", "not an image, or a kind that Pillow does not know") from None
    except Exception as error:  # damaged files raise anything: SyntaxError, struct.error, TypeError, zlib.error ...
        text = " ".join(str(error).split()) or type(error).__name__
        cut = re.search("truncat|end of file|decoder error -2|unexpected end|not large enough", text, re.IGNORECASE)
        raise BadImage("truncated" if cut else "unreadable", text) from None


def read_header(source: Any) -> tuple[tuple[int, int], int]:
    """((height, width), channels) that `decode` will give for a file, without decoding it. Raises: BadImage as it does.

    source: a path, or an open file.
    """
    try:
        with Image.open(source) as image:
            check_header(image)
            return (image.height, image.width), 1 if image.mode in GREY else 3
    except BadImage:
        raise
    except Exception as error:
        if hasattr(source, "seek"):
            source.seek(0)
        decode(source)  # says what is wrong
        raise BadImage("unreadable", str(error)) from None


def check_header(image: Image.Image, bits: Literal[8, 16] = 8) -> None:
    """Refuse, before the pixels are read, what is too large or has more than so many bits a sample."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage("too many pixels", f"{width} x {height}, more than the limit of {MAX_PIXELS:,}")
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if bits == 8 and (deep or ";16" in str(getattr(image, "tile", ""))):  # Pillow halves 16-bit RGB without saying so
        raise BadImage("16-bit", _SIXTEEN_BIT)


def to_eight_bits(image: Image.Image) -> tuple[Image.Image, str]:
    """Grey or RGB, and the name of the conversion."""
    mode = image.mode
    if mode in ("L", "RGB"):
        return image, ""
    if mode == "1":
        return image.convert("L"), ""
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (mode == "P" and "transparency" in image.info):
        layer = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return flat.convert("L" if mode in ("LA", "La") else "RGB"), "alpha"
    return image.convert("RGB"), {"P": "palette"}.get(mode, mode)


def fit(image: Image.Image, *, crop: int | None = None, size: int | None = None, mode: str = "rgb") -> Image.Image:
    """Cut the centre square of `crop` pixels, resize to a square of `size`, convert to "rgb" or "grey".

    A picture that is not square is cut to its centre square before it is resized: nothing is distorted.
    Raises: BadImage if the picture is smaller than the crop.

    >>> fit(Image.new("RGB", (96, 96)), crop=32, size=16, mode="grey").size
    (16, 16)
    """
    if crop is not None:
        if min(image.size) < crop:
            raise BadImage("smaller than the crop", f"{image.width} x {image.height}, crop {crop}")
        image = _centre(image, crop)
    if size is not None:
        image = _centre(image, min(image.size)).resize((size, size), Image.Resampling.BICUBIC)
    target = "L" if mode == "grey" else "RGB"
    return image if image.mode == target else image.convert(target)


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))


def encode(image: Image.Image, format: Literal["png", "jpeg"], quality: int) -> bytes:
    """The bytes of the file. PNG at level 4: a third faster than the default for 1 % more bytes. JPEG keeps all colour
    samples (4:4:4), since stains differ by colour."""
    buffer = io.BytesIO()
    if format == "png":
        image.save(buffer, "PNG", compress_level=4)
    else:
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
