"""What a conversion decides for all layers, and where a layer stands."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..filters import default_basis
from ..groups import Group
from ..nn.steps import Steps, can_turn
from .trace import Role
from .width import Scale


class Breaks(UsageError):
    """A layer or operation that has no equivariant counterpart."""


@dataclass(frozen=True)
class Place:
    """Where a layer stands: what comes in, and whether it is the last linear map before an answer."""

    path: str
    role: Role
    last: bool
    grid: tuple[int, int]  # (h, w) of the map that a vector was flattened from
    sample: Tensor  # what came in
    own: str | None = None  # how a convolution with a forward of its own differs (`own_forward`)


@dataclass(frozen=True)
class Terms:
    """Everything that a conversion decides for all layers."""

    group: Group
    scale: Scale
    keep: bool  # the original's weights go to the identity of every filter
    device: torch.device

    @property
    def basis(self) -> Any:
        return "pixel" if self.keep else default_basis(self.group)

    @property
    def steps(self) -> Steps:
        """Kept weights are left the grid that they know; new ones learn on one grid for all orientations."""
        return "turned" if self.keep and can_turn(self.group) else "centred"


def features_in(place: Place, x: Tensor, terms: Terms, dim: int = 1) -> int:
    if place.role != Role.FEATURE:
        return x.shape[dim]
    features, rest = divmod(x.shape[dim], terms.group.order)
    if rest:  # a width that does not suit the splits of the network, or channels that were mixed
        raise UsageError(f"expected channels in blocks of {terms.group.order}, got {x.shape[dim]}")
    return features


def features_out(place: Place, channels: int, terms: Terms) -> int:
    return channels if place.last else terms.scale.features(channels)
