"""The law of equivariance, seen: a picture turns, and the maps of a layer turn and shift with it, or they do not."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..auditing.layers import DEGENERATE
from ..auditing.turning import disc, prefilter, sampling_matrix
from ..groups import Group, left_translation
from .album import Album
from .banks import filters
from .dense import turned_map
from .layers import NUMBERS, LayerInfo, Place, elements, inputs, insight_of, layers, maps, maps_at, place_of
from .networks import Network
from .recent import Recent
from .seeing import number, picture, shrunk, sprite

__all__ = ["LayerInfo", "comparing", "filters", "inside", "layers", "turned_map"]

IMAGES, FEWEST, PIXELS = 16, 4, 1 << 20  # that are compared, at most and at least; pixels of all of them
WIDER = 0.05  # of the range upright: the colours reach so much further on both sides
ROUNDING = 1e-4  # of the range: differences below are not stretched over all colours
INTERPOLATED = (
    "interpolated: the picture was turned before the network saw it, the expected maps after; so the error is that of "
    "the network and of turning maps of few pixels, on the inscribed disc"
)

_turns: "Recent[tuple[int, int], Tensor]" = Recent(16, NUMBERS, lambda matrix: matrix.values().numel())


@dataclass(frozen=True)
class Look:
    """Where a picture was moved to, and which element of a group that is; None: none, and why."""

    group: Group
    degrees: int
    mirror: bool

    @property
    def exact(self) -> bool:
        """Pixels are permuted."""
        return self.degrees % 90 == 0

    @property
    def element(self) -> int | None:
        turns, rest = divmod(self.degrees * self.group.rotations, 360)
        return None if rest or (self.mirror and not self.group.mirrors) else self.group.index(self.mirror, turns)

    @property
    def why(self) -> str | None:
        """Why nothing is expected here."""
        if self.element is not None:
            return None
        if self.mirror and not self.group.mirrors:
            return f"{self.group.name} has no mirrors"
        n = self.group.rotations
        if n == 1:
            return f"{self.group.name} has no turns"
        below = self.degrees * n // 360
        near = " and ".join(f"{k % n * 360 / n:g}" for k in (below, below + 1))
        return f"{self.degrees} degrees lies between two elements of {self.group.name}; the next are {near}"


def inside(
    network: Network,
    album: Album,
    id: str,
    degrees: int,
    mirror: bool,
    layer: str,
    feature: int,
    references: Sequence[str] = (),
) -> dict[str, Any]:
    """The maps of one feature at all elements of the group, of the picture mirrored, if at all, and then turned.

    Law, for g the element that the picture was moved by: f(g x)[c, h] = (f(x)[c, g^-1 h], moved by g). Exact elements
    permute pixels; others turn by cubic splines and are compared on the inscribed disc. Of channels without a group
    axis there is one map a feature, and g moves it. Where g is no element nothing is expected.

    error: of all features of the layer; "between" against the variation between the upright `references`, of which 2
    are needed. Colours run from the lowest to the highest value of the feature upright, so that they stay.

    Raises: UsageError for layers and features that are not there; RoteqError where the model or the picture fails.
    """
    for _ in comparing(network, album, id, layer, references):
        pass
    look_at = degrees % 360, bool(mirror)
    place = place_of(network, layer, feature)
    look = Look(place.group, *look_at)
    now, upright = maps(network, album, id, *look_at, place), maps(network, album, id, 0, False, place)
    expected = _expected(network, id, place, look, upright)
    spread = insight_of(network).spreads.get(_key(network, album, id, layer, references), lambda: None)
    low, high = _limits(_block(upright, place, feature))
    found = {
        "layer": layer,
        "feature": feature,
        "group": place.group.name,
        "order": place.tiles,
        "representation": place.info.representation,
        "elements": elements(place),
        "low": low,
        "high": high,
        "input": picture(network.looker(album, id)(*look_at)[0]),
        "error": _error(look, now, upright, expected, spread),
    }
    return found | _pictures(place, look, feature, now, expected, low, high)


def _block(found: Tensor, place: Place, feature: int) -> Tensor:
    """(tiles, S, S) of one feature."""
    return found[0, feature * place.tiles : (feature + 1) * place.tiles]


def _limits(block: Tensor) -> tuple[float, float]:
    values = block[block.isfinite()]
    if not values.numel():
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low - 0.5, low + 0.5
    wider = WIDER * (high - low)
    return low - wider, high + wider


def _pictures(
    place: Place, look: Look, feature: int, now: Tensor, expected: Tensor | None, low: float, high: float
) -> dict[str, Any]:
    block = _block(now, place, feature)
    tiles = shrunk(block)
    labels = [one["label"] for one in elements(place)]
    rows = zip(labels, block.mean((1, 2)).tolist(), block.amax((1, 2)).tolist(), strict=True)
    found: dict[str, Any] = {
        "tile": list(tiles.shape[1:]),
        "maps": sprite(tiles, low, high, "viridis"),
        "table": [[label, number(mean), number(largest)] for label, mean, largest in rows],
        "expected": None,
        "difference": None,
        "largest_difference": None,
    }
    if expected is not None:
        wanted = _block(expected, place, feature)
        difference = (block - wanted).abs()
        if not look.exact:
            difference = difference * disc(difference.shape[-1])
        largest = float(difference.max())
        found["expected"] = sprite(shrunk(wanted), low, high, "viridis")
        found["difference"] = sprite(shrunk(difference), 0, max(largest, ROUNDING * (high - low)), "magma")
        found["largest_difference"] = number(largest)
    return found


# The law.


def _expected(network: Network, id: str, place: Place, look: Look, upright: Tensor) -> Tensor | None:
    """rho(g) f(x), (1, C, S, S); None where no element g moves the picture so."""
    g, group = look.element, place.group
    if g is None:
        return None
    is_regular = place.promise.representation == "regular"
    if look.exact:
        return group.act_on_features(upright, g) if is_regular else group.act_on_image(upright, g)
    splines = insight_of(network).splines.get((id, place.info.path), lambda: _splines(upright))
    found = _turned(splines, look.degrees, look.mirror)
    if is_regular:
        found = found.unflatten(1, (-1, group.order))[:, :, left_translation(group)[g]].flatten(1, 2)
    return found


def _splines(upright: Tensor) -> Tensor:
    """(S, S, C): the coefficients of the cubic splines through the maps (1, C, S, S)."""
    return prefilter(upright[0].movedim(0, -1).contiguous())


def _turned(splines: Tensor, degrees: int, mirror: bool) -> Tensor:
    """(1, C, S, S): mirrored left-right, if at all, then turned. Quarter turns permute pixels."""
    side, (quarters, base) = len(splines), divmod(degrees, 90)
    matrix = _turns.get((base, side), lambda: sampling_matrix(base, side, side))
    pixels = (splines.flip(1) if mirror else splines).reshape(side * side, -1)
    found = (matrix @ pixels).reshape(side, side, -1).movedim(-1, 0)
    return torch.rot90(found, quarters, (-2, -1))[None].contiguous()


# The error, against how much images differ.


@dataclass
class Spread:
    """How much maps differ between images: the mean and the summed squares of what differs from it, pixel by pixel."""

    count: int = 0
    mean: Tensor | None = None
    squares: Tensor | None = None
    size: Tensor | None = None

    def add(self, found: Tensor) -> None:
        """(1, C, S, S)"""
        values = found[0].double()
        if self.mean is None or self.squares is None or self.size is None:
            self.mean, self.squares, self.size = (torch.zeros_like(values) for _ in range(3))
        self.count += 1
        away = values - self.mean
        self.mean += away / self.count
        self.squares += away * (values - self.mean)
        self.size += values.square()

    def closed(self) -> "Variation | None":
        """None of fewer than 2 images."""
        if self.count < 2 or self.squares is None or self.size is None:
            return None
        n, inner = self.count, disc(self.squares.shape[-1])
        whole, middle = (math.sqrt(2 * float(x.sum()) / (n - 1)) for x in (self.squares, self.squares * inner))
        of_whole, of_middle = (math.sqrt(float(x.sum()) / n) for x in (self.size, self.size * inner))
        return Variation((whole, of_whole), (middle, of_middle))


@dataclass(frozen=True)
class Variation:
    """(root mean square distance of two images, root mean square size), on whole maps and on their inscribed discs."""

    whole: tuple[float, float]
    middle: tuple[float, float]


def comparing(network: Network, album: Album, id: str, layer: str, references: Sequence[str]) -> Iterator[None]:
    """What `inside` does first, a look at a time: how much the maps of a layer differ between the references, of those
    that the network sees at the size of image `id`: 16, fewer of large ones (4 of 512 x 512 pixels). Once for a layer;
    then there is nothing left to do."""
    place, key = place_of(network, layer), _key(network, album, id, layer, references)
    kept = insight_of(network).spreads
    if key in kept:
        return
    spread, wanted = Spread(), key[-1]
    most = max(FEWEST, min(IMAGES, PIXELS // math.prod(wanted[-2:])))
    for x in inputs(network, album, references):
        if spread.count < most and tuple(x.shape) == wanted:
            spread.add(maps_at(network, x, place))
            yield
    kept.put(key, spread.closed())


def _key(network: Network, album: Album, id: str, layer: str, references: Sequence[str]) -> tuple[Any, ...]:
    return layer, tuple(references), tuple(network.looker(album, id)(0).shape)


def _error(
    look: Look, now: Tensor, upright: Tensor, expected: Tensor | None, spread: Variation | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"between": None, "relative": None, "exact": look.exact, "element": look.element}
    found |= {"why": look.why, "note": None}
    if expected is None:
        return found
    differences, values = now - expected, upright
    if not look.exact:
        mask = disc(now.shape[-1])
        differences, values = differences[..., mask], values[..., mask]
        found["note"] = INTERPOLATED
    distance, size = (float(torch.linalg.vector_norm(x, dtype=torch.float64)) for x in (differences, values))
    if not math.isfinite(distance + size):
        return found | {"why": "the maps hold NaN or infinity"}
    if spread is None:
        why = "fewer than 2 images of this size to compare with: only the relative error is known"
        return found | {"why": why, "relative": distance / size if size > 0 else None}
    variation, usual = spread.whole if look.exact else spread.middle
    if not variation > DEGENERATE * usual:
        return found | {"why": "the maps of this layer do not differ between images, so that there is no error"}
    return found | {"between": distance / variation, "relative": distance / size if size > 0 else None}
