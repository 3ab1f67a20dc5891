"""Which layers of a network can be looked into, and their maps of one look at one picture."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..auditing.answers import checked_ask
from ..auditing.asking import evaluating
from ..auditing.framing import Sides
from ..auditing.layers import Call, Promise, evenly, maps_of, open_layers, promise_of, survey, watch
from ..auditing.looks import Looker
from ..auditing.measuring import normalization_of
from ..errors import RoteqError, UsageError, nearest
from ..groups import Group
from ..nn.conv import TiedConv2d
from .album import Album
from .networks import UNSIZED, Network
from .recent import Recent

MOST = 40  # layers of a network
LARGER = (224, 224)  # of noise for a network of any size that takes none of UNSIZED
KEPT, NUMBERS = 8, 1 << 24  # maps, and their numbers together
BLOCKS = Group(8)  # a plain network's channels are read as blocks of it, where nothing else is on the page
FILTERS = TiedConv2d, nn.Conv2d


@dataclass(frozen=True)
class LayerInfo:
    """A layer whose output is a map. features: blocks of `order` channels, where it is "trivial" channels."""

    path: str
    kind: str
    group: str | None
    order: int
    representation: Literal["regular", "trivial", "plain"]
    features: int
    has_filters: bool


@dataclass(frozen=True)
class Place:
    """One call of a layer."""

    info: LayerInfo
    call: Call
    promise: Promise  # of a plain network one that is made for it

    @property
    def group(self) -> Group:
        return self.promise.group

    @property
    def tiles(self) -> int:
        """Maps of one feature."""
        return self.promise.block


class _Seen(BaseException):
    """What is asked for is known; the rest of the network need not run. No Exception, so that no model catches it."""


class Insight:
    """What is known of the layers of one network, and a few of their maps."""

    def __init__(self, places: list[Place], group: Group | None) -> None:
        self.places = {place.info.path: place for place in places}
        self.group = group  # as which a plain network is read
        self.maps: Recent[tuple[Any, ...], Tensor] = Recent(KEPT, NUMBERS, lambda maps: maps.numel())
        self.splines: Recent[tuple[str, str], Tensor] = Recent(2, NUMBERS, lambda maps: maps.numel())
        self.spreads: Recent[tuple[Any, ...], Any] = Recent(64)


_known: "WeakKeyDictionary[Network, Insight]" = WeakKeyDictionary()


def layers(network: Network, like: Network | None = None) -> list[LayerInfo]:
    """The layers that give square maps, in the order in which they run; at most 40, convolutions and the last ones of
    every resolution first. A layer that is called again is "path (call 2)".

    Of a network that is tied by a group: what promises a representation. Of any other everything that gives maps, its
    channels read as blocks of the group of `like`, else as those that were read last, else as C8. None without a torch
    module, and none inside of group averages, which run on turned copies.

    Raises: RoteqError if the network fails.
    """
    return [place.info for place in insight_of(network, like).places.values()]


def place_of(network: Network, layer: str, feature: int = 0) -> Place:
    """Raises: UsageError for layers and features that are not there."""
    places = insight_of(network).places
    if layer not in places:
        hint = nearest(layer, places) if places else "it shows none"
        raise UsageError(f"layer: {network.name} shows no layer {layer!r}; {hint}")
    most = places[layer].info.features
    if not 0 <= feature < most:
        raise UsageError(f"feature: expected 0 to {most - 1} for {layer or network.name}, got {feature}")
    return places[layer]


def insight_of(network: Network, like: Network | None = None) -> Insight:
    known = _known.get(network)
    group = None if like is None else _group(module_of(like))
    if known is None or (known.group is not None and group not in (None, known.group)):
        known = _known[network] = _found(network, group or BLOCKS)
    return known


def maps(network: Network, album: Album, id: str, degrees: int, mirror: bool, place: Place) -> Tensor:
    """(1, C, S, S) float32 on the processor, whole features only."""
    kept, key = insight_of(network).maps, (id, degrees, mirror, place.info.path)
    return kept.get(key, lambda: maps_at(network, network.input(album, id, degrees, mirror), place))


def elements(place: Place) -> list[dict[str, Any]]:
    """What the maps of one feature belong to, in their order: the elements of the group, or all of them together."""
    group = place.group
    if place.tiles < group.order:
        return [{"index": 0, "angle": 0.0, "mirror": False, "label": "all"}]
    return [
        {"index": g, "angle": group.angle(g), "mirror": group.is_mirror(g), "label": group.describe(g)}
        for g in range(place.tiles)
    ]


def module_of(network: Network) -> nn.Module | None:
    """Not the compiled one: hooks would be compiled; none whose layers cannot be reached."""
    module = getattr(network.subject.module, "_orig_mod", network.subject.module)
    return None if isinstance(module, torch.jit.ScriptModule) else module


def _promises(module: nn.Module) -> dict[str, Promise]:
    found = {name: promise_of(layer) for name, layer in open_layers(module)}
    return {name: one for name, one in found.items() if one is not None and one.group.order > 1}


def _group(module: nn.Module | None) -> Group | None:
    """The largest one that layers are tied by."""
    groups = [one.group for one in _promises(module).values()] if module is not None else []
    return max(groups, key=lambda group: group.order, default=None)


def _found(network: Network, group: Group) -> Insight:
    module = module_of(network)
    if module is None:
        return Insight([], None)
    promises = _promises(module)
    sizes = [network.subject.size] if network.subject.size else [UNSIZED, LARGER]
    for i, size in enumerate(sizes):
        try:
            x = _probe(network, size)
            found = _promised(network, module, promises, x) if promises else _plain(network, module, group, x)
            break
        except UsageError:
            if i == len(sizes) - 1:
                raise
    return Insight(_thinned(found), None if promises else group)


def _probe(network: Network, size: Sides) -> Tensor:
    """Noise, as the network takes it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    patch, crop, _ = network.patch(noise)
    pixels = Looker(patch, crop, corners=network.corners)(0)
    normalize = normalization_of(network.subject, pixels.shape[1])
    return pixels if normalize is None else normalize(pixels)


