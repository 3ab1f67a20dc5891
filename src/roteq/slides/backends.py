"""How the pixels of a slide are got out of its file: tifffile, openslide, tiffslide.

A reader knows the sizes of its levels and reads regions that lie inside them. It never decodes a level whole.

Which one reads a file: TIFF that tifffile understands (pyramids, OME-TIFF, Aperio) is read by tifffile, everything else
by openslide. On a level whose downsampling is no whole number (2.0005 in a TCGA slide) openslide places a region
between pixels and interpolates: the same pixel differs by up to 50 grey levels from region to region.
"""

import logging
import re
import struct
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import RoteqError

CACHE = 64 * 2**20  # bytes of decoded tiles that a reader keeps; one at least
MOST_BYTES = 128 * 2**20  # of a tile or strip once decoded
COARSEST = 20.0  # microns: a resolution tag with wider pixels is that of a printer or a screen (300 dpi is 85)
MICRONS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}
BY_TIFFFILE = {"generic-tiff", "aperio", None}  # formats of openslide that tifffile reads as well
GREY, RGB, YCBCR = (0, 1), 2, 6  # photometric
WHITE_IS_ZERO = 0
PLAIN = {1, 5, 8, 32773, 32946}  # compressions that leave YCbCr as it is
APERIO_YCBCR = 33003  # JPEG 2000 of YCbCr that does not say so
EXTRA = "pip install 'roteq[slides]'"

Size = tuple[int, int]

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it finds odd is for who asks, not for stderr


class Reader(Protocol):
    """What every backend offers. Regions are uint8 (height, width, 3) and lie inside their level."""

    sizes: list[Size]  # (height, width) of every level, the finest first
    mpp: tuple[float, float] | None  # microns per pixel of level 0 along x and y

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray: ...

    @property
    def close(self) -> Callable[[], Any]: ...


class Undecodable(Exception):
    """A region that cannot be read; the rest of the slide can. Says where and why."""


class NotMine(Exception):
    """A file that this reader does not understand; another may."""


def open_reader(path: Path) -> Reader:
    """Raises: RoteqError if there is no such file, it is no slide, is truncated, or a library is missing."""
    if not path.exists():
        raise RoteqError(f"{path}: no such file")
    if path.is_dir():
        raise RoteqError(f"{path}: expected a slide, got a folder; for MIRAX give the .mrxs file beside it")
    if path.stat().st_size == 0:
        raise RoteqError(f"{path}: an empty file; was it copied whole?")
    readers: dict[str, Callable[[Path], Reader]] = {
        "openslide": OpenSlideReader,
        "tifffile": TiffReader,
        "tiffslide": TiffSlideReader,
    }
    try:
        from openslide import OpenSlide

        if OpenSlide.detect_format(path) in BY_TIFFFILE:
            readers = {name: readers[name] for name in ("tifffile", "openslide", "tiffslide")}
    except ImportError:
        pass
    missing, reasons = [], []
    for name, reader in readers.items():
        try:
            return reader(path)
        except ImportError as error:
            missing.append(error.name or name)
        except NotMine as reason:
            reasons.append(f"{name}: {reason}")
    if len(missing) == len(readers):
        raise RoteqError(f"{path}: slides need openslide and tifffile: {EXTRA}")
    without = f". Not installed: {', '.join(missing)}; {EXTRA}" if missing else ""
    raise RoteqError(
        f"{path}: not a slide that can be read; expected .svs, .ndpi, .mrxs, a pyramidal TIFF or an OME-TIFF "
        f"({'; '.join(reasons)}){without}"
    )


