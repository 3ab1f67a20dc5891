"""Building the twin: the network runs once more, and each layer is exchanged when its input arrives."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .convolutions import at_identity, gain, own_forward
from .exchange import Exchange, exchange_of
from .layers import MeanOverGroup, RepeatOverGroup, TiedBank, tie
from .terms import Breaks, Place, Terms
from .trace import LINEAR_FUNCTIONS, Call, Inputs, Role, Roles, Trace, find_roles, trace


@dataclass(frozen=True)
class Free:
    """A parameter or buffer that no layer owns. axis: of its features; None: filters. repeat: written out for every
    physical channel; a batch norm sees folded maps, one channel a feature."""

    axis: int | None
    lifting: bool = False
    repeat: bool = True


@dataclass
class Plan:
    """What is to be done with a network, found by running it. Keys are paths of modules, the first where it has two."""

    places: dict[str, Place] = field(default_factory=dict)  # layers that are called
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    pools: set[str] = field(default_factory=set)  # layers behind which the mean over the group is taken
    free: dict[str, Free] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)  # path -> why a breaking layer was left (strict=False)
    traced: list[Trace] = field(default_factory=list)  # in evaluation and, where that works, in training mode


def make_plan(model: nn.Module, inputs: Inputs, strict: bool) -> Plan:
    """Run the network in evaluation mode, and in training mode, where it may use more of itself."""
    plan = Plan()
    state = copy.deepcopy(model.state_dict())
    for training in (False, True):
        try:
            found = trace(model, inputs, training)
        except Exception:
            if not training:
                raise
            continue  # what cannot be trained can still be converted
        finally:
            model.load_state_dict(state)
        roles = find_roles(found)
        plan.traced.append(found)
        _add_layers(plan, found, roles, strict)
        _add_free(plan, found, strict)
    return plan


def _add_layers(plan: Plan, found: Trace, roles: Roles, strict: bool) -> None:
    for index, call in enumerate(found.calls):
        if call.module is None:
            continue
        if call.path == "?":
            raise Breaks(
                f"a {call.name} is called that no module owns, from a plain list perhaps; keep it in an nn.ModuleList"
            )
        before = [found.nodes[n] for n in call.inputs]
        main = next((node for node in before if node.role != Role.CONSTANT), None)
        if main is None:
            continue
        own = own_forward(call.module, main.tensor) if call.path not in plan.places else plan.places[call.path].own
        place = Place(call.path, main.role, roles.last.get(index, False), main.grid, main.tensor, own)
        known = plan.places.get(call.path)
        if known is not None and (known.role, known.grid) != (place.role, place.grid):
            plan.left[call.path] = "used in two places that differ"
            if strict:
                raise Breaks(
                    f"{call.path}: called on {_described(known)} and on {_described(place)}; one layer cannot be both: "
                    "use two layers"
                )
            continue
        if known is not None and known.last and not place.last:
            place = known
        plan.places[call.path] = place
        try:
            exchange = exchange_of(call.module, place)
        except Breaks as why:
            if strict:
                raise
            plan.left[call.path], exchange = str(why), None
        if exchange is not None:
            plan.exchanges[call.path] = exchange
        if index in roles.pools and main.role == Role.FEATURE and found.tensor(call.outputs[0]).ndim == 4:
            plan.pools.add(call.path)


def _described(place: Place) -> str:
    kind = {Role.IMAGE: "the picture", Role.FEATURE: "features", Role.ANSWER: "an answer"}.get(place.role, "a constant")
    return f"{kind} {tuple(place.sample.shape)}"


def _add_free(plan: Plan, found: Trace, strict: bool) -> None:
    """Parameters and buffers that functions use on features."""
    for index, call in enumerate(found.calls):
        if call.module is not None:
            continue
        before = [found.nodes[n] for n in call.inputs]
        main = next((node for node in before if node.role in (Role.IMAGE, Role.FEATURE)), None)
        if main is None or found.nodes[call.outputs[0]].role not in (Role.FEATURE, Role.ANSWER):
            continue
        for position, node in enumerate(before):
            for name in node.parameters:
                value = _value(found, name)
                if main.role == Role.FEATURE and _by_position(call, value, main.tensor):
                    reason = (
                        f"{call.path or 'the network itself'}: {call.name} with {name} {tuple(value.shape)}, which has "
                        "a value for every position (a position embedding?) and does not turn with the picture; leave "
                        "it out, or use roteq.Symmetrized(model, group)"
                    )
                    if strict:
                        raise Breaks(reason)
                    plan.left[name] = reason
                if index in found.last and call.name == "linear":
                    free = Free(1, repeat=False) if position == 1 else None  # it works on the mean over the group
                else:
                    free = _free(call, position, value, main.role, main.tensor)
                if free is not None:
                    plan.free.setdefault(name, free)


def _by_position(call: Call, value: Tensor, features: Tensor) -> bool:
    """A parameter that differs between the pixels of the map that it is combined with."""
    if call.name in LINEAR_FUNCTIONS or features.ndim != 4 or value.ndim < 2:
        return False
    rows, columns = value.shape[-2:]
    return (rows, columns) == tuple(features.shape[-2:]) and rows * columns > 1


def _value(found: Trace, name: str) -> Tensor:
    return next(node.tensor for node in found.nodes if node.parameters == {name})


def _free(call: Call, position: int, value: Tensor, role: Role, features: Tensor) -> Free | None:
    if call.name in LINEAR_FUNCTIONS:
        return Free(None if position == 1 else 0, role == Role.IMAGE)
    wide = [axis for axis, size in enumerate(value.shape) if size > 1]
    if role != Role.FEATURE or len(wide) != 1 or value.shape[wide[0]] not in (features.shape[1], features.shape[-1]):
        return None  # one number for all, or something that the verification will judge
    return Free(wide[0], repeat=call.name != "batch_norm")


class Pending(nn.Module):
    """Stands for a layer until its input arrives, whose channels decide what it becomes."""

    def __init__(self, layer: nn.Module, make: Callable[[Tensor], nn.Module], pool: MeanOverGroup | None) -> None:
        super().__init__()
        self.layer, self.make, self.pool = layer, make, pool
        self.built: nn.Module | None = None

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        if self.built is None:
            x = next(value for value in [*inputs, *kwargs.values()] if isinstance(value, Tensor))
            twin, own = self.make(x), next(self.layer.parameters(), None)
            if own is not None:
                twin = twin.to(own.device, own.dtype)
            self.built = twin if self.pool is None else nn.Sequential(twin, self.pool)
        return self.built.eval()(*inputs, **kwargs)  # no statistics are gathered now

    def result(self) -> nn.Module:
        """What the layer became; the layer itself if no input ever came."""
        if self.built is None:
            return self.layer
        own = dict(self.built.named_parameters())
        for name, parameter in self.layer.named_parameters():
            if name in own:
                own[name].requires_grad_(parameter.requires_grad)
        return self.built.train(self.layer.training)


def substitute(model: nn.Module, exchanged: dict[int, nn.Module]) -> nn.Module:
    """Put modules in place of others, given by id, wherever they stand."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if id(child) in exchanged:
                module._modules[name] = exchanged[id(child)]
    return exchanged.get(id(model), model)


