"""The images to look at: those that were given, and those that were dropped on the page."""

import io
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from ..auditing.framing import Header
from ..auditing.gathering import Pile, gather, is_picture
from ..auditing.labelling import find_labels
from ..auditing.pictures import decoded, header_of, item_of, picture_of, with_labels
from ..auditing.rows import spread_out
from ..data.images import MAX_PIXELS, BadImage, decode, readable
from ..errors import RoteqError, UsageError
from ..metrics.arrays import as_array
from .recent import Recent

UPLOADS, MAX_BYTES, KEPT_BYTES = 32, 32 << 20, 256 << 20  # of dropped files: how many, of one, of all together
DECODED = 8  # pictures, and together not more than MAX_PIXELS unless one alone has
NAME = 80  # characters
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM")  # of dropped files, told by their content
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Entry:
    """One image: its name as shown, which is never a path, its label if there is one, and what to know of it."""

    id: str
    name: str
    truth: str | None = None
    note: str | None = None


class Album:
    """Given images (ids "0", "1", ...) and dropped ones ("u" and random digits), which are decoded when they are asked
    for, from any thread.

    source and options: as for `auditing.pictures.open_pictures`; None: only dropped ones. Larger sets are thinned out
    evenly to `most`. Nothing but the list of the files and the header of the first one is read at the start.

    Memory: the files of at most 32 dropped images, 256 MiB together, the oldest are forgotten; and at most 8 decoded
    pictures, 192 MB together or one of 64 million pixels.

    Raises: UsageError for sources and labels that cannot be, and for arrays that are no pictures.
    """

    def __init__(
        self,
        source: Any = None,
        *,
        labels: Any = None,
        classes: Sequence[str] | None = None,
        split: str | None = None,
        label_column: str | None = None,
        download: bool = False,
        most: int = 500,
    ) -> None:
        self.source, self.split = "dropped images", split
        self.entries: tuple[Entry, ...] = ()
        self.classes: tuple[str, ...] = ()
        self._uploads: dict[str, tuple[Entry, bytes]] = {}
        self._decoded: Recent[str, Image.Image] = Recent(
            DECODED, MAX_PIXELS, lambda picture: picture.width * picture.height
        )
        self._lock = Lock()
        if source is not None:
            pile = gather(source, split, label_column if labels is None else None, download)
            self.source, self.split = _told(pile.source, source, split)
            self._pile, self._places = pile, spread_out(len(pile), most)
            self._check_kind()
            self.entries, self.classes = _entries(self._pile, self._places, labels, classes, label_column)

    def _check_kind(self) -> None:
        """The first image that can be read decides."""
        first = next((one for i in self._places if isinstance(one := header_of(self._pile, int(i)), Header)), None)
        if first is not None and (first.kind == "input" or first.channels not in (1, 3)):
            raise UsageError(
                f"images: expected pictures, grey or RGB in 8 bits, got arrays of {first.channels} channels"
                f"{' in float' if first.kind == 'input' else ''}; explore shows pictures only"
            )

    def entry(self, id: str) -> Entry:
        if id.isdecimal() and int(id) < len(self.entries):
            return self.entries[int(id)]
        found = self._uploads.get(id)
        if found is None:
            hint = "; the oldest dropped images are forgotten, drop it again" if id.startswith("u") else ""
            raise RoteqError(f"image: no image {id[:NAME]!r}{hint}")
        return found[0]

    def picture(self, id: str) -> Image.Image:
        """Decoded, "L" or "RGB", pixels as stored. Raises: RoteqError in the words for a person."""
        entry = self.entry(id)
        return self._decoded.get(entry.id, lambda: self._read(entry))

    def add(self, data: bytes, name: str) -> Entry:
        """Keep a dropped file if it is an image. Its name is a label, nothing else; what it is, its content tells.

        Raises: BadImage, a sentence, for everything else, and for more than 64 million pixels before they are decoded.
        """
        picture, note = _opened(data)
        entry = Entry("u" + secrets.token_hex(8), shown_name(name), note=note)
        with self._lock:
            self._uploads[entry.id] = (entry, data)
            while len(self._uploads) > UPLOADS or sum(len(kept) for _, kept in self._uploads.values()) > KEPT_BYTES:
                del self._uploads[next(iter(self._uploads))]
        self._decoded.put(entry.id, picture)
        return entry

    def _read(self, entry: Entry) -> Image.Image:
        if dropped := self._uploads.get(entry.id):
            return decode(io.BytesIO(dropped[1]), FORMATS)[0]
        place = int(self._places[int(entry.id)])
        item: Any = None
        try:
            if self._pile.is_alone:
                with self._lock:
                    item, _ = item_of(self._pile, place)
                    return _picture(item)
            item, _ = item_of(self._pile, place)
            return _picture(item)
        except BadImage as bad:
            detail = bad.detail.replace(str(item), entry.name) if isinstance(item, str | Path) else bad.detail
            raise BadImage(bad.reason, f"{entry.name}: {detail}") from None