class TiffReader:
    """Tiles or strips of a TIFF file, each decoded alone: chained pages, SubIFDs, planes as samples or as pages."""

    def __init__(self, path: Path) -> None:
        import imagecodecs  # noqa: F401  for nearly every compression
        import tifffile

        self.path = path
        try:
            self.file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, OSError, ValueError, struct.error) as error:
            raise NotMine(f"{error}") from None
        self.close = weakref.finalize(self, self.file.close)  # also when nobody refers to it any more
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self.kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()  # the tiles used last
        self.kept_bytes = 0

    def _open(self) -> None:
        check_whole(self.file, self.path)
        try:
            series = max(self.file.series, key=lambda one: one.keyframe.imagelength * one.keyframe.imagewidth)
            self.levels = [_planes(level, self.path) for level in series.levels]
            self.mpp = tiff_mpp(self.file, self.levels[0][0])
        except RoteqError:
            raise
        except Exception as error:  # damaged files raise anything: KeyError, IndexError, struct.error ...
            raise NotMine(f"{type(error).__name__}: {error}") from None
        for level in self.levels:
            _check_kind(level[0], self.path)
        self.sizes = [(int(level[0].imagelength), int(level[0].imagewidth)) for level in self.levels]

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        planes = [self._plane(page, y, x, height, width) for page in self.levels[level]]
        found = planes[0] if len(planes) == 1 else np.concatenate(planes, 2)
        if self.levels[level][0].photometric == WHITE_IS_ZERO:
            found = 255 - found
        return over_white(found)

    def _plane(self, page: Any, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, samples) of one page."""
        if page.is_memmappable:
            stored = np.memmap(self.path, np.uint8, "r", page.dataoffsets[0], page.shaped)[:, 0]
            return np.concatenate(stored[:, y : y + height, x : x + width], 2)
        rows, columns = _segment(page)
        samples = page.samplesperpixel
        found = np.full((height, width, samples), 0 if page.photometric == WHITE_IS_ZERO else 255, np.uint8)
        across, down = -(-page.imagewidth // columns), -(-page.imagelength // rows)
        planar = samples if page.planarconfig == 2 else 1
        for row in range(y // rows, (y + height - 1) // rows + 1):
            for column in range(x // columns, (x + width - 1) // columns + 1):
                for plane in range(planar):
                    tile = self._tile(page, (plane * down + row) * across + column)
                    if tile is None:
                        continue
                    top, left = row * rows, column * columns
                    inner = tile[max(0, y - top) : y + height - top, max(0, x - left) : x + width - left]
                    at = max(0, top - y), max(0, left - x)
                    into = found[at[0] : at[0] + len(inner), at[1] : at[1] + inner.shape[1]]
                    into[..., plane if planar > 1 else slice(None)] = inner[..., 0] if planar > 1 else inner
        return found

    def _tile(self, page: Any, index: int) -> np.ndarray | None:
        key = page.offset, index
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        tile = self._decode(page, index)
        if tile is not None:
            self.kept[key] = tile
            self.kept_bytes += tile.nbytes
            while self.kept_bytes > CACHE and len(self.kept) > 1:
                self.kept_bytes -= self.kept.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, page: Any, index: int) -> np.ndarray | None:
        """uint8 (h, w, samples), or None for a tile that was never written."""
        rows, columns = _segment(page)
        across, down = -(-page.imagewidth // columns), -(-page.imagelength // rows)
        row, column = divmod(index % (across * down), across)
        try:
            start, length = page.dataoffsets[index], page.databytecounts[index]
            if not length:
                return None
            self.file.filehandle.seek(start)
            data = self.file.filehandle.read(length)
            height, width = coded_size(data) or (rows, columns)
            if height * width > 4 * rows * columns:
                raise ValueError(f"it holds a picture of {height} x {width} pixels")
            tile = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0][0]
        except MemoryError:
            raise
        except Exception as error:  # every codec has its own
            raise Undecodable(
                f"the tile of {rows} x {columns} pixels at y={row * rows}, x={column * columns} does not decode "
                f"({' '.join(str(error).split()) or type(error).__name__})"
            ) from None
        return np.asarray(tile)


def check_whole(file: Any, path: Path) -> None:
    """Raises: RoteqError if the file ends before its pictures do."""
    size = path.stat().st_size
    ends = [0]
    for page in file.pages:
        for one in (page, *(page.pages or ())):
            offsets, counts = (np.asarray(of, np.int64) for of in (one.dataoffsets, one.databytecounts))
            ends.append(int((offsets + counts).max(initial=0)) if len(offsets) == len(counts) else 0)
    if len(ends) == 1:
        raise RoteqError(f"{path}: truncated: its list of pictures lies beyond its {size:,} bytes; copy it again")
    if max(ends) > size:
        raise RoteqError(f"{path}: truncated: expected at least {max(ends):,} bytes, got {size:,}; copy it again")


def _planes(level: Any, path: Path) -> list[Any]:
    """The pages that make up one picture: one, or three of a sample each."""
    pages = list(level.pages)
    if len(pages) == 1 or (len(pages) == 3 and level.axes[0] in "CS" and level.keyframe.samplesperpixel == 1):
        return [page.aspage() for page in pages]
    raise RoteqError(f"{path}: expected one picture in grey or RGB, got a stack of {len(pages)} (axes {level.axes})")


def _check_kind(page: Any, path: Path) -> None:
    """Raises: RoteqError for pixels that are no 8-bit grey or RGB, or cannot be read piece by piece."""
    if page.compression == APERIO_YCBCR:
        raise NotMine("JPEG 2000 in YCbCr")
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise RoteqError(f"{path}: expected 8 bits a sample, got {page.bitspersample} ({page.dtype}); rescale it first")
    colours = page.photometric in (RGB, YCBCR) and page.samplesperpixel >= 3
    if not colours and not (page.photometric in GREY and page.samplesperpixel <= 2):
        kind = getattr(page.photometric, "name", page.photometric)
        raise RoteqError(f"{path}: expected grey or RGB, got {page.samplesperpixel} samples a pixel of kind {kind}")
    if page.photometric == YCBCR and page.compression in PLAIN:
        raise RoteqError(f"{path}: expected RGB, got YCbCr without JPEG; convert it to a tiled TIFF in RGB")
    rows, columns = _segment(page)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    if rows * columns * samples > MOST_BYTES and not page.is_memmappable:
        kind = "tiles" if page.is_tiled else "strips"
        raise RoteqError(
            f"{path}: its {kind} of {rows} x {columns} pixels are too large to decode one by one (more than "
            f"{MOST_BYTES // 2**20} MB each); convert it to a tiled pyramid, such as: vips tiffsave in.tif out.tif "
            "--tile --pyramid --compression jpeg"
        )


def _segment(page: Any) -> Size:
    """(rows, columns) of a tile or strip."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def coded_size(data: bytes) -> Size | None:
    """(height, width) that a JPEG or JPEG 2000 stream says it has, None for anything else."""
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 16:
        width, height = struct.unpack(">II", data[8:16])
        return height, width
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length, _, height, width = struct.unpack(">BHBHH", data[at + 1 : at + 9])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return height, width
        at += 2 + length
    return None