def _ask(network: Network, x: Tensor, run: Callable[[nn.Module, Tensor], Any]) -> None:
    """Run the module on what it takes, in evaluation mode. Raises: UsageError where it fails."""
    module, subject = module_of(network), network.subject
    assert module is not None
    weight = next((p for p in module.parameters() if p.is_floating_point()), x)
    x = x.expand(subject.batch or len(x), *x.shape[1:]).to(subject.device, weight.dtype)
    with torch.no_grad(), evaluating(module):
        checked_ask(replace(subject, ask=lambda images: run(module, images)), x)


def _promised(network: Network, module: nn.Module, promises: dict[str, Promise], x: Tensor) -> list[tuple[Place, int]]:
    found: list[tuple[Place, int]] = []

    def see(call: Call, layer: nn.Module, output: Any) -> None:
        promise = promises[call[0]]
        seen = maps_of(output, len(output), promise) if isinstance(output, Tensor) else None
        if seen is not None:
            found.append((_place(call, layer, promise, promise.representation, seen.shape[1]), seen.shape[2]))

    _ask(network, x, lambda module, images: watch(module, images, promises, see))
    return found


def _plain(network: Network, module: nn.Module, group: Group, x: Tensor) -> list[tuple[Place, int]]:
    calls: list[tuple[Call, tuple[int, ...]]] = []
    _ask(network, x, lambda module, images: calls.extend(survey(module, images)))
    promise = Promise(group, "regular")
    found = [
        (_place(call, module.get_submodule(call[0]), promise, "plain", shape[1]), shape[2]) for call, shape in calls
    ]
    return [(place, side) for place, side in found if place.info.features]


def _place(call: Call, layer: nn.Module, promise: Promise, representation: Any, channels: int) -> Place:
    path = call[0] if call[1] == 1 else f"{call[0]} (call {call[1]})"
    has_filters = isinstance(layer, FILTERS) and representation != "trivial"
    kind, group = type(layer).__name__, promise.group
    info = LayerInfo(path, kind, group.name, group.order, representation, channels // promise.block, has_filters)
    return Place(info, call, promise)


def _thinned(found: list[tuple[Place, int]]) -> list[Place]:
    """At most MOST, of (place, side of its map)."""
    if len(found) > MOST:
        ends = {side: place.info.path for place, side in found}.values()
        found = [(place, side) for place, side in found if place.info.has_filters or place.info.path in ends]
    return [found[i][0] for i in evenly(len(found), MOST)]


def maps_at(network: Network, x: Tensor, place: Place) -> Tensor:
    """(1, C, S, S) of what the network takes; nothing is kept."""
    seen: list[Tensor] = []
    whole = place.info.features * place.promise.block  # channels; others fill no block

    def see(call: Call, layer: nn.Module, output: Any) -> None:
        if call == place.call and isinstance(output, Tensor):
            found = maps_of(output if place.promise.last else output[:, :whole], len(output), place.promise)
            if found is not None:
                seen.append(found[:1].detach().float().cpu())
                raise _Seen

    with suppress(_Seen):
        _ask(network, x, lambda module, images: watch(module, images, [place.call[0]], see))
    if not seen:
        raise RoteqError(f"layer: {place.info.path or network.name} gave no square map of this picture")
    return seen[0]


def inputs(network: Network, album: Album, ids: Iterable[str]) -> Iterator[Tensor]:
    """What the network gets of these images upright; those that cannot be read are left out."""
    for id in ids:
        try:
            x = network.input(album, id, 0)
        except RoteqError:
            continue
        yield x
