"""Where a network stops to be equivariant: the error of every layer, measured on its feature maps.

Layers of roteq promise a representation, and are held to it. A plain network promises nothing; there the question is
whether the features of a turned picture are a linear function of those of the upright one.

Source: Lenc & Vedaldi 2015 (arXiv 1411.5908), section 3: their transformation layer is linear over the channels, with a
bias, and a permutation of the pixels.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..conversion import Symmetrized
from ..conversion.layers import MeanOverGroup
from ..errors import UsageError
from ..groups import Group
from ..nn import (
    GroupBatchNorm2d,
    GroupLayerNorm,
    GroupLayerNorm2d,
    GroupLinear,
    GroupNorm2d,
    GroupPool,
    RectangularGroupConv2d,
    RectangularLiftingConv2d,
    Restriction,
)
from ..nn.conv import TiedConv2d
from ..nn.steps import TurnedSteps
from ..results import LayerError
from .asking import evaluating

DEGENERATE = 1e-5  # variation between images below this share of the size is no variation
NUMBERS = 1 << 26  # of the upright maps that are kept, all layers together
LAYERS = 8  # of a plain network
ROWS, ENTRIES, TARGETS = 1 << 12, 1 << 21, 256  # of the regression: positions, positions x channels, channels predicted
RIDGES = (1e-6, 1e-4, 1e-2, 1.0)  # of the mean variance of a channel
TIED = TiedConv2d, RectangularLiftingConv2d, RectangularGroupConv2d
IDLE = nn.Dropout, nn.Dropout2d, nn.Identity  # old attention layers drop out of maps that are none
D4 = Group(4, True)
Move = tuple[bool, int]  # mirror left-right if set, then so many quarter turns
Call = tuple[str, int]  # path of a layer, and the how many-th call of it


def layer_errors(module: nn.Module, x: Tensor, *, mirrors: bool = True) -> tuple[LayerError, ...]:
    """The errors of the layers whose output is a map, in the order in which they run; x: (B, C, S, S) as the module
    takes it, at least 4 pictures. The module is asked in evaluation mode and left as it was.

    With convolutions of roteq inside that are tied by an exact turn or mirror: all layers that promise a
    representation, over the exact elements of their own group. (Vector fields are left out; layers with turned steps
    are not: the shifted grids of their orientations turn into each other, so that pixels move as everywhere else.) Wide
    layers are measured on as many features, drawn at random with a fixed seed, as can be kept.

    Any other network: the last layer at each resolution and others between, 8 at most, at one quarter turn and, with
    `mirrors`, one mirror. The linear map is a ridge regression with bias from all channels to at most 256, drawn like
    the positions (at most 4,096, fewer for more than 512 channels) with a fixed seed; it is fitted on every other
    picture and measured on the rest. 0.7 and more is what the mean alone would leave: no linear relation, or too few
    positions for so many channels to find it.

    Raises: UsageError for fewer than 4 pictures or such that are not square.

    >>> from roteq.nn import LiftingConv2d
    >>> x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    >>> [found] = layer_errors(LiftingConv2d(1, 2, 3, group="p4"), x)
    >>> found.kind, found.representation, found.size, found.between_image_error < 1e-5
    ('LiftingConv2d', 'regular', (7, 7), True)
    """
    if x.ndim != 4 or len(x) < 4 or x.shape[2] != x.shape[3]:
        raise UsageError(f"layer_errors: expected at least 4 square pictures (B, C, S, S), got {tuple(x.shape)}")
    module = getattr(module, "_orig_mod", module)  # hooks would be compiled
    weight = next((p for p in module.parameters() if p.is_floating_point()), x)
    x = x.to(weight.device, weight.dtype)
    with torch.no_grad(), evaluating(module):
        if any(isinstance(m, TIED) and len(m.group.exact_elements) > 1 for m in module.modules()):
            return _of_promises(module, x)
        return _of_plain(module, x, [(False, 1), (True, 0)][: 1 + mirrors])


@dataclass(frozen=True)
class Promise:
    """How the maps of a layer move with the picture."""

    group: Group
    representation: Literal["regular", "trivial"]
    last: bool = False  # channels

    def element(self, move: Move) -> int | None:
        """The element of the group that moves pictures like this."""
        found = [g for g in self.group.exact_elements if (self.group.is_mirror(g), self.group.quarter_turns(g)) == move]
        return found[0] if found else None

    @property
    def moves(self) -> list[Move]:
        return [(self.group.is_mirror(g), self.group.quarter_turns(g) or 0) for g in self.group.exact_elements[1:]]

    def act(self, maps: Tensor, move: Move) -> Tensor:
        g = self.element(move)
        assert g is not None
        act = self.group.act_on_features if self.representation == "regular" else self.group.act_on_image
        return act(maps, g)

    @property
    def block(self) -> int:
        """Channels that belong together."""
        return self.group.order if self.representation == "regular" else 1


def promise_of(layer: nn.Module) -> Promise | None:
    """What a layer of roteq promises; None of all others, and of vector fields."""
    if isinstance(layer, GroupPool):
        return None if layer.mode == "argmax" else Promise(layer.group, "trivial")
    if isinstance(layer, MeanOverGroup):
        return Promise(layer.group, "trivial", last=layer.dim != 1)
    if isinstance(layer, Restriction):
        return Promise(layer.subgroup, "regular")
    if isinstance(layer, GroupLinear | GroupLayerNorm):
        return Promise(layer.group, "regular", last=not isinstance(layer, GroupLayerNorm2d))
    is_regular = isinstance(layer, (*TIED, GroupBatchNorm2d, GroupNorm2d, TurnedSteps))
    return Promise(layer.group, "regular") if is_regular else None  # type: ignore[arg-type]


@dataclass
class _Layer:
    """What is kept of one call of a layer."""

    path: str
    kind: str
    promise: Promise
    channels: int
    size: tuple[int, int]
    chosen: Tensor | None  # channels that are kept; None: all
    upright: Tensor  # (B, kept, H, W)
    between: list[float | None] = field(default_factory=list)  # of each element
    relative: list[float | None] = field(default_factory=list)
    linear: list[float | None] = field(default_factory=list)

    def compare(self, maps: Tensor, move: Move) -> None:
        distance = _norm(self._kept(maps) - self.promise.act(self.upright, move))
        size = _norm(self.upright)
        variation = _variation(self.upright)
        self.between.append(_ratio(distance, variation if variation > DEGENERATE * size else 0.0))
        self.relative.append(_ratio(distance, size))

    def _kept(self, maps: Tensor) -> Tensor:
        return _wide(maps if self.chosen is None else maps.index_select(1, self.chosen.to(maps.device)))

    @classmethod
    def of(cls, call: Call, layer: nn.Module, promise: Promise, maps: Tensor, numbers: int) -> "_Layer":
        """numbers: that may be kept of the maps; at least one feature is."""
        path, n = call[0] or type(layer).__name__, call[1]
        features, chosen = maps.shape[1] // promise.block, None
        most = max(1, numbers // (promise.block * maps[:, 0].numel()))
        if most < features:
            blocks = _drawn(features, most)[:, None] * promise.block
            chosen = (blocks + torch.arange(promise.block)).flatten()
        size = maps.shape[2], maps.shape[3]
        name = path if n == 1 else f"{path} (call {n})"
        found = cls(name, type(layer).__name__, promise, maps.shape[1], size, chosen, maps)
        found.upright = found._kept(maps).clone()  # what comes next may write into it
        return found

    @property
    def result(self) -> LayerError:
        is_linear = bool(self.linear)
        return LayerError(
            self.path,
            self.kind,
            self.channels,
            self.size,
            "linear" if is_linear else self.promise.representation,
            _mean(self.between),
            _mean(self.relative),
            _mean(self.linear) if is_linear else None,
        )


def _of_promises(module: nn.Module, x: Tensor) -> tuple[LayerError, ...]:
    promises = {name: promise for name, layer in open_layers(module) if (promise := promise_of(layer)) is not None}
    promises = {name: promise for name, promise in promises.items() if promise.moves}
    found: dict[Call, _Layer] = {}

    def see(call: Call, layer: nn.Module, output: Any) -> None:
        maps = maps_of(output, len(x), promises[call[0]])
        if maps is not None:
            found[call] = _Layer.of(call, layer, promises[call[0]], maps, NUMBERS // len(promises))

    watch(module, x, promises, see)
    for move in sorted({move for promise in promises.values() for move in promise.moves}):

        def compare(call: Call, layer: nn.Module, output: Any, move: Move = move) -> None:
            if call in found and found[call].promise.element(move) is not None:
                maps = maps_of(output, len(x), found[call].promise)
                assert maps is not None
                found[call].compare(maps, move)

        watch(module, _moved(x, move), promises, compare)
    return tuple(one.result for one in found.values())


def maps_of(output: Any, batch: int, promise: Promise) -> Tensor | None:
    """Square maps (B, C, H, W) of whole features."""
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != batch:
        return None
    maps = output.movedim(3, 1) if promise.last else output
    fits = maps.shape[2] == maps.shape[3] and maps.shape[1] % promise.block == 0 and maps.is_floating_point()
    return maps if fits else None


def _of_plain(module: nn.Module, x: Tensor, moves: list[Move]) -> tuple[LayerError, ...]:
    chosen = _choose(survey(module, x[:2]))
    names = {call[0] for call in chosen}
    promise = Promise(D4, "trivial")
    found: dict[Call, _Layer] = {}
    samples: dict[Call, dict[Move, Tensor]] = {}
    upright = _Samples(len(x))

    def see(call: Call, layer: nn.Module, output: Any) -> None:
        if call in chosen and len(output) == len(x):
            found[call] = _Layer.of(call, layer, promise, output, NUMBERS // LAYERS)
            samples[call] = {move: upright.take(promise.act(output, move)) for move in moves}

    watch(module, x, names, see)
    for move in moves:

        def compare(call: Call, layer: nn.Module, output: Any, move: Move = move) -> None:
            if call in found:
                found[call].compare(output, move)
                found[call].linear.append(linear_error(samples[call].pop(move), upright.take(output)))

        watch(module, _moved(x, move), names, compare)
    return tuple(one.result for one in found.values())


def survey(module: nn.Module, x: Tensor) -> list[tuple[Call, tuple[int, ...]]]:
    """(call, shape) of everything that is a map. What a block returns as its last layer wrote it, and what is changed
    in place, goes by the later name; what a layer merely hands on, by the earlier one."""
    found: dict[int, tuple[Call, Tensor, int]] = {}  # by identity: the tensors are kept alive

    def see(call: Call, layer: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(x) or isinstance(layer, IDLE):
            return
        if output.is_floating_point() and output.shape[2] == output.shape[3] > 1:
            known = found.get(id(output))
            if known is None or known[2] != output._version or known[0][0].startswith(f"{call[0]}."):
                found.pop(id(output), None)  # to its end
                found[id(output)] = call, output, output._version

    watch(module, x, [name for name, layer in open_layers(module) if name or not [*layer.children()]], see)
    return [(call, tuple(maps.shape)) for call, maps, _ in found.values()]


def _choose(calls: list[tuple[Call, tuple[int, ...]]]) -> set[Call]:
    """The last call at each resolution, and others evenly between, LAYERS at most."""
    ends = [*{shape[2]: call for call, shape in calls}.values()]
    chosen = [ends[i] for i in evenly(len(ends), LAYERS)]
    others = [call for call, _ in calls if call not in ends]
    return {*chosen, *(others[i] for i in evenly(len(others), LAYERS - len(chosen)))}


def evenly(number: int, most: int) -> list[int]:
    """Indices of at most so many of `number` things, the last among them.

    >>> evenly(10, 3), evenly(2, 3)
    ([2, 5, 9], [0, 1])
    """
    return list(range(number)) if number <= most else [(i + 1) * number // most - 1 for i in range(most)]


class _Samples:
    """The same positions of every map of one size, and all channels: (B, positions, C), float64 on the CPU."""

    def __init__(self, pictures: int) -> None:
        self.fitted = (pictures + 1) // 2

    def take(self, maps: Tensor) -> Tensor:
        pixels = maps.flatten(2)
        most = max(1, min(ROWS, ENTRIES // pixels.shape[1]) // self.fitted)
        if most < pixels.shape[2]:
            pixels = pixels.index_select(2, _drawn(pixels.shape[2], most).to(pixels.device))
        return pixels.transpose(1, 2).cpu().double()


def linear_error(source: Tensor, target: Tensor) -> float | None:
    """What remains of target - (M source + b), against the variation between pictures: fitted on every other picture,
    measured on the rest. None where that does not vary.

    Shapes: (B, P, C), (B, P, C'), the same positions of every picture; at least 4 pictures
    """
    if target.shape[2] > TARGETS:
        target = target.index_select(2, _drawn(target.shape[2], TARGETS))
    held = target[1::2]
    variation = _variation(held)
    if not variation > DEGENERATE * _norm(held) or not (source.isfinite().all() and target.isfinite().all()):
        return None
    x, y = source[::2], target[::2]
    part = max(1, 3 * len(x) // 4)
    tried = [
        _norm(y[part:] - predict(x[part:])) if part < len(x) else 0.0 for predict in _regressions(x[:part], y[:part])
    ]
    best = min(range(len(RIDGES)), key=lambda i: tried[i])
    predict = next(iter(_regressions(x, y, RIDGES[best : best + 1])))
    return _ratio(_norm(held - predict(source[1::2])), variation)


def _regressions(x: Tensor, y: Tensor, ridges: tuple[float, ...] = RIDGES) -> Iterable[Callable[[Tensor], Tensor]]:
    """(X'X + r)^-1 X'Y = X'(XX' + r)^-1 Y, whichever matrix is smaller, for centred X and Y."""
    x, y = x.flatten(0, 1), y.flatten(0, 1)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    is_dual = len(x) < x.shape[1]
    product = x @ x.T if is_dual else x.T @ x
    wanted = y if is_dual else x.T @ y
    scale = float(x.square().sum()) / x.shape[1]
    for ridge in ridges:
        regularised = product + (ridge * scale or 1.0) * torch.eye(len(product), dtype=product.dtype)
        solved = torch.cholesky_solve(wanted, torch.linalg.cholesky(regularised))
        matrix = x.T @ solved if is_dual else solved
        yield partial(_affine, matrix, y_mean - x_mean @ matrix)


def _affine(matrix: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return x @ matrix + bias


def open_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Without what runs on many turned copies at once."""
    averaged = [name for name, layer in module.named_modules() if isinstance(layer, Symmetrized)]
    inside = tuple(f"{name}." if name else "" for name in averaged)
    return [(name, layer) for name, layer in module.named_modules() if not (inside and name.startswith(inside))]


def watch(module: nn.Module, x: Tensor, names: Iterable[str], see: Callable[[Call, nn.Module, Any], None]) -> None:
    """Run the module and show every output of these layers."""
    calls: Counter[str] = Counter()
    hooks = []

    def show(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            see((name, calls[name]), layer, output)

        return hook

    try:
        for name in names:
            hooks.append(module.get_submodule(name).register_forward_hook(show(name)))
        module(x.clone())  # it may write into it
    finally:
        for hook in hooks:
            hook.remove()


def _moved(x: Tensor, move: Move) -> Tensor:
    return D4.act_on_image(x, D4.index(*move)).contiguous()


def _drawn(number: int, most: int) -> Tensor:
    """So many indices below `number`, always the same."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))[:most].sort()[0]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _norm(x: Tensor) -> float:
    """Root mean square over the pictures."""
    return float(torch.linalg.vector_norm(x)) / math.sqrt(len(x))


def _variation(x: Tensor) -> float:
    """Root mean square distance of two pictures, over all pairs."""
    return math.sqrt(2 * float(x.var(0).sum()))


def _ratio(a: float, b: float) -> float | None:
    return a / b if b > 0 and math.isfinite(a / b) else None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