def _picture(item: Any) -> Image.Image:
    if is_picture(item):
        return decoded(item)
    array = as_array(item)
    if array.dtype != np.uint8 or array.ndim != 3 or len(array) not in (1, 3):
        raise BadImage("no picture", f"an array {array.dtype} {array.shape}")
    return picture_of(array)


def shown_name(name: str) -> str:
    """The last part of a path, without control characters, 80 characters at most.

    >>> shown_name("../../etc/cells\\n.png")
    'cells.png'
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return "".join(c for c in last if c.isprintable()).strip()[:NAME] or "image"


def _told(told: str, source: Any, split: str | None) -> tuple[str, str | None]:
    """The source in words without the folders it lies in, and the split that was taken."""
    if not isinstance(source, str | Path):
        return told, split
    rest = told.removeprefix(str(Path(source))).removeprefix(str(source))
    chosen = rest.removeprefix(", ") if rest.startswith(", ") else split
    if str(source).startswith("hf:"):
        return told, told.partition(", ")[2] or split
    return Path(source).resolve().name + rest, chosen


def _entries(
    pile: Pile, places: np.ndarray, labels: Any, classes: Sequence[str] | None, label_column: str | None
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    unknown: set[int] = set()  # images that cannot be read, and their labels with them
    if pile.is_paired and pile.labels is None and labels is None:
        headers = [header_of(pile, int(i)) for i in places]
        good = [one for one in headers if isinstance(one, Header)]
        unknown = {i for i, one in enumerate(headers) if not isinstance(one, Header)}
        pile = with_labels(pile, np.delete(places, list(unknown)), good) if good else pile
    found = find_labels(pile, places, labels, classes, None, label_column)
    names = [pile.names[i] if pile.root is not None else f"image {pile.names[i]}" for i in places]
    truth: list[str | None] = [None] * len(places)
    if found.values is not None:
        truth = [None if i in unknown else _label(value, found.classes) for i, value in enumerate(found.values)]
    entries = tuple(
        Entry(str(i), shown_name(name), label) for i, (name, label) in enumerate(zip(names, truth, strict=True))
    )
    return entries, found.classes


def _label(value: Any, classes: Sequence[str]) -> str:
    if np.ndim(value):
        return ", ".join(_label(k, classes) for k in np.flatnonzero(value)) or "none"
    return classes[int(value)] if int(value) < len(classes) else str(int(value))


def _opened(data: bytes) -> tuple[Image.Image, str | None]:
    """A dropped file, decoded, and what to know of it."""
    if not data:
        raise BadImage("empty", "the file holds nothing")
    if len(data) > MAX_BYTES:
        raise BadImage("too large", f"{len(data) / 2**20:.0f} MiB, more than the limit of {MAX_BYTES >> 20} MiB")
    _check_content(data)
    picture, converted = decode(io.BytesIO(data), FORMATS)
    with readable(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        notes = ["the first of several frames or pages"] if getattr(image, "is_animated", False) else []
        has_orientation = image.format != "PNG" or "exif" in image.info  # else Pillow would decode it once more
        if has_orientation and image.getexif().get(ORIENTATION, 1) != 1:
            notes.append("shown as stored: it asks to be turned (EXIF), which is not done")
    if converted == "alpha":
        notes.append("transparent pixels lie over white")
    return picture, "; ".join(notes) or None


def _check_content(data: bytes) -> None:
    """What is often dropped and is no picture of pixels."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:4].lower() == b"<svg" or (start[:5] == b"<?xml" and b"<svg" in start.lower()):
        raise BadImage("SVG", "a drawing, not pixels; export it as PNG")
    if start[:4] == b"%PDF":
        raise BadImage("PDF", "a document, not pixels; export the picture as PNG")
    if data[4:8] == b"ftyp":
        raise BadImage("unreadable", "a HEIC or AVIF picture, or a video; export it as PNG or JPEG")
    if _is_text(data[:1024]) and not re.match(rb"P[1-6]\s", start):  # which is how a PPM starts
        raise BadImage("text", "a text file, not an image")


def _is_text(start: bytes) -> bool:
    words = start.decode("utf-8", errors="replace").rstrip("\ufffd")  # the last character may be cut
    return all(c.isprintable() or c in "\t\r\n\f" for c in words.replace("\ufffd", "\0"))