def build(model: nn.Module, inputs: Inputs, plan: Plan, terms: Terms) -> nn.Module:
    """The twin, with new weights or, where terms.keep says so, with the original's."""
    twin = copy.deepcopy(model)
    pending: dict[int, Pending] = {}
    for path in plan.exchanges.keys() | plan.pools:
        layer = twin.get_submodule(path)
        place, exchange = plan.places[path], plan.exchanges.get(path)
        pool = MeanOverGroup(terms.group) if path in plan.pools else None
        pending[id(layer)] = Pending(layer, partial(_make, layer, place, exchange, terms), pool)
    _tie_free(twin, plan, terms)
    twin = substitute(twin, dict(pending))
    state = {name: value.clone() for name, value in twin.state_dict().items()}
    for training in (False, True)[: len(plan.traced)]:
        trace(twin, inputs, training)
    twin.load_state_dict(state, strict=False)
    results = {id(waiting): waiting.result() for waiting in pending.values()}
    _share_weights([(waiting.layer, results[id(waiting)]) for waiting in pending.values()])
    return substitute(twin, results)


def _make(layer: nn.Module, place: Place, exchange: Exchange | None, terms: Terms, x: Tensor) -> nn.Module:
    return layer if exchange is None else exchange(layer, place, x, terms)


def _share_weights(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    """Layers that shared a weight share its twin."""
    seen: dict[int, nn.Parameter] = {}
    for layer, twin in pairs:
        for name in ("weight", "bias"):
            original = layer._parameters.get(name)
            owner = next((m for m in twin.modules() if m._parameters.get(name) is not None), None)
            if original is None or owner is None:
                continue
            own = owner._parameters[name]
            first = seen.setdefault(id(original), own)  # type: ignore[arg-type]
            if first is not own and first.shape == own.shape:  # type: ignore[union-attr]
                owner._parameters[name] = first


def _tie_free(twin: nn.Module, plan: Plan, terms: Terms) -> None:
    values = dict(twin.named_parameters()) | dict(twin.named_buffers())
    owners = [(module, name) for module in twin.modules() for name in [*module._parameters, *module._buffers]]
    for path, free in plan.free.items():
        value = values[path]
        raw: Tensor | None = None
        for module, name in owners:
            if getattr(module, name) is not value:
                continue
            if raw is None:
                raw, how = _raw(value, free, terms)
            if not free.repeat:
                learnt = isinstance(value, nn.Parameter)
                setattr(module, name, nn.Parameter(raw, value.requires_grad) if learnt else raw)
                continue
            tie(module, name, raw, how)
            own: Any = module.parametrizations[name]  # type: ignore[union-attr, index]
            if isinstance(value, nn.Parameter):
                raw = own.original = raw if isinstance(raw, nn.Parameter) else own.original
                raw.requires_grad_(value.requires_grad)


@torch.no_grad()
def _raw(value: Tensor, free: Free, terms: Terms) -> tuple[Tensor, nn.Module]:
    """What is learnt in the place of a free parameter, and how it is written out."""
    group, features = terms.group, terms.scale.features
    if free.axis is not None:
        n = features(value.shape[free.axis])
        index = torch.arange(n, device=value.device) % value.shape[free.axis]
        return value.detach().index_select(free.axis, index), RepeatOverGroup(group, free.axis)
    outputs, inputs = features(value.shape[0]), value.shape[1] if free.lifting else features(value.shape[1])
    flat = value.ndim == 2
    weight = value.detach()[..., None, None] if flat else value.detach()
    if weight.shape[2] != weight.shape[3]:
        raise Breaks(f"a filter of {tuple(weight.shape)} used by a function; make it square, or a layer")
    if terms.keep:
        raw = at_identity(weight, group, free.lifting).clone()
    else:
        shape = (outputs, inputs, *(() if free.lifting else (group.order,)), weight[0, 0].numel())
        raw = torch.randn(shape, dtype=value.dtype) * gain(weight) * torch.Size(shape[1:]).numel() ** -0.5
    return raw, TiedBank(group, weight.shape[2], inputs, flat=flat)
