"""Is the twin equivariant? Measured in float64 for every exact element: each operation and the whole."""

import copy
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..groups import Group
from ..nn import GroupLinear
from ..nn.conv import TiedConv2d
from .trace import Call, Inputs, Trace, tensors_in, trace

DEGENERATE = 1e-5  # variation between images below this share of the norm is no variation
LARGEST_BANK = 10**8  # numbers in the written out filters of one layer
EXACT = 1e-10  # rounding of a deep network in float64, against the variation between images


@dataclass(frozen=True)
class Errors:
    """Between-image errors, None where the output does not vary: of the whole by element, and of each layer the
    largest. `culprit`: the first operation that makes something that is not equivariant of things that are."""

    by_element: dict[int, float | None]
    layers: dict[str, float | None]
    culprit: Call | None = None
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # what goes into the culprit and what comes out

    @property
    def exact(self) -> bool:
        """Also where no element but the identity is exact, and so nothing can be verified."""
        return all(e is not None and e < EXACT for e in self.by_element.values())


def turned(inputs: Inputs, group: Group, g: int) -> Inputs:
    """Every picture among the inputs, turned; vectors and numbers as they are."""
    return tuple(
        group.act_on_image(value, g) if isinstance(value, Tensor) and value.ndim == 4 else value for value in inputs
    )


def candidates(y: Tensor, group: Group, g: int) -> Iterable[Tensor]:
    """rho(g) y for every representation that the shape allows: trivial or regular map, also with channels last, regular
    vector, or invariant."""
    order = group.order
    source = torch.tensor([group.product(group.inverse(g), h) for h in range(order)], device=y.device)
    if y.ndim == 4:
        yield group.act_on_image(y, g)
        if y.shape[1] % order == 0:
            yield group.act_on_features(y, g)
        last = group.act_on_image(y.movedim(3, 1), g).movedim(1, 3)
        yield last
        if y.shape[3] % order == 0:
            yield last.unflatten(3, (-1, order)).index_select(4, source).flatten(3, 4)
        return
    yield y
    for dim in {1, y.ndim - 1} if y.ndim > 1 else ():
        if y.shape[dim] % order == 0:
            yield y.unflatten(dim, (-1, order)).index_select(dim + 1, source).flatten(dim, dim + 1)


def between_image_error(upright: Tensor, moved: Tensor, group: Group, g: int) -> float | None:
    """||f(gx) - rho(g) f(x)|| / ||f(x) - f(x')|| for the representation that fits best; x, x' two upright images."""
    variation = (upright[:1] - upright[1:2]).norm()
    if not variation > DEGENERATE * upright[:1].norm():
        return None
    fitting = [wanted for wanted in candidates(upright[:1], group, g) if wanted.shape == moved[:1].shape]
    moved = moved[:1]
    return min((float((moved - wanted).norm() / variation) for wanted in fitting), default=1.0)


@torch.no_grad()
def measure(model: nn.Module, inputs: Inputs, group: Group) -> Errors:
    """Run a float64 copy on the inputs and on every exactly turned copy of them.

    Norms read the statistics of these inputs: those of an untrained network would let its signal fade.
    """
    twin = copy.deepcopy(model).double().eval()
    inputs = tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs)
    _write_out_filters(twin)
    _calibrate(twin, inputs)
    upright = trace(twin, inputs)
    first = tuple(v[:1] if isinstance(v, Tensor) and v.ndim else v for v in inputs)
    by_element: dict[int, float | None] = {}
    layers: dict[str, float | None] = {}
    culprit: Call | None = None
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    for g in group.exact_elements[1:]:
        moved = trace(twin, turned(first, group, g))
        pairs = zip(tensors_in(upright.output), tensors_in(moved.output), strict=True)
        errors = [between_image_error(a, b, group, g) for a, b in pairs]
        by_element[g] = None if None in errors or not errors else max(e for e in errors if e is not None)
        for path, found in _layer_errors(upright, moved, group, g):
            if path not in layers or (found is not None and found > (layers[path] or 0.0)):
                layers[path] = found
        if culprit is None and (by_element[g] or 0.0) >= EXACT:
            culprit = first_break(upright, moved, group, g)
            if culprit is not None:
                shapes = tuple(  # type: ignore[assignment]
                    tuple(upright.tensor(numbers[0]).shape) if numbers else ()
                    for numbers in (culprit.inputs, culprit.outputs)
                )
    return Errors(by_element, layers, culprit, shapes)


def _write_out_filters(model: nn.Module) -> None:
    """Once for all runs, where there is room for them."""
    for layer in model.modules():
        if isinstance(layer, TiedConv2d | GroupLinear) and layer.weight.numel() * layer.group.order < LARGEST_BANK:
            layer.bank = partial(_itself, layer.bank())  # type: ignore[method-assign]


def _itself(bank: Tensor) -> Tensor:
    return bank


def _calibrate(model: nn.Module, inputs: Inputs) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train(norm.track_running_stats)
    with suppress(ValueError):  # one value a channel: nothing to normalise by
        model(*inputs)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


def _layer_errors(upright: Trace, moved: Trace, group: Group, g: int) -> Iterable[tuple[str, float | None]]:
    for a, b in zip(upright.calls, moved.calls, strict=False):
        if a.module is not None and a.path == b.path:
            yield a.path, between_image_error(upright.tensor(a.outputs[0]), moved.tensor(b.outputs[0]), group, g)


def first_break(upright: Trace, moved: Trace, group: Group, g: int) -> Call | None:
    """The first operation whose output is not equivariant although all its inputs are. What has five axes, or a shape
    that fits no representation, is passed over: it is on its way to something else."""
    good = set(range(len(upright.nodes))) if not upright.calls else set()
    good |= {number for number, node in enumerate(upright.nodes) if node.parameters} | set(upright.inputs)
    suspect: Call | None = None
    for a, b in zip(upright.calls, moved.calls, strict=False):
        if a.name != b.name or a.path != b.path:
            return a
        known = all(n in good for n in a.inputs)
        if known:
            suspect = a
        for number, other in zip(a.outputs, b.outputs, strict=True):
            y, z = upright.tensor(number), moved.tensor(other)
            if y.ndim not in (2, 4) or not y.is_floating_point():
                continue
            found = between_image_error(y, z, group, g)
            if found is None or found < EXACT:
                good.add(number)
            elif y.ndim == 4 or a.module is not None:
                return a if known else suspect or a
    return suspect
