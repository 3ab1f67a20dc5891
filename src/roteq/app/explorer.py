"""Up to four models and an album of images: every number and picture that the page shows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from PIL import Image

from .._version import __version__
from ..auditing.subject import Subject
from ..data.images import MAX_PIXELS
from ..errors import RoteqError, UsageError
from ..groups import Group
from .album import MAX_BYTES, UPLOADS, Album
from .layers import LayerInfo, layers
from .networks import Answer, Network
from .recent import Recent

STEP, COARSE = 5, 15  # degrees: of the circle of one image, of every image of the gallery
MODELS = 4
STAGE, LEAST, AROUND = 720, 240, 1.6  # pixels of the stage; it shows so many times what the largest outline holds
THUMB, THUMBS = 96, 600


class Explorer:
    """Called from one thread at a time, except for the pictures.

    Raises: UsageError for no model, more than four, or two of one name.
    """

    def __init__(self, subjects: Sequence[Subject], album: Album, *, corners: str = "disc") -> None:
        names = [subject.name for subject in subjects]
        if not 1 <= len(names) <= MODELS:
            raise UsageError(f"models: expected 1 to {MODELS}, got {len(names)}")
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise UsageError(f"models: expected different names, got {twice[0]!r} twice")
        self.networks = tuple(Network(subject, corners=corners) for subject in subjects)
        self.album = album
        self._thumbs: Recent[str, Image.Image] = Recent(THUMBS)
        self._about: list[dict[str, Any] | None] = [None] * len(names)

    def about(self) -> dict[str, Any]:
        """Models, images and limits; each model is asked here for the first time."""
        album = self.album
        about = {"source": album.source, "images": len(album.entries), "split": album.split}
        return {
            "version": __version__,
            "models": [self._model(i) for i in range(len(self.networks))],
            "set": about | {"labelled": any(entry.truth is not None for entry in album.entries)},
            "step": STEP,
            "coarse": COARSE,
            "limits": {"bytes": MAX_BYTES, "pixels": MAX_PIXELS, "uploads": UPLOADS},
        }

    def _model(self, i: int) -> dict[str, Any]:
        found = self._about[i]
        if found is None:
            like = next((one for one in self.networks if group_of(one) is not None), None)
            found = _facts(self.networks[i], like, self.album)
            self._about[i] = found if found["error"] is None else None
        return found

    def image(self, id: str) -> dict[str, Any]:
        """What is known of one image, and which part of it each model sees. Raises: RoteqError if it cannot be read."""
        entry, picture = self.album.entry(id), self.album.picture(id)
        side = self._side(id, picture)
        return {
            "id": entry.id,
            "name": entry.name,
            "truth": entry.truth,
            "width": picture.width,
            "height": picture.height,
            "note": entry.note,
            "stage": {"side": side, "pixels": _shown(side)},
            "seen": [self._seen(network, id, picture, side) for network in self.networks],
        }

    def _seen(self, network: Network, id: str, picture: Image.Image, side: int) -> dict[str, Any]:
        try:
            outline, shape = network.outline(self.album, id)
            _, crop, method = network.frame(picture.height, picture.width, self.album.entry(id).name)
        except RoteqError as error:
            return {"share": None, "shape": None, "method": None, "size": None, "error": str(error)}
        return {"share": outline / side, "shape": shape, "method": method, "size": list(crop), "error": None}

    def _side(self, id: str, picture: Image.Image) -> int:
        """Of the stage, in pixels of the stored picture."""
        outlines = []
        for network in self.networks:
            try:
                outlines.append(network.outline(self.album, id)[0])
            except RoteqError:  # said where that model is shown
                continue
        shorter = min(picture.size)
        return max(1, min(shorter, round(AROUND * max(outlines)))) if outlines else shorter

    def stage(self, id: str) -> Image.Image:
        """The centre of the stored picture with some surroundings of what the models see: a square of at most 720
        pixels, smaller ones enlarged by a whole factor."""
        picture = self.album.picture(id)
        side = self._side(id, picture)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        pixels = _shown(side)
        method = Image.Resampling.NEAREST if pixels > side else Image.Resampling.LANCZOS
        box = (left, top, left + side, top + side)
        return picture.crop(box) if pixels == side else picture.resize((pixels, pixels), method, box=box)

    def thumb(self, id: str) -> Image.Image:
        """The stage in at most 96 pixels."""
        return self._thumbs.get(self.album.entry(id).id, lambda: self._thumb(id))

    def _thumb(self, id: str) -> Image.Image:
        stage = self.stage(id)
        return stage.resize((THUMB, THUMB), Image.Resampling.BOX) if stage.width > THUMB else stage

    def answer(self, model: int, id: str, degrees: int, mirror: bool = False) -> Answer:
        return self.networks[model].answer(self.album, id, degrees, mirror)

    def circle(self, model: int, id: str, mirror: bool = False, step: int = STEP) -> Iterator[Answer]:
        """The answers at all angles that exist, in an order that fills the circle evenly: exact ones first."""
        for degrees in self.networks[model].angles(step):
            yield self.answer(model, id, degrees, mirror)

    def summary(self, model: int, answers: Sequence[Answer]) -> dict[str, Any]:
        """Decisions that are not that at 0 degrees, as [how many, of how many turns], for exact and interpolated turns;
        of maps the mean share of the pixels that changed; of embeddings the mean similarity."""
        kind = self.networks[model].kind
        turns = [answer for answer in answers if answer.degrees or answer.mirror]
        parts = {"exact": [a for a in turns if a.exact], "interpolated": [a for a in turns if not a.exact]}
        if kind == "map":
            return {f"{name}_changed": _mean(part, lambda a: a.changed or 0.0) for name, part in parts.items()}
        if kind == "embedding":
            return {f"{name}_similarity": _mean(part, lambda a: a.values[0]) for name, part in parts.items()}
        return {f"{name}_flips": [sum(a.changed == 1 for a in part), len(part)] for name, part in parts.items()}


def _mean(answers: Sequence[Answer], value: Callable[[Answer], float]) -> float | None:
    return sum(map(value, answers)) / len(answers) if answers else None


def _shown(side: int) -> int:
    """Pixels of the stage."""
    return side * -(-LEAST // side) if side < LEAST else min(side, STAGE)


def _facts(network: Network, like: Network | None, album: Album) -> dict[str, Any]:
    error, found = None, list[LayerInfo]()
    try:
        network.start(album)
        found = layers(network, like)
    except RoteqError as failed:
        error = str(failed)
    group = group_of(network)
    return {
        "name": network.name,
        "kind": network.kind,
        "classes": list(network.classes),
        "group": None if group is None else group.name,
        "order": 1 if group is None else group.order,
        "size": None if network.subject.size is None else list(network.subject.size),
        "notes": list(network.notes),
        "error": error,
        "layers": [asdict(layer) for layer in found],
    }


def group_of(network: Network) -> Group | None:
    """The largest group of its layers; None where nothing is tied by one."""
    module = network.subject.module
    found = None
    for part in module.modules() if module is not None else ():
        group = getattr(part, "group", None)
        if isinstance(group, Group) and group.order > (found.order if found else 1):
            found = group
    return found
