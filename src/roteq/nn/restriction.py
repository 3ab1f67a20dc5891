"""From features on a group to features on a subgroup."""

import torch
from torch import Tensor

from ..errors import UsageError
from ..groups import Group, cosets
from ..groups import group as named_group
from .checks import check_blocks
from .layout import is_channels_last
from .tables import HasTables


class Restriction(HasTables):
    """Read features on a group as features on a subgroup: D_N as C_N or D_M, C_N as C_M, where M divides N.

    y[(c, t), h] = x[c, h t] for every right coset H t: the regular representation of G, restricted to H, is |G| / |H|
    copies of the regular representation of H. Nothing is lost or computed; only the order of the channels changes (from
    D_N to C_N not even that).

    Shapes: (B, C*|G|, H, W) -> the same number of channels, as C * |G|/|subgroup| features on the subgroup
    Exactness: exact for the elements of the subgroup. Use it where a picture has a preferred direction at large scale
    but not at small scale (Weiler & Cesa 2019, arXiv 1911.08251, "group restriction").
    Raises: UsageError if it is no subgroup, or for features of another group.

    >>> Restriction("D4", "C4")(torch.zeros(2, 16, 9, 9)).shape  # 2 features on D4, 4 on C4
    torch.Size([2, 16, 9, 9])
    """

    source: Tensor

    def __init__(self, group: str | Group, subgroup: str | Group) -> None:
        super().__init__()
        self.group, self.subgroup = named_group(group), named_group(subgroup)
        if not self.subgroup.is_subgroup_of(self.group):
            raise UsageError(
                f"Restriction: expected a subgroup of {self.group.name}, got {self.subgroup.name}; choose from "
                + ", ".join(s.name for s in self.group.subgroups)
            )
        self._register_tables()

    def _register_tables(self) -> None:
        table = torch.tensor(cosets(self.group, self.subgroup)).flatten()  # (|G|/|H| * |H|): (t, h) -> h t
        device = self.source.device if "source" in self._buffers else None
        self.register_buffer("source", table.to(device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_blocks("Restriction", x, self.group)
        if is_channels_last(x):
            return self._reorder(x.movedim(1, 3), 3).movedim(3, 1)
        return self._reorder(x, 1)

    def _reorder(self, x: Tensor, channels: int) -> Tensor:
        blocks, entries = x.unflatten(channels, (-1, self.group.order)), channels + 1
        return blocks.index_select(entries, self.source).flatten(channels, entries)

    def extra_repr(self) -> str:
        return f"{self.group.name!r}, {self.subgroup.name!r}"
