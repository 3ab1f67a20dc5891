"""The report of a conversion: what each layer became, what it costs, and how far it is from the original."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..groups import Group
from ..nn.conv import TiedConv2d
from ..nn.steps import Centred, CentredAvgPool2d, CentredMaxPool2d, TurnedSteps, all_left, pair
from ..results import Exchanged
from .build import Plan
from .exchange import as_centred
from .symmetrized import Symmetrized
from .trace import Inputs, is_layer, tensors_in
from .verify import Errors

STRIDED = (TiedConv2d, CentredMaxPool2d, CentredAvgPool2d, Centred, TurnedSteps)
NEAR = 16  # pixels: how far from the sample's size a symmetric one is looked for


def exchanged_layers(original: nn.Module, twin: nn.Module, plan: Plan, errors: Errors) -> tuple[Exchanged, ...]:
    return tuple(
        Exchanged(path, _one_line(original, path), _one_line(twin, path), _worst(errors.layers, path))
        for path in sorted(plan.exchanges, key=list(dict(original.named_modules())).index)
    )


def _one_line(model: nn.Module, path: str) -> str:
    return " ".join(str(model.get_submodule(path)).split())


def _worst(errors: dict[str, float | None], path: str) -> float | None:
    found = [e for name, e in errors.items() if (name == path or name.startswith(f"{path}.")) and e is not None]
    return max(found, default=None)


def unused_layers(original: nn.Module, plan: Plan) -> tuple[str, ...]:
    """Layers with weights that no run on the sample reached."""
    reached = {call.path for found in plan.traced for call in found.calls if call.module is not None}
    return tuple(
        name
        for name, module in original.named_modules()
        if is_layer(module) and name not in reached and any(True for _ in module.parameters())
    )


def physical_channels(model: nn.Module) -> int:
    """Of the outputs of all convolutions."""
    convs = nn.Conv2d | nn.ConvTranspose2d | TiedConv2d
    return sum(
        m.out_channels * (m.group.order if isinstance(m, TiedConv2d) else 1)
        for m in model.modules()
        if isinstance(m, convs)
    )


@torch.no_grad()
def flops(model: nn.Module, inputs: Inputs) -> int | None:
    """Of one forward pass of one image, 2 for a multiply-add; writing out filters is not counted, for it is done once
    for a whole batch. None where the network does not run without values."""
    shadow = copy.deepcopy(model).to("meta").eval()
    counts = []
    for batch in (1, 2):
        meta = tuple(v[:batch].to("meta") if isinstance(v, Tensor) and v.ndim else v for v in inputs)
        try:
            with FlopCounterMode(display=False) as counter, torch.device("meta"):
                shadow(*meta)
        except Exception:  # whatever cannot be done with shapes alone
            return None
        counts.append(counter.get_total_flops())
    return counts[1] - counts[0]


def asymmetric_steps(twin: nn.Module, plan: Plan) -> dict[str, int]:
    """Layer -> pixels that the original's steps left over on one side of the sample's maps."""
    found = {}
    for path in plan.exchanges:
        sample = plan.places[path].sample
        left = max((_left_over(module, sample) for module in twin.get_submodule(path).modules()), default=0)
        if left:
            found[path] = left
    return found


def _left_over(module: nn.Module, x: Tensor) -> int:
    if isinstance(module, TurnedSteps):
        module = as_centred(module.pool)
    if isinstance(module, CentredMaxPool2d | CentredAvgPool2d):
        return max(module.steps(x)[1])
    if isinstance(module, Centred) or (isinstance(module, TiedConv2d) and module.steps != "symmetric"):
        return max(all_left(x, pair(module.extent), pair(module.stride), pair(module.padding)))
    return 0


@torch.no_grad()
def symmetric_size(original: nn.Module, twin: nn.Module, plan: Plan, inputs: Inputs) -> tuple[int, int] | None:
    """The input size nearest to the sample's at which every step of the original is symmetric."""
    pictures = [v for v in inputs if isinstance(v, Tensor) and v.ndim == 4]
    height, width = pictures[0].shape[-2:]
    shadow = copy.deepcopy(original).to("meta").eval()
    steps = {
        path: [module for module in twin.get_submodule(path).modules() if isinstance(module, STRIDED)]
        for path in plan.exchanges
    }
    left: list[int] = []
    hooks = [
        shadow.get_submodule(path).register_forward_pre_hook(
            lambda _, args, modules=modules: left.extend(_left_over(m, args[0]) for m in modules)
        )
        for path, modules in steps.items()
        if modules
    ]
    try:
        for change in sorted(range(-min(NEAR, height - 1, width - 1), NEAR + 1), key=abs):
            left.clear()
            size = (height + change, width + change)
            meta = tuple(_resized(v, pictures[0].shape[-2:], size) for v in inputs)
            try:
                with torch.device("meta"):
                    shadow(*meta)
            except Exception:  # not at this size, or not without values
                if change == 0:
                    return None
                continue
            if not any(left):
                return size
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _resized(value: object, old: Iterable[int], size: tuple[int, int]) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and tuple(value.shape[-2:]) == tuple(old):
        return torch.empty((*value.shape[:2], *size), device="meta", dtype=value.dtype)
    return value.to("meta")


@torch.no_grad()
def difference_to_average(original: nn.Module, twin: nn.Module, inputs: Inputs, group: Group) -> float | None:
    """||twin(x) - average(x)|| / ||average(x) - average(x')|| in float64, average: of the original over the group.
    None where elements of the group are interpolated, or the average does not vary."""
    if len(group.exact_elements) < group.order:
        return None
    inputs = tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs)
    average = Symmetrized(copy.deepcopy(original).double().eval(), group, "logits")
    wanted, found = (next(tensors_in(m(*inputs))) for m in (average, copy.deepcopy(twin).double().eval()))
    variation = (wanted[:1] - wanted[1:2]).norm()
    if not variation > 1e-12 * wanted.norm():
        return None
    return float((found[:1] - wanted[:1]).norm() / variation)
