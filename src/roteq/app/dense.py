"""Maps as answers: the map of a turned picture, turned back, beside that of the upright one."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ..auditing.looks import turned_back
from ..auditing.turning import disc
from ..errors import UsageError
from .album import Album
from .networks import Network
from .recent import Recent
from .seeing import indexed, palette

KEPT, NUMBERS = 4, 1 << 24
CLASSES = ("#e3e6ea", "#0072b2", "#d55e00", "#009371", "#b868a0", "#a67c00", "#3f8fc4", "#c1443c", "#7a7f87")
NOTHING, SAME, OTHER = 2, 0, 1
DIFFERENCES = ("#e3e6ea", "#c1443c", "#000000")

_upright: "WeakKeyDictionary[Network, Recent[str, Tensor]]" = WeakKeyDictionary()


def turned_map(network: Network, album: Album, id: str, degrees: int, mirror: bool) -> dict[str, Any]:
    """The classes that a model sees at every pixel: of the picture mirrored, if at all, and then turned, as they are
    and turned back, and of the upright one.

    changed: share of the pixels whose class is another one, turned back. Exact turns permute pixels; other ones turn
    the scores by cubic splines and are compared on the inscribed disc, as is every turn of a picture of which only the
    disc is shown.

    Raises: UsageError if the answers of the model are no maps.
    """
    degrees, mirror = degrees % 360, bool(mirror)
    network.start(album, id)
    if network.kind != "map":
        raise UsageError(f"map: {network.name} answers with {network.kind}, not with a map")
    scores = network.output(album, id, degrees, mirror)
    kept = _upright.setdefault(network, Recent(KEPT, NUMBERS, lambda scores: scores.numel()))
    upright = kept.get(id, lambda: network.output(album, id, 0))
    exact = degrees % 90 == 0
    back, first = turned_back(scores[0], degrees, mirror).argmax(0), upright[0].argmax(0)
    shown = None if exact and not network.looker(album, id).masked else disc(len(first))
    differs = back != first
    return {
        "classes": list(network.classes),
        "colours": [CLASSES[k % len(CLASSES)] for k in range(len(network.classes))],
        "map": _drawn(scores[0].argmax(0)),
        "turned_back": _drawn(back),
        "upright": _drawn(first),
        "difference": _differences(differs, shown),
        "changed": float((differs if shown is None else differs[shown]).double().mean()),
        "exact": exact,
    }


def _drawn(classes: Tensor) -> str:
    return indexed((classes % len(CLASSES)).numpy(), palette(CLASSES))


def _differences(differs: Tensor, shown: Tensor | None) -> str:
    """Grey where the class is the same, red where it is not; nothing where it is not compared."""
    found = torch.where(differs, OTHER, SAME)
    if shown is not None:
        found = torch.where(shown, found, NOTHING)
    return indexed(found.numpy().astype(np.uint8), palette(DIFFERENCES), NOTHING)
