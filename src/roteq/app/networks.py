"""One model that is asked about one look at one picture, and what it says."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..auditing.framing import Frame, Header, Sides, by, frame_for
from ..auditing.looking import Asker
from ..auditing.looks import Looker, turned_back
from ..auditing.measuring import crop_of, normalization_of
from ..auditing.rows import spread_out
from ..auditing.subject import Subject
from ..auditing.turning import disc, needs_corners
from ..data.images import MAX_PIXELS
from ..errors import RoteqError, UsageError
from ..results.audit import Kind
from .album import Album, Entry
from .recent import Recent
from .starting import first_looks, first_question

LARGEST = 512  # pixels a side for models that take any size: an answer while the picture is turned
ANSWERS = 20_000  # of a model; about 2 kB each
LOOKERS, NUMBERS = 8, 1 << 25  # patches that are ready to be turned, and their numbers together
NAMED = 32  # classes whose probabilities are kept
UNSIZED = (64, 64)  # a picture for a model of any size where there is none


@dataclass(frozen=True)
class Answer:
    """What one model says of one look.

    values: class -> probability, all of them, or the 32 largest; of a map the share of the inscribed disc that is of
    each class; of an embedding {0: cosine similarity to that at 0 degrees}. decision: of "classes" only. changed: 1.0
    if the decision, or one of the labels, is not that at 0 degrees, not mirrored, else 0.0; of a map the share of the
    pixels, turned back, whose class changed (of the inscribed disc, unless exact and whole).
    """

    degrees: int
    mirror: bool
    exact: bool
    values: dict[int, float]
    decision: int | None
    changed: float | None


class Network:
    """One model, ready to be asked, with the answers that it gave.

    The picture is brought to size and its centre cut, as an audit does; a model that takes any size sees at most 512
    pixels a side. kind, classes and whether it gives probabilities are known after `start`, which `answer` calls.
    Not for several threads at once.
    """

    def __init__(self, subject: Subject, *, corners: str = "disc") -> None:
        self.subject, self.corners, self.name = subject, corners, subject.name
        self.kind: Kind | None = None
        self.classes: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = subject.notes
        self.seconds = 0.0  # that the last answer took
        self._asker: Asker | None = None
        self._answers: Recent[tuple[str, int, bool], Answer] = Recent(ANSWERS)
        self._lookers: Recent[str, Looker] = Recent(LOOKERS, NUMBERS, lambda looker: looker.weight)
        self._upright: Recent[str, Tensor] = Recent(LOOKERS, NUMBERS, lambda scores: scores.numel())

    @property
    def is_oblong(self) -> bool:
        """Of such an input only half turns and mirrors exist."""
        return self.subject.size is not None and self.subject.size[0] != self.subject.size[1]

    def angles(self, step: int) -> list[int]:
        """Whole degrees that exist, in an order that fills the circle evenly: exact ones, then every 45, every 15."""
        found = [angle for angle in range(0, 360, step) if not self.is_oblong or angle % 180 == 0]
        return sorted(found, key=lambda a: (a % 90 != 0, a % 45 != 0, a % 15 != 0, a % 90, a))

    def frame(self, height: int, width: int, name: str = "the picture") -> tuple[Frame, Sides, str]:
        """How a stored picture becomes a patch, what the model sees of it, and that in words."""
        size, resize = self.subject.size, self.subject.resize
        limited = size is None and not resize and min(height, width) > LARGEST
        header = Header((height, width), 3, "picture")
        frame, method = frame_for([header], [name], size, LARGEST if limited else resize, self.subject.interpolation)
        if frame.size[0] * frame.size[1] > MAX_PIXELS:
            raise UsageError(f"resize: patches of {by(frame.size)} pixels are more than the limit of {MAX_PIXELS:,}")
        method = method.partition("; --resize")[0].replace(", 1 of them enlarged", ", enlarged")
        return frame, crop_of(self.subject, frame.size), method + (", the most that is shown here" if limited else "")

    def patch(self, picture: Image.Image) -> tuple[Tensor, Sides, str]:
        """(C, H, W) uint8, the crop that the model sees, and how it was made. Raises: UsageError if it cannot be."""
        frame, crop, method = self.frame(picture.height, picture.width)
        channels = self._channels(picture)
        mode = "L" if channels == 1 else "RGB"
        cut = frame.cut(picture if picture.mode == mode else picture.convert(mode))
        pixels = torch.from_numpy(np.array(cut).reshape(*frame.size, channels))
        return pixels.permute(2, 0, 1).contiguous(), crop, method

    def _channels(self, picture: Image.Image) -> int:
        """What the model takes: said, or told by its first convolution or its normalisation; else as the picture is."""
        subject = self.subject
        if subject.channels not in (None, 1, 3):
            raise UsageError(f"{self.name}: takes {subject.channels} channels; pictures here are grey (1) or RGB (3)")
        parts = () if subject.module is None else subject.module.modules()
        found = (getattr(part, "in_channels", None) for part in parts)
        first = next((channels for channels in found if isinstance(channels, int)), None)
        means = None if subject.normalize is None else len(subject.normalize.mean)
        known = (subject.channels, first, 3 if means == 3 else None)
        return next((n for n in known if n in (1, 3)), 1 if picture.mode == "L" else 3)

    def looker(self, album: Album, id: str) -> Looker:
        return self._lookers.get(id, lambda: self._looker(album.picture(id)))

    def _looker(self, picture: Image.Image) -> Looker:
        patch, crop, _ = self.patch(picture)
        return Looker(patch, crop, corners=self.corners)

    def outline(self, album: Album, id: str) -> tuple[float, str]:
        """What the model sees: the height in pixels of the stored picture, and "square" or "disc"."""
        picture = album.picture(id)
        frame, crop, _ = self.frame(picture.height, picture.width, album.entry(id).name)
        masked = not self.is_oblong and self.corners == "disc" and needs_corners(min(frame.size), crop[0])
        return crop[0] * frame.scale(picture.height, picture.width), "disc" if masked else "square"

    def start(self, album: Album, id: str | None = None) -> None:
        """Ask about several looks at once, so that kind and classes are known, and whether these are probabilities.

        The looks are of up to 8 images from all over the set, of which one is enough; without any, of image `id`;
        without that, of noise.
        """
        if self._asker is not None:
            return
        found = first_question(self.subject, first_looks(self._first_lookers(album, id)))
        self.kind, self._asker = found.asker.kind, found.asker
        self.notes += found.notes
        self.classes = self._names(album, found.outputs)

    def _names(self, album: Album, outputs: int) -> tuple[str, ...]:
        if self.kind == "embedding":
            return ()
        known = self.subject.classes or ()
        if not known and len(album.classes) <= outputs and self.kind != "map":
            known = album.classes
        return known[:outputs] + tuple(f"class {k}" for k in range(len(known[:outputs]), outputs))

    def _first_lookers(self, album: Album, id: str | None) -> list[Looker]:
        """Of up to 8 given images, of image `id`, or of noise."""
        found: list[Looker] = []
        failure: RoteqError | None = None
        for k in spread_out(len(album.entries), LOOKERS) if album.entries else ():
            try:
                found.append(self.looker(album, str(k)))
            except RoteqError as error:
                failure = error
        if not found and id is not None:
            found.append(self.looker(album, id))
        if not found and failure is not None:
            raise failure
        return found or [self._looker(_noise(self.subject.size or UNSIZED))]

    def input(self, album: Album, id: str, degrees: int, mirror: bool = False) -> Tensor:
        """(1, C, h, w), normalised, on the device: what the model gets."""
        pixels = self.looker(album, id)(degrees % 360, mirror).to(self.subject.device)
        normalize = normalization_of(self.subject, pixels.shape[1])
        return pixels if normalize is None else normalize(pixels)

    def output(self, album: Album, id: str, degrees: int, mirror: bool = False) -> Tensor:
        """(1, K), or a map (1, K, H, W): checked float32 scores on the processor. Softmax gives the probabilities; of
        independent labels sigmoid does."""
        self.start(album, id)
        assert self._asker is not None
        return self._asker(self.looker(album, id)(degrees % 360, mirror)).cpu()

    def answer(self, album: Album, id: str, degrees: int, mirror: bool = False) -> Answer:
        """Raises: UsageError or RoteqError, one sentence, where the model or the picture fails."""
        degrees, mirror = degrees % 360, bool(mirror)
        return self._answers.get((id, degrees, mirror), lambda: self._timed(album, id, degrees, mirror))

    def _timed(self, album: Album, id: str, degrees: int, mirror: bool) -> Answer:
        begin = time.perf_counter()
        found = self._answer(album, id, degrees, mirror)
        self.seconds = time.perf_counter() - begin
        return found

    def _answer(self, album: Album, id: str, degrees: int, mirror: bool) -> Answer:
        upright = self._upright.get(id, lambda: self.output(album, id, 0))
        scores = upright if not degrees and not mirror else self.output(album, id, degrees, mirror)
        exact = degrees % 90 == 0
        values: dict[int, float]
        decision, changed = None, None
        if self.kind == "embedding":
            values = {0: float(torch.cosine_similarity(scores.double(), upright.double(), dim=1))}
        elif self.kind == "map":
            values = _largest(_shares(scores))
            changed = self._changed(scores, upright, degrees, mirror, whole=exact and not self._is_masked(album, id))
        elif self.kind == "labels":
            values = _largest(scores[0].sigmoid())
            changed = float(((scores > 0) != (upright > 0)).any())
        else:
            values = _largest(scores[0].softmax(0))
            decision = int(scores.argmax())
            changed = float(decision != int(upright.argmax()))
        return Answer(degrees, mirror, exact, values, decision, changed)

    def _is_masked(self, album: Album, id: str) -> bool:
        return self.looker(album, id).masked

    def _changed(self, scores: Tensor, upright: Tensor, degrees: int, mirror: bool, whole: bool) -> float:
        back = turned_back(scores[0], degrees, mirror).argmax(0)
        different = back != upright[0].argmax(0)
        return float((different if whole else different[disc(len(different))]).double().mean())

    def truth_of(self, entry: Entry) -> int | None:
        """The output that the label of an image names; None without one, for a name of none, and for several labels."""
        if entry.truth is None or self.kind not in (None, "classes"):
            return None
        if entry.truth in self.classes:
            return self.classes.index(entry.truth)
        return int(entry.truth) if entry.truth.isdecimal() and int(entry.truth) < len(self.classes) else None


def _largest(values: Tensor) -> dict[int, float]:
    found = values.topk(min(NAMED, len(values)))
    kept: Iterable[int] = sorted(found.indices.tolist()) if len(values) > NAMED else range(len(values))
    return {k: float(values[k]) for k in kept}


def _shares(scores: Tensor) -> Tensor:
    """(1, K, H, W) -> (K,): of the inscribed disc, which shows the same at every angle; of all where there is none."""
    classes = scores[0].argmax(0)
    seen = classes[disc(len(classes))] if classes.shape[0] == classes.shape[1] else classes.flatten()
    return torch.bincount(seen, minlength=scores.shape[1]).double() / seen.numel()


def _noise(size: Sides) -> Image.Image:
    """For want of a picture."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
