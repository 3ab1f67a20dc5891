"""The filter of a feature and its turned copies."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..groups import Group
from ..nn import GroupConv2d
from ..nn.conv import TiedConv2d
from .layers import elements, module_of, place_of
from .networks import Network
from .seeing import number, sprite


def filters(network: Network, layer: str, feature: int, source: int = 0) -> dict[str, Any]:
    """The filters of one feature at all elements g that read input feature `source` (the last one if there are fewer).

    Lifting: bank[o, g, i]. Group convolution: bank[o, g, i, g], the filters that read the element at which they stand:
    these are turned copies of each other; so are all others, shifted over the group. Plain: the filters of a block of
    channels that read one channel; nothing ties them.

    Raises: UsageError for layers and features that are not there, and for layers without filters.
    """
    place = place_of(network, layer, feature)
    module = module_of(network)
    if module is None or not place.info.has_filters:
        raise UsageError(f"layer: {layer} ({place.info.kind}) has no filters; choose a convolution")
    conv = module.get_submodule(place.call[0])
    is_plain = place.info.representation == "plain"
    bank = copies(conv, place.group, feature, is_plain)
    sources = bank.shape[1]
    source = max(0, min(source, sources - 1))
    shown = bank[:, source]
    high = number(float(shown.abs().max())) or 1.0
    return {
        "layer": layer,
        "feature": feature,
        "source": source,
        "elements": elements(place),
        "tile": list(shown.shape[1:]),
        "copies": sprite(shown, -high, high, "RdBu_r"),
        "sources": sources,
        "low": -high,
        "high": high,
        "note": _note(conv, place.group, feature, source, is_plain),
    }


def copies(conv: nn.Module, group: Group, feature: int, is_plain: bool = False) -> Tensor:
    """(|G|, sources, k, k) float32 on the processor: the filters of a feature at every element, as `filters` shows
    them."""
    bank: Tensor = conv.bank() if isinstance(conv, TiedConv2d) else conv.weight  # type: ignore[assignment]
    bank = bank.detach().float().cpu()
    order = group.order
    found = bank[feature * order : (feature + 1) * order]
    if isinstance(conv, GroupConv2d) and not is_plain:
        own = torch.arange(order)
        found = found.unflatten(1, (-1, order))[own, :, own]
    return found


def _note(conv: nn.Module, group: Group, feature: int, source: int, is_plain: bool) -> str:
    first = feature * group.order
    if is_plain:
        return (
            f"The filters of channels {first} to {first + group.order - 1} that read channel {source}: a plain network "
            "ties them by nothing, so that they are no turned copies of each other."
        )
    reads = f"input feature {source}" if isinstance(conv, GroupConv2d) else f"channel {source}"
    where = " at the same element" if isinstance(conv, GroupConv2d) else ""
    between = "" if len(group.exact_elements) == group.order else "; between the pixels they are interpolated"
    return f"One filter that reads {reads}{where}, and its copies moved by every element of {group.name}{between}."