def over_white(pixels: np.ndarray) -> np.ndarray:
    """Grey, grey with alpha, RGB or RGBA, uint8, to RGB."""
    samples = pixels.shape[2]
    if samples in (2, 4):
        alpha = pixels[..., -1:].astype(np.uint16)
        if alpha.min() < 255:
            pixels = ((pixels[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    colours = pixels[..., :3] if samples >= 3 else np.repeat(pixels[..., :1], 3, 2)
    return np.ascontiguousarray(colours)


def tiff_mpp(file: Any, page: Any) -> tuple[float, float] | None:
    """Microns per pixel along x and y: of OME-XML, of Aperio's description, or of the resolution tags."""
    if file.ome_metadata:
        return _ome_mpp(file.ome_metadata, int(page.imagewidth))
    found = re.search(r"\|\s*MPP\s*=\s*([\d.]+)", file.pages[0].description)
    if found:
        return _sane(float(found[1]), float(found[1]))
    unit = {2: 25400.0, 3: 10000.0}.get(int(page.tags.valueof(296, 1)))
    densities = [page.tags.valueof(code) for code in (282, 283)]  # (numerator, denominator) of pixels per unit
    if unit is None or not all(density and density[0] and density[1] for density in densities):
        return None
    across, down = (unit * density[1] / density[0] for density in densities)
    return _sane(across, down) if max(across, down) <= COARSEST else None


def _ome_mpp(text: str, width: int) -> tuple[float, float] | None:
    """Of the picture of that width."""
    from xml.etree import ElementTree

    try:
        found = [item.attrib for item in ElementTree.fromstring(text).iter() if item.tag.endswith("}Pixels")]
        pixels = next(item for item in found if item.get("SizeX") == str(width))
        across, down = (
            float(pixels[f"PhysicalSize{axis}"]) * MICRONS[pixels.get(f"PhysicalSize{axis}Unit", "µm")] for axis in "XY"
        )
    except (ElementTree.ParseError, StopIteration, KeyError, ValueError):
        return None
    return _sane(across, down)


def _sane(across: float, down: float) -> tuple[float, float] | None:
    return (across, down) if 0 < across < np.inf and 0 < down < np.inf else None


class OpenSlideReader:
    """Any format of openslide. A failed read spoils its handle, so it is opened again."""

    def __init__(self, path: Path) -> None:
        import openslide

        self.path, self.library = path, openslide
        self.slide = self._open()
        self.sizes = [(height, width) for width, height in self.slide.level_dimensions]
        self.scales = self.slide.level_downsamples
        self.mpp = _property_mpp(self.slide.properties, "openslide")

    def _open(self) -> Any:
        try:
            slide = self.library.OpenSlide(self.path)
            slide.set_cache(self.library.OpenSlideCache(CACHE))
        except self.library.OpenSlideError as error:
            raise NotMine(f"{error}") from None
        return slide

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        scale = self.scales[level]
        try:
            found = self.slide.read_region((round(x * scale), round(y * scale)), level, (width, height))
        except self.library.OpenSlideError as error:
            fresh = self._open()
            self.slide.close()
            self.slide = fresh
            raise Undecodable(
                f"the region of {height} x {width} pixels at y={y}, x={x} does not decode ({error})"
            ) from None
        return over_white(np.asarray(found))

    def close(self) -> None:
        self.slide.close()


class TiffSlideReader:
    """What only tiffslide composes, where openslide is not installed: Leica's mosaics, for example."""

    def __init__(self, path: Path) -> None:
        import tiffslide

        try:
            self.slide = tiffslide.TiffSlide(path)
            self.close = weakref.finalize(self, self.slide.close)
            self.sizes = [(height, width) for width, height in self.slide.level_dimensions]
            self.scales = self.slide.level_downsamples
            self.mpp = _property_mpp(self.slide.properties, "tiffslide")
        except Exception as error:  # it lets those of tifffile, zarr and fsspec through
            raise NotMine(f"{error}") from None

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        scale = self.scales[level]
        try:
            at = round(x * scale), round(y * scale)
            found = self.slide.read_region(at, level, (width, height), as_array=True)
        except Exception as error:
            raise Undecodable(
                f"the region of {height} x {width} pixels at y={y}, x={x} does not decode ({error})"
            ) from None
        return over_white(found)


def _property_mpp(properties: Any, prefix: str) -> tuple[float, float] | None:
    try:
        return _sane(float(properties[f"{prefix}.mpp-x"]), float(properties[f"{prefix}.mpp-y"]))
    except (KeyError, TypeError, ValueError):
        return None
