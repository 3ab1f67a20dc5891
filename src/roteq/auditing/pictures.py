"""The pictures of an audit, from any source, as patches of one size that are read a batch at a time."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.images import GREY, MAX_PIXELS, BadImage, check_header, decode, read_header, to_eight_bits
from ..errors import RoteqError, UsageError, nearest
from ..metrics.arrays import as_array
from ..results import Finding
from .framing import FILTERS, Frame, Header, Sides, by, frame_for
from .gathering import FORMS, Pile, gather, is_picture
from .labelling import find_labels

THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes outside the interpreter lock
NAMED = 3  # unreadable pictures whose names are told
MOST_CHANNELS = 64  # of an array; more are a picture whose channels come last


@dataclass(frozen=True)
class Pictures:
    """N patches (C, h, w) of one size, uint8 (0..255) or float (what the model takes). None is kept in memory: each is
    read when `load` asks for it."""

    source: str  # in words
    ids: list[str]
    labels: np.ndarray | None  # (N,) indices, (N, K) of 0 and 1; None: unlabelled
    classes: tuple[str, ...]  # names of the labels in the order of the indices; () unlabelled or unnamed
    groups: list[str] | None
    channels: int
    size: Sides  # of the patches
    is_float: bool
    method: str  # how pictures were brought to one size, in words
    read: Callable[[int], np.ndarray] = field(repr=False)  # place in the source -> (C, h, w); BadImage
    places: np.ndarray = field(repr=False)
    findings: tuple[Finding, ...] = ()  # what was left out, and what else to know

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, np.ndarray]:
        """(patches (B, C, h, w) of those that can be read, which these are: bool (len(indices),)).

        A header may be sound where the pixels are not, and a long audit must not end for that: drop what is not kept,
        and say so with `unreadable`. The same indices give the same patches, from any thread.
        """
        places = self.places[np.asarray(indices, dtype=np.int64)]

        def one(place: int) -> np.ndarray | None:
            try:
                return self.read(place)
            except BadImage:
                return None

        found = mapped(one, places.tolist())
        patches = [patch for patch in found if patch is not None]
        kept = np.array([patch is not None for patch in found], dtype=bool)
        if not patches:
            kind = torch.float32 if self.is_float else torch.uint8
            return torch.empty((0, self.channels, *self.size), dtype=kind), kept
        return torch.from_numpy(np.stack(patches)).contiguous(), kept

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Pictures":
        """Those of these indices, in this order; their patches stay the same."""
        at = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            ids=[self.ids[i] for i in at],
            labels=None if self.labels is None else self.labels[at],
            groups=None if self.groups is None else [self.groups[i] for i in at],
            places=self.places[at],
        )


def open_pictures(
    source: Any,
    *,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    groups: Any = None,
    split: str | None = None,
    channels: int | None = None,
    size: Sides | None = None,
    resize: int | None = None,
    interpolation: str = "bicubic",
    label_column: str | None = None,
    download: bool = False,
    chosen: Sequence[int] | np.ndarray | Callable[[int], np.ndarray] | None = None,
) -> Pictures:
    """Any images: a folder, folders of classes (also below train, validation, test), a CSV of path,label[,group], a
    prepared dataset, "hf:NAME_OR_FOLDER[SPLIT]"; in Python also arrays and tensors (N, C, H, W), lists of paths or PIL
    images, a torch Dataset of images or (image, label), a dataset of Hugging Face.

    labels: one for each image, or a CSV of images and labels; None: those of the source; "none". classes: names of the
    model's outputs in their order, among which names of labels are looked up. groups: one for each image.
    size: height and width of the model's input, None any. channels: of its input; grey and RGB are converted.
    resize: the shorter side of a picture before its centre is cut; 0: as stored; None: that of the model's input.
    Arrays of exactly the model's input stay as they are; so do all arrays if resize is None, and float ones always,
    which are taken for what the model takes.
    chosen: which images, or how to choose them from a number; only their headers are read.

    What cannot be read is left out and is a finding. Pictures larger than the patch are cut to its centre, so a patch
    is square unless the model's input is not; nothing is distorted.
    Raises: UsageError for sources, labels and sizes that cannot be, naming the option; RoteqError if most of the images
    cannot be read.

    >>> pictures = open_pictures(np.zeros((5, 3, 20, 30), np.uint8), size=(8, 8), resize=10)
    >>> len(pictures), pictures.size, pictures.load([0, 4])[0].shape
    (5, (10, 10), torch.Size([2, 3, 10, 10]))
    """
    if interpolation not in FILTERS:
        raise UsageError(f"interpolation: unknown {interpolation!r}; {nearest(interpolation, FILTERS)}")
    if resize is not None and size is not None and 0 < resize < min(size):
        raise UsageError(f"resize: expected 0, or at least {min(size)} pixels, the model's input, got {resize}")
    pile = gather(source, split, label_column if labels is None else None, download)
    at = np.asarray(np.arange(len(pile)) if chosen is None else chosen(len(pile)) if callable(chosen) else chosen)
    pile, at, headers, findings = _survey(pile, at)
    kind = headers[0].kind
    if strange := next((i for i, header in enumerate(headers) if header.kind != kind), None):
        raise UsageError(
            f"images: expected one kind, got {kind} and {headers[strange].kind} ({pile.names[at[strange]]})"
        )
    channels, converted = _channels(headers, channels)
    names = [pile.names[i] for i in at]
    frame, method = frame_for(headers, names, size, resize, interpolation)
    if frame.size[0] * frame.size[1] > MAX_PIXELS:
        option = "resize" if resize else "size"
        raise UsageError(f"{option}: patches of {by(frame.size)} pixels are more than the limit of {MAX_PIXELS:,}")
    truth = find_labels(pile, at, labels, classes, groups, label_column)
    return Pictures(
        source=pile.source,
        ids=[pile.ids[i] for i in at],
        labels=truth.values,
        classes=truth.classes,
        groups=truth.groups,
        channels=channels,
        size=frame.size,
        is_float=kind == "input",
        method=method + converted,
        read=_reader(pile, {int(i): header.size for i, header in zip(at, headers, strict=True)}, frame, channels),
        places=at,
        findings=(*pile.findings, *findings, *truth.findings),
    )


def unreadable(names: Sequence[str], total: int) -> Finding:
    """That these of the images were left out."""
    told = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return Finding(
        "unreadable images",
        "warn",
        f"{len(names)} of {total} images could not be read and were left out: {told}.",
        "Convert or remove them; what is left out may be what the model finds hard.",
    )


def mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """The function of each item, in threads where there are many."""
    if len(items) < 16:
        return [function(item) for item in items]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def _survey(pile: Pile, at: np.ndarray) -> tuple[Pile, np.ndarray, list[Header], list[Finding]]:
    """The headers of these images, without those that cannot be read."""
    if not at.size:
        raise UsageError(f"{pile.source}: expected at least one image, got none")
    if pile.shape is not None and not pile.is_paired:
        first = header_of(pile, int(at[0]))
        if isinstance(first, Header):
            return pile, at, [first] * len(at), []
    found = (
        [header_of(pile, i) for i in at.tolist()]
        if pile.is_alone
        else mapped(lambda i: header_of(pile, i), at.tolist())
    )
    bad = [(pile.names[i], one) for i, one in zip(at, found, strict=True) if isinstance(one, BadImage)]
    if 2 * len(bad) > len(at):
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(one.reason for _, one in bad).most_common())
        raise RoteqError(
            f"{pile.source}: {len(bad)} of {len(at)} images cannot be read ({reasons}); the first is {bad[0][0]}: "
            f"{bad[0][1]}"
        )
    good = np.array([isinstance(one, Header) for one in found])
    headers, kept = [one for one in found if isinstance(one, Header)], at[good]
    pile = with_labels(pile, kept, headers)
    findings = [unreadable([f"{name} ({one.reason})" for name, one in bad], len(at))] if bad else []
    return pile, kept, headers, findings


def with_labels(pile: Pile, kept: np.ndarray, headers: Sequence[Header]) -> Pile:
    """With the labels that came with each of these images, if they did."""
    if not pile.is_paired or pile.labels is not None or any(header.label is None for header in headers):
        return pile
    given = np.array([as_array(header.label) for header in headers])
    labels = np.zeros((len(pile), *given.shape[1:]), dtype=given.dtype)
    labels[kept] = given
    return replace(pile, labels=labels)


def header_of(pile: Pile, place: int) -> Header | BadImage:
    """What is known of an image without decoding it, or why it is none. Raises: UsageError for what is no picture."""
    try:
        image, label = item_of(pile, place)
        if isinstance(image, Image.Image):
            check_header(image)
            return Header((image.height, image.width), 1 if image.mode in GREY else 3, "picture", label)
        if is_picture(image):
            size, channels = read_header(image)
            return Header(size, channels, "picture", label)
    except BadImage as bad:
        return bad
    array = as_array(image)
    kind = {"u1": "pixels"}.get(array.dtype.str[1:], "input" if array.dtype.kind == "f" else "")
    if array.ndim != 3 or not kind:
        raise UsageError(
            f"images: expected {FORMS}; arrays (C, H, W) in uint8 (pictures, 0..255) or float (what the model "
            f"takes); image {pile.names[place]} is {type(image).__name__} {array.dtype} {array.shape}"
        )
    if array.shape[0] > MOST_CHANNELS or (array.shape[0] > 4 >= array.shape[2]):
        raise UsageError(
            f"images: expected the channels first, (N, C, H, W), got {array.shape} for one image; use "
            "images.transpose(0, 3, 1, 2) or tensor.permute(0, 3, 1, 2)"
        )
    return Header((array.shape[1], array.shape[2]), array.shape[0], kind, label)


def item_of(pile: Pile, place: int) -> tuple[Any, Any]:
    """(image, label or None). What the code of a dataset raises is told as an unreadable image."""
    try:
        item = pile.item(place)
    except UsageError:
        raise
    except Exception as error:
        raise BadImage("unreadable", f"{type(error).__name__}: {error}") from None
    if pile.is_paired and isinstance(item, tuple | list) and item:
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _channels(headers: Sequence[Header], channels: int | None) -> tuple[int, str]:
    """Of the patches, and what is converted, in words."""
    found = sorted({header.channels for header in headers})
    wanted = channels or found[-1]
    if found == [wanted]:
        return wanted, ""
    if headers[0].kind == "input" or not {wanted, *found} <= {1, 3}:
        raise UsageError(
            f"channels: expected {wanted}, got pictures of {' and '.join(map(str, found))}; only grey (1) and RGB (3) "
            "pictures are converted into each other"
        )
    some = "" if len(found) == 1 else (" those of RGB" if wanted == 1 else " those in grey")
    return wanted, f",{some} converted to {'grey' if wanted == 1 else 'RGB'}"


def _reader(pile: Pile, sizes: dict[int, Sides], frame: Frame, channels: int) -> Callable[[int], np.ndarray]:
    """Place in the pile -> patch (C, h, w)."""
    lock, mode = Lock(), "L" if channels == 1 else "RGB"

    def read(place: int) -> np.ndarray:
        if pile.is_alone:
            with lock:
                image, _ = item_of(pile, place)
        else:
            image, _ = item_of(pile, place)
        if not (isinstance(image, Image.Image) or is_picture(image)):
            array = as_array(image)
            if array.shape[1:] != sizes[place]:
                raise BadImage("unreadable", f"expected {by(sizes[place])} pixels as before, got {array.shape}")
            if array.dtype != np.uint8:
                if not np.isfinite(array).all():
                    raise BadImage("not finite", "NaN or infinity")
                return array.astype(np.float32)
            if not frame.shorter and array.shape == (channels, *frame.size):
                return array
            image = picture_of(array)
        picture = decoded(image)
        if (picture.height, picture.width) != sizes[place]:
            found = (picture.height, picture.width)
            raise BadImage("unreadable", f"expected {by(sizes[place])} pixels as the header says, got {by(found)}")
        picture = frame.cut(picture if picture.mode == mode else picture.convert(mode))
        return np.asarray(picture).reshape(*frame.size, channels).transpose(2, 0, 1)

    return read


def picture_of(pixels: np.ndarray) -> Image.Image:
    """Of uint8 (C, H, W), one channel or three."""
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def decoded(image: Any) -> Image.Image:
    """Of a file or a picture: grey or RGB, 8 bits. Raises: BadImage."""
    if not isinstance(image, Image.Image):
        return decode(image)[0]
    check_header(image)
    try:
        image.load()
    except Exception as error:  # a file that was opened and not read yet
        raise BadImage("unreadable", str(error)) from None
    return to_eight_bits(image)[0]
